"""Python functions compiled for the processor that they run on (numba)."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["EXP2_SERIES", "LOG2E", "SOURCES", "Array", "arrays_of", "compiled", "in_threads"]

# The modules of this room that compiled code is made of.
SOURCES = (
    "bfloat16",
    "columns",
    "compiled",
    "fused_cpu",
    "jagged_attention",
    "registers",
    "transposes",
)

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
    process compiles anew. What is kept is known by the processor and by the source of `SOURCES`.
    Sums may be taken in another order; infinities and NaN are kept.
    """
    options: dict[str, Any] = {
        "fastmath": {"contract", "reassoc", "nsz", "arcp"},
        "nogil": True,
        "error_model": "numpy",
    }
    try:
        dispatcher: Any = njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return cast(_Function, njit(**options)(function))
    # numba looks at the function's own file only, and would go on with what the others were. With
    # NUMBA_DISABLE_JIT, for debugging, nothing is compiled.
    if hasattr(dispatcher, "_cache"):
        dispatcher._cache._cache_file._source_stamp = _sources_digest()
    return cast(_Function, dispatcher)


@cache
def _sources_digest() -> str:
    sources = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in SOURCES)
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


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
