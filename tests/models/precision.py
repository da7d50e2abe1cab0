"""Both precisions of training, and how near bfloat16 has to be to a reference in float32.

A tensor is compared as a whole: the norm of the difference against the norm of what is expected. At
5% or less, the cosine of both is over 0.998.
"""

import contextlib

import torch
from torch import Tensor

__all__ = ["PRECISIONS", "assert_rounded", "under"]

PRECISIONS = ("fp32", "bf16")


def under(precision: str) -> contextlib.AbstractContextManager[None]:
    """As in training: matrix products in bfloat16, or all in float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


def assert_rounded(
    actual: Tensor, expected: Tensor, share: float, size: Tensor, name: str = ""
) -> None:
    """The difference is at most `share` of what is expected and `size` together, as norms.

    What terms that cancel leave is as small as their rounding; `size` says how large they are.
    """
    assert actual.dtype == expected.dtype == torch.float32
    wanted = expected.detach().norm()
    difference = (actual - expected).detach().norm()
    assert difference <= share * (wanted + size), f"{name}: {difference} of {wanted}"
