"""Histories taken from memory while requests are written, where all spans fit.

    spans of every part --add--> HeldSpans
    requests that say where their history lies --filled--> requests with their histories

A history is joined to its request only when the request's place in its file is known: until then
the engine sorts and keeps three numbers in place of lists. For the rows, see `histories`.
"""

from collections.abc import Generator, Iterable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.lists import placed_slices, repeated
from pipeline.schema import UNKNOWN_ROW

__all__ = ["HeldSpans"]

TIME = "event_time"

Int64Array = NDArray[np.int64]


class HeldSpans:
    """Spans of the users of a block, in Arrow's memory.

    Args:
        names: the item features, which have a list each beside the times.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._tables: list[pa.Table] = []

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Spans of some users: number, unlike any other, event_time and the features, as lists."""
        # One call, so that parts may be added by several threads.
        self._tables.append(pa.Table.from_batches(list(batches), self._schema))

    def filled(self, requests: Iterable[pa.RecordBatch]) -> Generator[pa.RecordBatch]:
        """`requests` with history_time and history_F.

        They have `span`, `history_start` and `history_end` (none of which is null, nor taken where
        the history is empty) and known_F: rows of features from there on are unknown.
        """
        for batch in requests:
            history = self._histories(batch)
            left_out = {"span", "history_start", "history_end", *_known(self._names).values()}
            kept = {name: batch[name] for name in batch.schema.names if name not in left_out}
            yield pa.RecordBatch.from_pydict({**kept, **history})

    def _histories(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        starts = batch["history_start"].to_numpy()
        lengths = batch["history_end"].to_numpy() - starts
        first = self._first_events(batch["span"])
        offsets, places = placed_slices(first + starts, lengths)
        times = pa.array(self._values[TIME][places], pa.timestamp("us"))
        lists = {"history_time": pa.ListArray.from_arrays(offsets, times)}
        for name, known in _known(self._names).items():
            rows = self._values[name][places]
            rows[rows >= repeated(batch[known], lengths)] = UNKNOWN_ROW
            lists[f"history_{name}"] = pa.ListArray.from_arrays(offsets, pa.array(rows))
        return lists

    def _first_events(self, spans: pa.Array) -> Int64Array:
        """(N,) where the spans of these numbers begin among all events."""
        numbers, firsts = self._index
        if not len(numbers):
            return np.zeros(len(spans), dtype=np.int64)
        places = np.searchsorted(numbers, spans.to_numpy())
        return firsts[np.minimum(places, len(numbers) - 1)]

    @property
    def _schema(self) -> pa.Schema:
        rows = dict.fromkeys(self._names, pa.list_(pa.int64()))
        return pa.schema({"number": pa.int64(), TIME: pa.list_(pa.timestamp("us")), **rows})

    @cached_property
    def _index(self) -> tuple[Int64Array, Int64Array]:
        """(S,) numbers of the spans, ascending, and where the events of each begin."""
        numbers = self._joined["number"].to_numpy()
        order = np.argsort(numbers)
        firsts = self._joined[TIME].offsets.to_numpy()[:-1].astype(np.int64)
        return numbers[order], firsts[order]

    @cached_property
    def _values(self) -> dict[str, Int64Array]:
        """Name -> (E,) what all spans' lists hold, one after the other."""
        lists = {name: self._joined[name] for name in (TIME, *self._names)}
        return {name: values.values.view(pa.int64()).to_numpy() for name, values in lists.items()}

    @cached_property
    def _joined(self) -> dict[str, pa.Array]:
        table = pa.concat_tables(self._tables) if self._tables else self._schema.empty_table()
        self._tables.clear()
        return {name: table[name].combine_chunks() for name in table.column_names}


def _known(names: Sequence[str]) -> dict[str, str]:
    """Feature -> column with its number of rows when the request's day began."""
    return {name: f"known_{name}" for name in names}
