"""What there is to tell of one stage of one day, gathered from what the stage left on disk.

    StageFacts --with_data, with_training, with_result, with_export--> jobs.monitoring.push

The daily driver makes them, when it starts a stage and when the stage has ended.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from embeddings.manifests import read_export
from jobs.checkpoint_files import checkpoints_in
from jobs.metrics import RankingResult
from jobs.monitoring.metrics import GATES, RUN_STATES, STAGE_METRICS, STAGES, Sample
from jobs.runs import RunFolder
from pipeline.data_report import (
    EventsReport,
    RequestsReport,
    read_report,
    report_days,
    report_path,
)

__all__ = [
    "StageFacts",
    "serving_sample",
    "with_data",
    "with_export",
    "with_result",
    "with_training",
]

_BYTES = {"fp32": 4, "fp16": 2}
# Days on which a task's labels are looked for: more than any window takes to close.
_LABEL_DAYS = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFacts:
    """One stage of one day; what is None was not measured and is not told.

    The numbers have the names of `jobs.monitoring.metrics.STAGE_METRICS`, which say what they are.
    """

    state: Literal["running", "succeeded", "failed", "rejected"]
    data_day: date
    """the day that the stage is about"""
    started: datetime
    """with time zone"""
    ended: datetime | None = None
    """with time zone; None while it runs"""
    attempts: int = 1

    event_rows: float | None = None
    set_aside_rows: float | None = None
    request_rows: float | None = None
    candidate_rows: float | None = None
    new_item_ratio: float | None = None
    label_ratios: Mapping[str, float] = field(default_factory=dict)
    """task -> share of positives, on the newest day whose labels are known"""

    run_steps: float | None = None
    run_samples: float | None = None
    run_training_seconds: float | None = None
    checkpoint_bytes: float | None = None

    evaluated_rows: float | None = None
    auc: float | None = None
    log_loss: float | None = None
    normalized_entropy: float | None = None
    calibration_ratio: float | None = None
    new_item_auc: float | None = None
    published_auc: float | None = None
    published_log_loss: float | None = None
    published_calibration_ratio: float | None = None

    table_rows: float | None = None
    table_known_rows: float | None = None
    table_new_rows: float | None = None
    table_bytes: float | None = None
    table_norm: float | None = None
    table_drift_ratio: float | None = None
    export_tables: float | None = None
    export_bytes: float | None = None

    serving_day: date | None = None
    """whose models serve, since they were published"""
    gates: Mapping[str, bool] = field(default_factory=dict)
    """which of `jobs.monitoring.metrics.GATES` the candidate passed"""

    def samples(self, stage: str, task: str) -> Iterator[Sample]:
        """All of it under the labels of a stage and a task ("" where it is about none)."""
        assert stage in STAGES, stage
        unknown = self.gates.keys() - GATES.keys()
        assert not unknown, f"no gates of jobs.monitoring.metrics: {unknown}"
        for name, value in self._values().items():
            yield Sample(STAGE_METRICS[name], (stage, task), value)
        for name, ratio in self.label_ratios.items():
            yield Sample(STAGE_METRICS["label_ratio"], (stage, name), ratio)

    def _values(self) -> dict[str, float]:
        day_s = _start_s(self.data_day)
        values = {
            "run_state": float(RUN_STATES[self.state]),
            "run_attempts": float(self.attempts),
            "run_start_timestamp_seconds": self.started.timestamp(),
            "run_day_timestamp_seconds": day_s,
        }
        if self.ended is not None:
            values["run_end_timestamp_seconds"] = self.ended.timestamp()
            values["run_duration_seconds"] = (self.ended - self.started).total_seconds()
            if self.state == "succeeded":
                values["last_success_timestamp_seconds"] = self.ended.timestamp()
                values["data_day_timestamp_seconds"] = day_s
        if self.serving_day is not None:
            values["serving_day_timestamp_seconds"] = _start_s(self.serving_day)
        values |= {f"gate_{name}_passed": float(passed) for name, passed in self.gates.items()}
        measured = {f.name: getattr(self, f.name) for f in fields(self) if f.name in STAGE_METRICS}
        return values | {name: float(n) for name, n in measured.items() if n is not None}


def serving_sample(day: date) -> Sample:
    """Whose models serve, where nothing else is to be told: after a rollback."""
    return Sample(STAGE_METRICS["serving_day_timestamp_seconds"], ("publish", ""), _start_s(day))


def _start_s(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def with_data(facts: StageFacts, root: Path) -> StageFacts:
    """What the data report says of the day; unchanged where there is none.

    Raises:
        CorruptFileError: a report that is none of this version.
    """
    events = read_report(report_path(root, facts.data_day, "events"), EventsReport)
    requests = read_report(report_path(root, facts.data_day, "requests"), RequestsReport)
    if events is not None:
        aside = sum(events.set_aside.values())
        facts = replace(facts, event_rows=events.events.rows, set_aside_rows=aside)
    if requests is not None:
        facts = replace(
            facts,
            request_rows=requests.counts.get("requests"),
            candidate_rows=requests.counts.get("candidates"),
            new_item_ratio=requests.new_item_share,
            label_ratios=_label_ratios(root, facts.data_day),
        )
    return facts


def _label_ratios(root: Path, day: date) -> dict[str, float]:
    """Of each task on the latest day that has labels: the windows of the newest days are open."""
    ratios: dict[str, float] = {}
    days = [other for other in report_days(root) if other <= day]
    for other in days[-_LABEL_DAYS:]:
        requests = read_report(report_path(root, other, "requests"), RequestsReport)
        rates = requests.label_rates if requests is not None else {}
        ratios |= {task: rate for task, rate in rates.items() if rate is not None}
    return ratios


def with_training(facts: StageFacts, folder: Path) -> StageFacts:
    """What a run of pretrain or rank left; its checkpoint alone where it did not finish.

    Of a run that goes on from an earlier one, also how the tables that it trains have grown.
    """
    run = RunFolder(folder)
    written = checkpoints_in(run.checkpoints, "step")
    if written:
        num_bytes = sum(file.stat().st_size for file in written[-1].iterdir())
        facts = replace(facts, checkpoint_bytes=num_bytes)
    if run.is_finished:
        result = json.loads((folder / "result.json").read_text())
        facts = replace(
            facts,
            run_steps=result["steps"],
            run_samples=result["samples"],
            run_training_seconds=result["train_seconds"],
        )
        earlier = result.get("continued_from") or {}
        grown = earlier.get("tables", {}).values()
        if grown:
            facts = replace(
                facts,
                table_rows=sum(table["capacity"] for table in grown),
                table_known_rows=sum(table["rows"] for table in grown),
                table_new_rows=sum(table["rows"] - table["rows_before"] for table in grown),
            )
    return facts


def with_result(
    facts: StageFacts, result: RankingResult, published: RankingResult | None = None
) -> StageFacts:
    """What a model was measured at, and the published one on the same requests."""
    facts = replace(
        facts,
        evaluated_rows=result.num_samples,
        auc=result.auc,
        log_loss=result.log_loss,
        normalized_entropy=result.normalized_entropy,
        calibration_ratio=result.calibration,
    )
    if published is None:
        return facts
    return replace(
        facts,
        published_auc=published.auc,
        published_log_loss=published.log_loss,
        published_calibration_ratio=published.calibration,
    )


def with_export(facts: StageFacts, folder: Path) -> StageFacts:
    """The size of an export's tables and files.

    Raises:
        ExportError: it is not whole.
    """
    tables = read_export(folder).tables.values()
    return replace(
        facts,
        export_tables=len(tables),
        export_bytes=sum(file.num_bytes for table in tables for file in table.files),
        table_rows=sum(table.num_rows for table in tables),
        table_bytes=sum(table.num_rows * table.dim * _BYTES[table.dtype] for table in tables),
    )
