"""What the ledger holds, as values: attempts at stages, and what became of days.

    submitted   recorded, and about to be handed to the scheduler: it may or may not have it yet
    running     the scheduler has it, under `handle`
    succeeded, failed, cancelled
                as the scheduler says
    rejected    it ran to its end, and a gate said no
    lost        the scheduler knows nothing of it, so nobody can say

The first two are live: at most one attempt of a key is, and only a live one may change.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from jobs.runs import differences
from pipeline.digests import texts_digest

__all__ = [
    "LIVE",
    "SETTLED",
    "DayRecord",
    "DayState",
    "EndState",
    "Record",
    "Stage",
    "StageKey",
    "State",
    "difference",
    "moment_text",
]

Stage = Literal["prepare", "test", "pretrain", "export", "rank", "gate", "publish"]
EndState = Literal["succeeded", "failed", "cancelled", "rejected", "lost"]
State = Literal["submitted", "running"] | EndState
DayState = Literal["running", "published", "rejected", "failed", "waiting"]

LIVE: tuple[State, ...] = ("submitted", "running")
SETTLED: tuple[DayState, ...] = ("published", "rejected")
"""states of a day that the next one may follow"""
_NUM_DIFFERENCES = 3


@dataclass(frozen=True, slots=True)
class StageKey:
    """What is done once: a stage of a day, for a task where the stage has one."""

    day: date
    stage: Stage
    task: str = ""

    def __str__(self) -> str:
        return f"{self.day} {self.stage}{f' ({self.task})' if self.task else ''}"

    @property
    def columns(self) -> tuple[str, str, str]:
        """As the ledger's tables hold it."""
        return self.day.isoformat(), self.stage, self.task


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One attempt at a stage."""

    key: StageKey
    attempt: int
    """from 1, per key"""
    state: State = "submitted"
    inputs: Mapping[str, str]
    """name of what it reads -> digest"""
    config: str
    """digest of the settings it runs under"""
    code: str
    """version of the code it runs"""
    handle: str = ""
    """the scheduler's name for it"""
    host: str
    """of the driver that began or adopted it"""
    pid: int
    epoch: int = 0
    """of the lease that it was begun or adopted under; 0: none"""
    error: str = ""
    facts: Mapping[str, Any]
    """what it measured: seconds, AUC, rows"""
    started: datetime
    ended: datetime | None = None

    @property
    def is_live(self) -> bool:
        """Whether it may still be at work."""
        return self.state in LIVE

    @property
    def name(self) -> str:
        """No other attempt has it, and it is known before the scheduler has the attempt."""
        return texts_digest([str(self.key), str(self.attempt), moment_text(self.started)])

    @property
    def driver(self) -> str:
        """Who watches over it."""
        return f"process {self.pid} on {self.host}"

    @property
    def standing(self) -> str:
        """For messages: which it is, and how it stands."""
        handle = f" as {self.handle}" if self.handle else ""
        return f"attempt {self.attempt} at {self.key} is {self.state}{handle}"

    @property
    def columns(self) -> dict[str, str | int]:
        """As the ledger's table holds it, key first."""
        day, stage, task = self.key.columns
        return {
            "day": day,
            "stage": stage,
            "task": task,
            "attempt": self.attempt,
            "state": self.state,
            "inputs": json.dumps(dict(self.inputs), sort_keys=True),
            "config": self.config,
            "code": self.code,
            "handle": self.handle,
            "host": self.host,
            "pid": self.pid,
            "epoch": self.epoch,
            "error": _storable(self.error),
            "facts": _finite_json(self.facts),
            "started": moment_text(self.started),
            "ended": moment_text(self.ended) if self.ended else "",
        }

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> "Record":
        """From a row of the ledger's table."""
        values = dict(columns)
        key = StageKey(
            date.fromisoformat(values.pop("day")), values.pop("stage"), values.pop("task")
        )
        started, ended = values.pop("started"), values.pop("ended")
        inputs, facts = json.loads(values.pop("inputs")), json.loads(values.pop("facts"))
        return cls(
            key=key,
            inputs=inputs,
            facts=facts,
            started=datetime.fromisoformat(started),
            ended=datetime.fromisoformat(ended) if ended else None,
            **values,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRecord:
    """What became of a day, by one change; the newest change is what holds."""

    day: date
    change: int
    """from 1, per day"""
    state: DayState
    note: str
    who: str
    """user, process and host"""
    at: datetime

    @property
    def columns(self) -> dict[str, str | int]:
        """As the ledger's table holds it, key first."""
        return {
            "day": self.day.isoformat(),
            "change": self.change,
            "state": self.state,
            "note": _storable(self.note),
            "who": self.who,
            "at": moment_text(self.at),
        }

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> "DayRecord":
        """From a row of the ledger's table."""
        values = dict(columns)
        day, at = date.fromisoformat(values.pop("day")), datetime.fromisoformat(values.pop("at"))
        return cls(day=day, at=at, **values)


def difference(record: Record | None, inputs: Mapping[str, str], config: str, code: str) -> str:
    """Why an attempt does not make another one needless, in words; empty if it does."""
    if record is None:
        return "never tried"
    if record.state != "succeeded":
        first_line = record.error.partition("\n")[0]
        return f"{record.standing}{f': {first_line}' if first_line else ''}"
    before = {"inputs": dict(record.inputs), "config": record.config, "code": record.code}
    now = {"inputs": dict(inputs), "config": config, "code": code}
    found = list(differences(before, now))
    more = len(found) - _NUM_DIFFERENCES
    return "; ".join(found[:_NUM_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def moment_text(moment: datetime) -> str:
    """A moment in UTC whose texts sort as the moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _storable(text: str) -> str:
    """Without what a database takes in no text: errors quote the output of broken programs."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _finite_json(facts: Mapping[str, Any]) -> str:
    """JSON with null for NaN and infinity, which it does not know."""
    return json.dumps(json.loads(json.dumps(dict(facts)), parse_constant=lambda _: None))
