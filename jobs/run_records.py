"""Finished runs as reports read them: what a run's folder says, without the run.

metrics.jsonl, result.json -> RunRecord -> findings, charts, report
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.metrics import RankingResult
from pipeline.errors import CorruptFileError, StageError

__all__ = ["RunRecord", "baseline_records", "load_run", "number"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run, or a baseline, which has a result but no metrics along the way."""

    name: str
    """the strategy ("ST&SF"), the baseline, or the job"""
    metrics: Sequence[Mapping[str, Any]]
    """lines of metrics.jsonl, in order"""
    result: Mapping[str, Any]
    """result.json"""

    def lines(self, kind: str) -> list[Mapping[str, Any]]:
        """The lines of one kind, "train" or "evaluation"."""
        return [line for line in self.metrics if line["kind"] == kind]

    def measured(self, split: str, name: str) -> float:
        """A metric on "validation" or "test"; NaN where it was not measured."""
        return number((self.result.get(split) or {}).get(name))


def number(value: Any) -> float:
    """A JSON number as float, NaN for null or nothing."""
    return math.nan if value is None else float(value)


def load_run(folder: Path) -> RunRecord:
    """Read a finished run's folder; a last metrics line that was cut short does not count.

    Raises:
        StageError: the run has no result: it did not finish.
        CorruptFileError: a file is not what it claims to be.
    """
    folder = Path(folder)
    result_path, metrics_path = folder / "result.json", folder / "metrics.jsonl"
    if not result_path.is_file():
        raise StageError(f"{result_path}: no such file; the run did not finish, run it again")
    result = _parse(result_path.read_text(), result_path)
    text = metrics_path.read_text() if metrics_path.is_file() else ""
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    metrics = [_parse(line, metrics_path) for line in whole]
    name = result.get("strategy") or result.get("job") or folder.name
    return RunRecord(name, metrics, result)


def baseline_records(
    baselines: Mapping[str, Mapping[str, RankingResult]],
) -> list[RunRecord]:
    """Split -> baseline -> result, as `jobs.baselines` gives each split's, in the form of runs."""
    names = dict.fromkeys(name for results in baselines.values() for name in results)
    return [
        RunRecord(
            name,
            (),
            {split: asdict(results[name]) for split, results in baselines.items()},
        )
        for name in names
    ]


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CorruptFileError(f"{path}: not JSON: {error}") from None
