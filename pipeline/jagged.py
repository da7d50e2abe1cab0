"""Jagged rows as flat arrays with offsets, and picking any of them without a loop over rows.

`pipeline.decode` makes `Rows` of a row group and turns picked rows into a batch. Picking rows in
any order, with lists cut to their last values, is one gather a column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Jagged", "Pick", "Rows", "gather_lists", "gather_row_ids", "gather_scalars"]

Array = NDArray[Any]


class Jagged(NamedTuple):
    """Several list columns whose lists have one length in each row."""

    offsets: Array
    """(R+1,) int64: row r has values offsets[r] to offsets[r+1]"""
    values: dict[str, Array]
    """column -> (T,) values, row after row"""


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class Rows:
    """Consecutive rows of a file as flat arrays that share Arrow's memory."""

    lists: tuple[Jagged, ...]
    scalars: dict[str, Array]
    """column -> (R,) values"""
    first_row: int
    """the first row's number in the data set"""

    @property
    def lengths(self) -> Array:
        """(R,) values in a row, over all groups of lists."""
        return sum(np.diff(group.offsets) for group in self.lists)  # type: ignore[return-value]


class Pick(NamedTuple):
    """Rows to put into a batch: (R,) row numbers within `rows`, in any order."""

    rows: Rows
    indices: Array


def gather_lists(picks: Sequence[Pick], *, group: int, keep_last: int | None = None) -> Jagged:
    """The picked rows' lists, one after another, each cut to its last `keep_last` values."""
    lengths, pieces = [], []
    for rows, indices in picks:
        source = rows.lists[group]
        ends = source.offsets[indices + 1]
        length = ends - source.offsets[indices]
        if keep_last is not None:
            length = np.minimum(length, keep_last)
        positions = _ranges(ends - length, length)
        pieces.append({name: values.take(positions) for name, values in source.values.items()})
        lengths.append(length)
    names = pieces[0]
    values = {name: np.concatenate([piece[name] for piece in pieces]) for name in names}
    return Jagged(_starts(np.concatenate(lengths)), values)


def gather_scalars(picks: Sequence[Pick], column: str) -> Array:
    """(R,) values of the picked rows."""
    return np.concatenate([rows.scalars[column][indices] for rows, indices in picks])


def gather_row_ids(picks: Sequence[Pick]) -> Array:
    """(R,) int64 numbers of the picked rows in the data set."""
    return np.concatenate([rows.first_row + indices for rows, indices in picks])


def _ranges(starts: Array, lengths: Array) -> Array:
    """starts[0], starts[0]+1, ... (lengths[0] of them), starts[1], ... as one int64 array."""
    offsets = _starts(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


def _starts(lengths: Array) -> Array:
    """(R+1,) int64 offsets of lists with (R,) lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
