"""Python functions compiled for the processor that they run on (numba)."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["EXP2_SERIES", "LOG2E", "Array", "arrays_of", "compiled", "in_threads"]

Array = NDArray[Any]

LOG2E = np.float32(1.4426950408889634)
# 2^x on [-0.5, 0.5], to float32's precision: the series of exp(x ln 2), from its first power on.
EXP2_SERIES = (
    np.float32(0.6931471805599453),
    np.float32(0.2402265069591007),
    np.float32(0.05550410866482158),
    np.float32(0.009618129107628477),
    np.float32(0.0013333558146428443),
    np.float32(0.00015403530393381608),
)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compiled at its first call, and kept beside its file or in the user's cache for the next.

    `NUMBA_CACHE_DIR` names another place; where there is none that can be written to, every
    process compiles anew. What is kept is known by the processor and by the file that the function
    is in: who edits a file that it calls must touch that one too, an installation writes all of
    them. Sums may be taken in another order; infinities and NaN are kept.
    """
    options: dict[str, Any] = {
        "fastmath": {"contract", "reassoc", "nsz", "arcp"},
        "nogil": True,
        "error_model": "numpy",
    }
    try:
        return cast(_Function, njit(cache=True, **options)(function))
    except RuntimeError:  # no folder can be written to
        return cast(_Function, njit(**options)(function))


def arrays_of(*tensors: Tensor) -> list[Array]:
    """NumPy knows no bfloat16, so those go as the integers that their bits are."""
    return [
        (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        for tensor in tensors
    ]


def in_threads(function: Callable[..., None], shares: Sequence[Sequence[Any]]) -> None:
    """Call a compiled function with each share of the arguments, all at once."""
    first, *others = shares
    if not others:
        function(*first)
        return
    pool = _pool_of(os.getpid(), len(others))
    begun = [pool.submit(function, *share) for share in others]
    try:
        function(*first)
    finally:
        wait(begun)
    for done in begun:
        done.result()


@cache
def _pool_of(process: int, num_threads: int) -> ThreadPoolExecutor:  # noqa: ARG001 (see below)
    """Kept, as starting threads costs as much as a small function; a fork has no parent's."""
    return ThreadPoolExecutor(num_threads, "compiled")
