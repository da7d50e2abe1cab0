"""Which rows make which batch: numbers in, numbers out, no files.

All row groups of all files, numbered in the order of days and files, are put in the epoch's order,
and the rows of each in an order of their own; joined, that is one sequence of all rows. Each of
`lanes` lanes owns one contiguous range of it and gives `batch_size / lanes` rows a step:

    epoch's sequence   |--- lane 0 ---|--- lane 1 ---|--- lane 2 ---| ...
    step k              rows k*b..k*b+b of every lane, b = batch_size / lanes
    rank r              lanes r, r + world_size, r + 2 * world_size, ...

So the rows of a step are the same at any world size, each row comes exactly once an epoch, and
(epoch, step) is all a reader has to remember. Everything here costs O(row groups); only
`row_permutation` costs O(rows), of one row group.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

__all__ = [
    "Segment",
    "epoch_order",
    "lane_range",
    "lane_segments",
    "lanes_of_rank",
    "row_permutation",
    "segments_by_step",
    "steps_per_epoch",
]

Int64Array = NDArray[np.int64]


class Segment(NamedTuple):
    """Offsets `first` to `last` (exclusive) of a row group's rows, in their order of the epoch."""

    row_group: int
    first: int
    last: int


def epoch_order(num_row_groups: int, seed: int | None, epoch: int) -> Int64Array:
    """(num_row_groups,) numbers of the row groups as the epoch visits them; no seed: 0, 1, 2 ..."""
    return _permutation(num_row_groups, seed, (epoch, 0))


def row_permutation(num_rows: int, seed: int | None, epoch: int, row_group: int) -> Int64Array:
    """(num_rows,) rows of one row group as the epoch visits them; no seed: 0, 1, 2 ..."""
    return _permutation(num_rows, seed, (epoch, 1 + row_group))


def _permutation(size: int, seed: int | None, key: tuple[int, int]) -> Int64Array:
    if seed is None:
        return np.arange(size)
    # NumPy promises the same raw bits for ever, but not the same `Generator.permutation`; a
    # resumed run may meet another NumPy. The keys go in as a spawn key because SeedSequence pads
    # plain entropy with zeros, so that [1, 2] and [1, 2, 0] would be one seed.
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)).random_raw(size)
    return np.argsort(bits, kind="stable")


def lane_range(num_rows: int, lanes: int, lane: int) -> tuple[int, int]:
    """First and last (exclusive) position of a lane; lanes differ by at most one row."""
    return lane * num_rows // lanes, (lane + 1) * num_rows // lanes


def lanes_of_rank(lanes: int, world_size: int, rank: int) -> range:
    """The lanes that a rank serves.

    Raises:
        ConfigError: there are more ranks than lanes, so that some rank would have none.
    """
    if world_size > lanes:
        raise ConfigError(
            f"reader.lanes: {lanes} lanes cannot feed {world_size} ranks; set it to a multiple of "
            f"{world_size} (which changes the order of rows, so not in the middle of a run)"
        )
    return range(rank, lanes, world_size)


def steps_per_epoch(num_rows: int, lanes: int, batch_size: int) -> int:
    """Steps until the longest lane is empty; only the last ones may be short of rows."""
    longest = -(-num_rows // lanes)
    return -(-longest // (batch_size // lanes))


def lane_segments(
    row_group_rows: Int64Array,
    order: Int64Array,
    *,
    lanes: int,
    lane: int,
    batch_size: int,
    first_step: int = 0,
) -> list[Segment]:
    """What a lane reads from `first_step` to the end of the epoch, in order.

    Args:
        row_group_rows: (G,) number of rows of each row group.
        order: (G,) the epoch's order of row groups, from `epoch_order`.
        lanes: how many lanes share the epoch.
        lane: which of them.
        batch_size: rows of a step over all lanes, a multiple of `lanes`.
        first_step: the first step still to read.
    """
    ends = np.cumsum(row_group_rows[order])
    first, last = lane_range(int(ends[-1]) if len(ends) else 0, lanes, lane)
    first += first_step * (batch_size // lanes)
    if first >= last:
        return []
    visits = slice(np.searchsorted(ends, first, "right"), np.searchsorted(ends, last, "left") + 1)
    groups, group_ends = order[visits], ends[visits]
    starts = group_ends - row_group_rows[groups]
    firsts = np.maximum(first - starts, 0)
    lasts = np.minimum(last, group_ends) - starts
    segments = map(Segment, groups.tolist(), firsts.tolist(), lasts.tolist())
    return [segment for segment in segments if segment.first < segment.last]


def segments_by_step(segments: Iterable[Segment], rows_per_step: int) -> Iterator[list[Segment]]:
    """Cut a lane's segments into steps of `rows_per_step` rows; the last may be shorter."""
    step: list[Segment] = []
    missing = rows_per_step
    for row_group, start, last in segments:
        first = start
        while first < last:
            cut = min(last, first + missing)
            step.append(Segment(row_group, first, cut))
            missing -= cut - first
            first = cut
            if missing == 0:
                yield step
                step, missing = [], rows_per_step
    if step:
        yield step
