"""Uniform negatives that depend on seed, step and row alone, never on how work is spread.

Two ranks draw what one would have drawn, and a resumed run draws what the first one drew: numbers
come from a counter-based generator (SplitMix64, Steele et al. 2014) instead of a stateful one.
"""

from typing import Literal

import torch
from torch import Tensor

from pipeline.schema import UNKNOWN_ROW

__all__ = ["UniformNegatives"]

_WEYL = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


class UniformNegatives:
    """Draws rows 1 to num_rows - 1 uniformly, with replacement (paper, section 4.1)."""

    def __init__(
        self,
        *,
        num_rows: int,
        num_negatives: int,
        share: Literal["sequence", "batch"],
        seed: int,
    ) -> None:
        self.num_rows = num_rows
        self.num_negatives = num_negatives
        self.share = share
        self.seed = seed

    def draw(self, step: int, row_ids: Tensor) -> Tensor:
        """Negatives for the sequences `row_ids` (S,) at `step`.

        Shape (S, N) when each sequence has its own, (1, N) when the whole global batch shares
        them (then they are equal on all ranks).
        """
        device = row_ids.device
        key = _mix(torch.tensor([self.seed], device=device)) ^ step
        if self.share == "sequence":
            key = _mix(key) ^ row_ids
        counter = torch.arange(1, self.num_negatives + 1, device=device) * _WEYL
        bits = _mix(_mix(key)[:, None] + counter)
        # Modulo bias is below num_rows / 2^63.
        return (bits & (2**63 - 1)) % (self.num_rows - 1) + (UNKNOWN_ROW + 1)


def _mix(values: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose arithmetic wraps like unsigned."""
    values = (values ^ _shift_right(values, 30)) * _MIX_1
    values = (values ^ _shift_right(values, 27)) * _MIX_2
    return values ^ _shift_right(values, 31)


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's is arithmetic, so the sign bits that it drags in are cleared."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
