"""Runs one stage of a day: looks into the ledger, submits, watches, records how it ended.

    Job --ledger: done already?--> submitted --ledger: running--> ended --ledger, Prometheus-->

Work that the ledger says is done on the same inputs is not done again. Work that a killed driver
left in a scheduler's hands is watched to its end instead of being started twice.
"""

import fcntl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from torchx.runner import Runner
from torchx.schedulers.local_scheduler import SignalException
from torchx.specs import AppState

from jobs.chain.plan import Job
from jobs.chain.stage_facts import facts_of, measured
from jobs.launch import Submission, reason_of, submit, watch
from jobs.ledger import Ledger
from jobs.ledger_leases import Lease
from jobs.ledger_records import EndState, Record, Stage
from jobs.monitoring_facts import StageFacts
from jobs.monitoring_push import publish_metrics
from jobs.runs import differences, is_claimed
from pipeline.digests import texts_digest
from pipeline.errors import LedgerError, StageError

__all__ = ["StageFailedError", "Stages", "program_version"]

# What another attempt would meet again.
_FOR_GOOD = (
    *("ConfigError", "DataCheckError", "DataError", "SchemaError", "SetAsideError"),
    *("MissingDayError", "HalfWrittenDayError", "CorruptFileError", "NonFiniteLossError"),
)
_STATES: Mapping[AppState, EndState] = {
    AppState.SUCCEEDED: "succeeded",
    AppState.CANCELLED: "cancelled",
    AppState.UNKNOWN: "lost",
}
_RESUMABLE = ("pretrain", "rank")
_POLL_S = 0.5


class StageFailedError(StageError):
    """A stage failed in all its attempts; `reason` is the error it ended with."""

    def __init__(self, job: Job, reason: str) -> None:
        super().__init__(f"{job.key}: {reason}")
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What running a stage takes."""

    runner: Runner
    ledger: Ledger
    lease: Lease
    config: Path
    # torchx's Runner is not made for several threads that submit at once.
    _submitting: Lock = field(default_factory=Lock)

    def run(self, job: Job) -> Mapping[str, Any]:
        """Bring a stage to its end, unless that is done; returns what it measured.

        Raises:
            StageFailedError: it failed in every attempt.
            LeaseLostError: another driver has taken over.
        """
        left = self.ledger.latest(job.key)
        if left is not None and left.is_live:
            self._finish_left(left, job)
        why = self.why(job)
        if not why:
            _say(job, "done before")
            done = self.ledger.latest(job.key)
            assert done is not None, "the ledger says so"
            return done.facts
        _say(job, f"to be done: {why}")
        reason = ""
        for attempt in range(job.settings.daily.stage(job.stage).attempts):
            record, reason = self._attempt(job)
            if record.state == "succeeded":
                seconds = (datetime.now(UTC) - record.started).total_seconds()
                _say(job, f"done in {seconds:.0f} s")
                return record.facts
            _say(job, f"attempt {attempt + 1} {record.state}: {reason}")
            if reason.startswith(_FOR_GOOD):
                break
        raise StageFailedError(job, reason)

    def settle_others(self, day: date) -> None:
        """Watch to its end what drivers that are gone left of other days; end half publications."""
        for record in self.ledger.live():
            if record.key.day != day or record.key.stage == "publish":
                self._finish_left(record, None)

    def _finish_left(self, record: Record, job: Job | None) -> None:
        """Watch what a driver that is gone left in its scheduler's hands, and record its end."""
        adopted = self.ledger.adopt(record, self.lease)
        print(f"{record.key}: left by a driver that is gone; waiting for its end", flush=True)
        state = AppState.UNKNOWN
        if record.handle:
            about = Submission(
                verb=record.key.stage, config=self.config, title=str(record.key), log_folder=Path()
            )
            state = watch(self.runner, record.handle, about)
        if job is not None and state == AppState.SUCCEEDED:
            self._finished(job, adopted, "succeeded", "")
        else:
            # If it did come to its end all the same, doing it again finds that out.
            self.ledger.finish(adopted, "lost", error=f"its driver is gone; {state.name} since")
            if job is not None:
                self.tell(job, facts_of(job, adopted, "failed"))

    def tell(self, job: Job, facts: StageFacts) -> None:
        """Hand a stage's figures to Prometheus."""
        publish_metrics(job.settings.monitoring, job.stage, job.task, facts)

    def tell_as(self, stage: Stage, task: str, job: Job, facts: StageFacts) -> None:
        """The same, as the figures of another stage."""
        publish_metrics(job.settings.monitoring, stage, task, facts)

    def why(self, job: Job) -> str:
        """Why a stage is to be run, in words; empty if it is done."""
        return self.ledger.difference(
            job.key, inputs=job.inputs, config=job.config_digest, code=program_version()
        )

    def changed(self, job: Job) -> str:
        """How its inputs differ from the latest attempt's, however that ended; empty if not.

        A day that is settled is not done again for another setting or another version.
        """
        latest = self.ledger.latest(job.key)
        if latest is None:
            return "never tried"
        return "; ".join(differences({"inputs": dict(latest.inputs)}, {"inputs": job.inputs}))

    def _attempt(self, job: Job) -> tuple[Record, str]:
        """Once; returns the record, and the reason if it failed."""
        before = self.ledger.latest(job.key)
        resume = before is not None and (before.inputs, before.config) == (
            job.inputs,
            job.config_digest,
        )
        _wait_for_orphans(job)
        record = self.ledger.begin(
            job.key,
            inputs=job.inputs,
            config=job.config_digest,
            code=program_version(),
            lease=self.lease,
        )
        self.tell(job, facts_of(job, record, "running"))
        asked = self._submission(job, resume=resume and job.stage in _RESUMABLE)
        handle, reason = "", ""
        try:
            with self._submitting:
                handle = submit(self.runner, asked)
            record = self.ledger.set_handle(record, handle)
            timeout_s = job.settings.daily.stage(job.stage).seconds
            state = _STATES.get(watch(self.runner, handle, asked, timeout_s=timeout_s), "failed")
        except StageError as error:
            state, reason = "failed", str(error)
        except (KeyboardInterrupt, SignalException):
            if handle:
                self.runner.cancel(handle)
            self.ledger.finish(record, "cancelled", error="the driver was interrupted")
            raise
        if state != "succeeded":
            reason = reason or reason_of(asked.log_folder)
        return self._finished(job, record, state, reason), reason

    def _finished(self, job: Job, record: Record, state: EndState, reason: str) -> Record:
        if reason.startswith("DataCheckError"):
            # The stage did what it should; it is the day that is not fit.
            state = "rejected"
        ended = state if state in ("succeeded", "rejected") else "failed"
        facts = facts_of(job, record, ended)
        try:
            record = self.ledger.finish(record, state, error=reason, facts=measured(facts))
        except LedgerError:
            self.lease.check()  # says who has taken over, if somebody has
            raise
        self.tell(job, facts)
        return record

    def _submission(self, job: Job, *, resume: bool) -> Submission:
        daily = job.settings.daily
        asked = daily.stage(job.stage)
        name = "-".join(part for part in (job.stage, job.task) if part)
        return Submission(
            verb=job.verb,
            config=self.config,
            overrides=job.overrides,
            title=str(job.key),
            log_folder=job.settings.data.root / "logs" / f"day={job.day}" / name,
            progress=job.folder / "progress.json",
            nodes=asked.nodes,
            processes=asked.processes,
            resume=resume,
            image=daily.image,
            scheduler=daily.scheduler,
            options=daily.scheduler_options,
            cpus=asked.cpus,
            gpus=asked.gpus,
            memory_mb=asked.memory_mb,
            scheduler_retries=asked.scheduler_retries,
        )


@cache
def program_version() -> str:
    """Digest of this program's source."""
    home = Path(__file__).parents[2]
    rooms = ("pipeline", "embeddings", "models", "jobs")
    files = sorted(path for room in rooms for path in (home / room).rglob("*.py"))
    return texts_digest(f"{path.relative_to(home)}\n{path.read_text()}" for path in files)


def _wait_for_orphans(job: Job) -> None:
    """Wait for processes of a killed driver that still work on this machine."""
    told = False
    while is_claimed(job.folder) or _is_preparing(job):
        if not told:
            _say(job, "processes of an earlier run are still at work there; waiting for them")
            told = True
        time.sleep(_POLL_S)


def _is_preparing(job: Job) -> bool:
    path = job.settings.data.root / ".lock"
    if job.stage != "prepare" or not path.exists():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _say(job: Job, text: str) -> None:
    print(f"{job.key}: {text}", flush=True)
