"""Sorting rows that carry lists, beyond memory: rows go to buckets on disk, buckets are sorted.

For `duckdb_engine`: to merge sorted runs an engine holds a few thousand rows of each, which is more
than its memory where a row is a history of a hundred events. Here one bucket is held at a time.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["sorted_batches"]

Key = tuple[Any, ...]


def sorted_batches(
    batches: Iterable[pa.RecordBatch],
    keys: Sequence[str],
    bounds: Sequence[Key],
    folder: Path,
    batch_rows: int,
) -> Iterator[pa.RecordBatch]:
    """The rows in ascending order of the columns `keys`, which have no nulls.

    Bucket i holds the rows from `bounds[i - 1]` up to `bounds[i]`; `folder` is made, used and left.
    """
    folder.mkdir()
    paths = [folder / f"{number:04d}.arrow" for number in range(len(bounds) + 1)]
    _distribute(batches, keys, bounds, paths)
    for path in paths:
        if path.exists():
            yield from _sorted_bucket(path, keys).to_batches(batch_rows)
            path.unlink()


def _distribute(
    batches: Iterable[pa.RecordBatch],
    keys: Sequence[str],
    bounds: Sequence[Key],
    paths: Sequence[Path],
) -> None:
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    with ExitStack() as opened:
        for batch in batches:
            for number, rows in _by_bucket(_buckets(batch, keys, bounds)):
                if number not in writers:
                    writer = pa.ipc.new_file(paths[number], batch.schema)
                    writers[number] = opened.enter_context(writer)
                writers[number].write_batch(batch.take(rows))


def _buckets(
    batch: pa.RecordBatch, keys: Sequence[str], bounds: Sequence[Key]
) -> NDArray[np.int64]:
    """(N,) each row's bucket."""
    rows = zip(*(batch[key].to_pylist() for key in keys), strict=True)
    return np.array([bisect_right(bounds, row) for row in rows], dtype=np.int64)


def _by_bucket(numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(bucket, its rows) of the buckets that occur."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, starts[1:]), strict=True)


def _sorted_bucket(path: Path, keys: Sequence[str]) -> pa.Table:
    with pa.ipc.open_file(path) as file:
        table = file.read_all()
    return table.sort_by([(key, "ascending") for key in keys])
