"""What a stage measured, read from what it left: for the ledger and for Prometheus.

Job, its ledger record -> StageFacts
"""

import json
import math
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, Literal

from jobs.chain.stage_job import Job
from jobs.judgements import NEW_ITEMS, judgement_path
from jobs.ledger.records import Record
from jobs.metrics import RankingResult
from jobs.monitoring.facts import StageFacts, with_data, with_export, with_result, with_training

__all__ = ["facts_of", "measured", "read_judgement"]


def facts_of(
    job: Job, record: Record, state: Literal["running", "succeeded", "failed", "rejected"]
) -> StageFacts:
    """Of a stage that starts, or that has ended just now."""
    facts = StageFacts(
        state=state,
        data_day=job.day,
        started=record.started,
        ended=None if state == "running" else datetime.now(UTC),
        attempts=record.attempt,
    )
    if job.stage == "prepare" and state != "running":
        # Also of a day that its checks stopped: the figures say why.
        return with_data(facts, job.settings.data.root)
    if state != "succeeded":
        return facts
    if job.stage in ("pretrain", "rank"):
        return with_training(facts, job.folder)
    if job.stage == "export":
        return with_export(facts, job.settings.export_folder)
    return _with_judgement(facts, job)


def measured(facts: StageFacts) -> dict[str, float]:
    """The numbers that there are, for the ledger."""
    values = {item.name: getattr(facts, item.name) for item in fields(facts)}
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def read_judgement(job: Job) -> dict[str, Any]:
    """What a judging stage wrote: day of each model -> its figures, oldest first."""
    path = judgement_path(job.settings, job.settings.judging.name)
    return json.loads(path.read_text())["models"]


def _with_judgement(facts: StageFacts, job: Job) -> StageFacts:
    models = list(read_judgement(job).values())
    results = [_result(found["all"]) for found in models]
    published = results[0] if job.stage == "gate" and len(results) > 1 else None
    facts = with_result(facts, results[-1], published)
    new_items = models[-1][NEW_ITEMS]
    if new_items["num_samples"] == results[-1].num_samples:
        # All are new, in the first days of a log: then it is the AUC itself.
        return facts
    return replace(facts, new_item_auc=new_items["auc"])


def _result(found: dict[str, Any]) -> RankingResult:
    """JSON has null for NaN."""
    numbers: dict[str, Any] = {k: math.nan if v is None else v for k, v in found.items()}
    return RankingResult(**numbers)
