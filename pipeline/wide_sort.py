"""Sorting rows that carry lists, beyond memory: rows go to buckets on disk, buckets are sorted.

For `duckdb_engine`: to merge sorted runs an engine holds a few thousand rows of each, which is more
than its memory where a row is a history of a hundred events. Here one bucket is held at a time.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
from ibis.expr.types import NumericValue, Table
from numpy.typing import NDArray

from pipeline.engine import Engine

__all__ = ["bucket_bounds", "sorted_batches"]

# All are open at once.
MAX_BUCKETS = 256

Key = tuple[Any, ...]


def bucket_bounds(
    engine: Engine, rows: Table, keys: Sequence[str], bucket_bytes: float
) -> list[Key]:
    """Where buckets of about that size begin, but the first; none where one is enough."""
    (counts,) = engine.rows_of(rows.agg(rows=rows.count(), num_bytes=_num_bytes(rows)))
    num_buckets = (counts["num_bytes"] or 0) / bucket_bytes
    if num_buckets <= 1:
        return []
    size = math.ceil(counts["rows"] / min(math.ceil(num_buckets), MAX_BUCKETS))
    order = [rows[key] for key in keys]
    placed = rows.select(*keys, place=ibis.row_number().over(order_by=order))
    placed = placed.filter(placed.place > 0, placed.place % size == 0)
    found = engine.rows_of(placed.order_by("place"))
    return [tuple(row[key] for key in keys) for row in found]


def _num_bytes(table: Table) -> NumericValue:
    """About how much memory the rows take."""
    sizes: list[NumericValue] = []
    for name, dtype in table.schema().items():
        if dtype.is_array():
            of_value = 24 if dtype.value_type.is_string() else 8
            sizes.append((table[name].length() * of_value).sum())
        else:
            sizes.append(table.count() * 24)
    return sum(sizes[1:], sizes[0])


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
