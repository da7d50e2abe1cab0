"""One stream of rows in day order, published as one folder per day.

Cleaning, sequences and requests all end here: the engine computes all days in one query, ordered
by day, and each day becomes visible as soon as its last row has been read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.partitions import Contents, day_folder, publish

__all__ = ["publish_days", "split_by_day"]


def split_by_day(
    batches: Iterable[pa.RecordBatch],
) -> Iterator[tuple[date, Iterator[pa.RecordBatch]]]:
    """Group a stream whose column `day` ascends; like itertools.groupby, one pass, no copies."""
    pieces = (piece for batch in batches for piece in _day_pieces(batch))
    for day, group in groupby(pieces, key=itemgetter(0)):
        yield day, map(itemgetter(1), group)


def _day_pieces(batch: pa.RecordBatch) -> Iterator[tuple[date, pa.RecordBatch]]:
    runs = pc.run_end_encode(batch["day"], run_end_type=pa.int64())
    start = 0
    for day, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield day, batch.slice(start, end - start)
        start = end


def publish_days(
    root: Path,
    batches: Iterable[pa.RecordBatch],
    contents: Mapping[date, Contents],
    schema: pa.Schema,
    row_group_rows: int,
    tick: Callable[[], None],
) -> None:
    """Publish every day of `contents`; days without rows in the stream are published empty.

    `batches` has the schema's columns and `day`, which ascends; `tick` is called after each day.
    """
    waiting = dict(contents)

    def finish(day: date, rows: Iterable[pa.RecordBatch]) -> None:
        made = waiting.pop(day)
        publish(day_folder(root, made.kind, day), made, schema, rows, row_group_rows)
        tick()

    for day, rows in split_by_day(batches):
        finish(day, rows)
    for day in list(waiting):
        finish(day, ())
