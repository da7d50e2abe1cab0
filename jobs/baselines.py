"""Rankings that need no training, to hold trained models against, on the same requests.

    item popularity            events of the candidate in the training days
    <feature> in history       events in the user's history that share the candidate's value of it

The scores are counts, so that only their order means something: AUC is reported, and what needs
probabilities (log loss, calibration) is NaN. Requests are read a few thousand at a time.

Legend: R requests of a chunk, H history events, C candidates; I rows of the item table.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.metrics import RankingResult
from pipeline.catalogue import catalogue_folder
from pipeline.partitions import day_folder, file_paths, read_manifest
from pipeline.schema import UNKNOWN_ROW
from pipeline.storage import Location, file_sizes, open_parquet, read_table

__all__ = ["POPULARITY", "baseline_results", "count_in_history", "history_baseline"]

POPULARITY = "item popularity"

_CHUNK_ROWS = 4096

Counts = NDArray[np.int64]


def history_baseline(feature: str) -> str:
    """The name of the baseline that counts the candidate's value of `feature` in the history."""
    return f"{feature} in history"


def baseline_results(
    root: Location,
    days: Sequence[date],
    task: str,
    features: Sequence[str],
    last_training_day: date,
) -> dict[str, RankingResult]:
    """Every baseline's result over the candidates of `days` to which `task` applies.

    `features` are the item features whose values are counted in the history; popularity is that
    by the end of `last_training_day`.
    Popularity is left out without a catalogue, and where requests were brought without sequences:
    then the catalogue counts what was shown as well as what was chosen.

    Raises:
        DataError: a day is missing, or not whole.
    """
    from_events = any(
        file_sizes(day_folder(root, kind, last_training_day)) is not None
        for kind in ("events", "sequences", "tails")
    )
    popularity = _popularity_ranks(root, last_training_day) if from_events else None
    scorers: dict[str, Callable[[pa.RecordBatch], Counts]] = {}
    if popularity is not None:
        scorers[POPULARITY] = lambda chunk: popularity[
            np.minimum(_values(chunk, "candidate_item_id"), len(popularity) - 1)
        ]
    for name in features:
        scorers[history_baseline(name)] = lambda chunk, name=name: _history_counts(chunk, name)
    areas = {name: _ExactArea() for name in scorers}
    for chunk in _chunks(root, days, task, features):
        labels = _labels(chunk, task)
        for name, scorer in scorers.items():
            areas[name].update(scorer(chunk), labels)
    return {name: area.result() for name, area in areas.items()}


def count_in_history(
    history: Counts, history_request: Counts, candidate: Counts, candidate_request: Counts
) -> Counts:
    """How often each candidate's value occurs in its own request's history, (C,).

    history (H,) and candidate (C,) hold values, history_request (H,) and candidate_request (C,)
    the request each belongs to. The unknown value matches nothing.
    """
    num_values = 1 + max(history.max(initial=0), candidate.max(initial=0))
    # One number per (request, value), so that one search answers for all requests.
    keys, counts = np.unique(history_request * num_values + history, return_counts=True)
    if not len(keys):
        return np.zeros(len(candidate), dtype=np.int64)
    wanted = candidate_request * num_values + candidate
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = (keys[position] == wanted) & (candidate != UNKNOWN_ROW)
    return np.where(found, counts[position], 0)


class _ExactArea:
    """AUC of scores that are small whole numbers, exactly: one count per score and label."""

    def __init__(self) -> None:
        # (2, highest score so far + 1): negatives, positives.
        self._counts = np.zeros((2, 1), dtype=np.int64)

    def update(self, scores: Counts, labels: NDArray[Any]) -> None:
        """Take in candidates; labels (C,) are 0, 1, or NaN where the task does not apply."""
        highest = max(self._counts.shape[1], int(scores.max(initial=0)) + 1)
        grown = np.zeros((2, highest), dtype=np.int64)
        grown[:, : self._counts.shape[1]] = self._counts
        for label in (0, 1):
            grown[label] += np.bincount(scores[labels == label], minlength=highest)
        self._counts = grown

    def result(self) -> RankingResult:
        """The result of everything taken in so far."""
        negatives, positives = self._counts.astype(np.float64)
        num_pairs = negatives.sum() * positives.sum()
        right = (positives * (np.cumsum(negatives) - negatives / 2)).sum()
        return RankingResult(
            auc=float(right / num_pairs) if num_pairs else math.nan,
            auc_error=0.0 if num_pairs else math.nan,
            log_loss=math.nan,
            normalized_entropy=math.nan,
            calibration=math.nan,
            num_samples=int(self._counts.sum()),
            num_positives=int(self._counts[1].sum()),
        )


def _popularity_ranks(root: Location, day: date) -> Counts | None:
    """Item row -> rank of its count among all counts, (I,): a small whole number."""
    folder = catalogue_folder(root, day)
    if file_sizes(folder) is None:
        return None
    paths = file_paths(folder, read_manifest(folder))
    if not paths:
        return np.zeros(1, dtype=np.int64)
    table = read_table(paths, columns=["item_id", "count"])
    items, counts = table["item_id"].to_numpy(), table["count"].to_numpy()
    # One entry more than items, of count 0: rows beyond the catalogue were never seen.
    by_row = np.zeros(items.max(initial=0) + 2, dtype=np.int64)
    by_row[items] = counts
    return np.unique(by_row, return_inverse=True)[1].astype(np.int64)


def _chunks(
    root: Location, days: Sequence[date], task: str, features: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    counted = [f"{side}_{name}" for name in features for side in ("history", "candidate")]
    columns = list(dict.fromkeys([f"label_{task}", "candidate_item_id", *counted]))
    for day in days:
        folder = day_folder(root, "requests", day)
        for path in file_paths(folder, read_manifest(folder)):
            with open_parquet(path) as file:
                yield from file.iter_batches(_CHUNK_ROWS, columns=columns)


def _history_counts(chunk: pa.RecordBatch, name: str) -> Counts:
    columns = f"history_{name}", f"candidate_{name}"
    history, candidate = (_values(chunk, column) for column in columns)
    history_request, candidate_request = (_requests(chunk, column) for column in columns)
    return count_in_history(history, history_request, candidate, candidate_request)


def _values(chunk: pa.RecordBatch, column: str) -> Counts:
    """All the lists' values, list after list."""
    return chunk[column].flatten().to_numpy()


def _requests(chunk: pa.RecordBatch, column: str) -> Counts:
    """For each of the lists' values the number of its list."""
    lengths = pc.list_value_length(chunk[column]).to_numpy()
    return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)


def _labels(chunk: pa.RecordBatch, task: str) -> NDArray[Any]:
    """0, 1, or NaN for each candidate, (C,)."""
    labels = chunk[f"label_{task}"].flatten().cast(pa.float32())
    return pc.fill_null(labels, math.nan).to_numpy()
