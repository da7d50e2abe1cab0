"""Candidates kept in memory while their requests are made and put in order.

    sorted candidates in lists --kept--> HeldCandidates, and where each request's lie
    requests that say where their candidates lie --filled--> requests with their candidates

As with `held_spans`: until a request's place in its file is known, the engine joins, sorts and
keeps two numbers in place of lists.
"""

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.lists import placed_slices, repeated
from pipeline.schema import UNKNOWN_ROW

__all__ = ["HeldCandidates"]

Int64Array = NDArray[np.int64]
# Of a label that is null.
NO_LABEL = -1
PLACES = ("candidates_start", "candidates_end")


class HeldCandidates:
    """Candidates of the requests of a block, one request's after the other's.

    Args:
        names: the item features; a candidate has a row of each.
        final: task -> the days whose labels are final; on others they are null.
    """

    def __init__(self, names: Sequence[str], final: Mapping[str, Collection[date]]) -> None:
        self._names = list(names)
        self._final = {task: np.array(list(days), "datetime64[D]") for task, days in final.items()}
        self._lock = Lock()
        self._num_kept = 0
        columns = {f"candidate_{name}": np.zeros(0, np.int64) for name in names}
        columns |= {f"label_{task}": np.zeros(0, np.int8) for task in final}
        self._pieces: dict[str, list[NDArray[Any]]] = {n: [empty] for n, empty in columns.items()}

    def kept(self, lists: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Keep the lists candidate_F and label_T; in their place say where they are.

        Several threads may do so.
        """
        for batch in lists:
            offsets = batch["candidate_item_id"].offsets.to_numpy() + self._keep(batch)
            columns = {name: batch[name] for name in batch.schema.names if name not in self._pieces}
            places = zip(PLACES, (offsets[:-1], offsets[1:]), strict=True)
            columns |= {name: pa.array(values, pa.int64()) for name, values in places}
            yield pa.RecordBatch.from_pydict(columns)

    def kept_schema(self, lists: pa.Schema) -> pa.Schema:
        """What `kept` makes of batches of this schema."""
        others = [field for field in lists if field.name not in self._pieces]
        return pa.schema([*others, *(pa.field(name, pa.int64()) for name in PLACES)])

    def _keep(self, batch: pa.RecordBatch) -> int:
        """Where the first one is among all."""
        # Copies: one column of the engine's batch keeps the others in memory too.
        found = {name: np.array(batch[name].values.fill_null(NO_LABEL)) for name in self._pieces}
        with self._lock:
            start = self._num_kept
            self._num_kept += len(found["candidate_item_id"])
            for name, values in found.items():
                self._pieces[name].append(values)
        return start

    def filled(self, requests: Iterable[pa.RecordBatch]) -> Generator[pa.RecordBatch]:
        """`requests` with candidate_F and label_T.

        They have day, candidates_start, candidates_end and known_F: rows of features from there on
        are unknown.
        """
        for batch in requests:
            kept = {name: batch[name] for name in batch.schema.names if name not in PLACES}
            lengths, offsets, places = _slices(batch)
            lists = {
                f"candidate_{name}": pa.array(self._rows(batch, name, lengths, places))
                for name in self._names
            }
            for task in self._final:
                labels = self._labels(batch, task, lengths, places)
                lists[f"label_{task}"] = pa.array(labels, mask=labels == NO_LABEL)
            kept |= {n: pa.ListArray.from_arrays(offsets, values) for n, values in lists.items()}
            yield pa.RecordBatch.from_pydict(kept)

    def counts(self, requests: Iterable[pa.RecordBatch]) -> dict[date, Counter[str]]:
        """Day -> new_item_candidates, label_T_applies and label_T_positives of such requests."""
        counts: dict[date, Counter[str]] = {}
        for batch in requests:
            lengths, _, places = _slices(batch)
            items = self._rows(batch, "item_id", lengths, places)
            found = {"new_item_candidates": items == UNKNOWN_ROW}
            for task in self._final:
                labels = self._labels(batch, task, lengths, places)
                found[f"label_{task}_applies"] = labels != NO_LABEL
                found[f"label_{task}_positives"] = labels == 1
            days, of_request = np.unique(_days(batch), return_inverse=True)
            of_candidate = np.repeat(of_request, lengths)
            for name, is_counted in found.items():
                sums = np.bincount(of_candidate[is_counted], minlength=len(days))
                for day, number in zip(days.tolist(), sums.tolist(), strict=True):
                    counts.setdefault(day, Counter())[name] += number
        return counts

    def _rows(
        self, batch: pa.RecordBatch, name: str, lengths: Int64Array, places: Int64Array
    ) -> Int64Array:
        """(C,) rows of a feature, unknown where they were when the request's day began."""
        rows = self._values[f"candidate_{name}"][places]
        rows[rows >= repeated(batch[f"known_{name}"], lengths)] = UNKNOWN_ROW
        return rows

    def _labels(
        self, batch: pa.RecordBatch, task: str, lengths: Int64Array, places: Int64Array
    ) -> NDArray[np.int8]:
        """(C,) labels of a task."""
        is_final = np.isin(_days(batch), self._final[task])
        labels = self._values[f"label_{task}"][places]
        if not is_final.all():
            labels[~np.repeat(is_final, lengths)] = NO_LABEL
        return labels

    @cached_property
    def _values(self) -> dict[str, NDArray[Any]]:
        """Name -> (C,) of all candidates."""
        return {name: np.concatenate(self._pieces.pop(name)) for name in list(self._pieces)}


def _slices(batch: pa.RecordBatch) -> tuple[Int64Array, pa.Array, Int64Array]:
    starts = batch["candidates_start"].to_numpy()
    lengths = batch["candidates_end"].to_numpy() - starts
    return lengths, *placed_slices(starts, lengths)


def _days(batch: pa.RecordBatch) -> NDArray[np.datetime64]:
    return batch["day"].to_numpy(zero_copy_only=False).astype("datetime64[D]")
