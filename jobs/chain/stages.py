"""Runs one stage of a day: looks into the ledger, submits, watches, records how it ended.

    Job --ledger: done already?--> submitted --ledger: running--> ended --ledger, Prometheus-->

Work that the ledger says is done on the same inputs is not done again. Work that a killed driver
left in a scheduler's hands is watched to its end instead of being started twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Event, Lock
from typing import Any, cast

from torchx.runner import Runner
from torchx.schedulers.local_scheduler import SignalException
from torchx.specs import AppState

from jobs.chain.failures import FOR_GOOD, UNFIT, StageFailedError
from jobs.chain.orphans import wait_for_orphans
from jobs.chain.settings import Submitted
from jobs.chain.stage_facts import facts_of, measured
from jobs.chain.stage_job import Job
from jobs.chain.version import program_version
from jobs.claims import admit
from jobs.launch import Submission, cancel, find_job, submit, watch
from jobs.ledger.leases import Lease
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import EndState, Record, Stage
from jobs.monitoring.facts import StageFacts
from jobs.monitoring.push import publish_metrics
from jobs.reasons import reason_of
from jobs.settings import JobSettings
from pipeline.errors import LedgerError, StageError, UnansweredError

__all__ = ["Stages"]

_STATES: Mapping[AppState, EndState] = {
    AppState.SUCCEEDED: "succeeded",
    AppState.CANCELLED: "cancelled",
    AppState.UNKNOWN: "lost",
}
_RESUMABLE = ("pretrain", "rank")


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What running a stage takes."""

    runner: Runner
    ledger: Ledger
    lease: Lease
    config: Path
    interrupted: Event = field(default_factory=Event)
    """when set, other threads begin no stage and cancel theirs: signals reach the main one alone"""
    # torchx's Runner is not made for several threads that submit at once.
    _submitting: Lock = field(default_factory=Lock)

    def run(self, job: Job) -> Mapping[str, Any]:
        """Bring a stage to its end, unless that is done; returns what it measured.

        Raises:
            StageFailedError: it failed in every attempt.
            UnansweredError: its scheduler does not answer; the attempt stays live.
            LeaseLostError: another driver has taken over.
            KeyboardInterrupt: `interrupted` was set.
        """
        if self.interrupted.is_set():
            raise KeyboardInterrupt
        left = self.ledger.latest(job.key)
        if left is not None and left.is_live:
            self._finish_left(left, job.settings, job)
        why = self.why(job)
        if not why:
            job.say("done before")
            done = self.ledger.latest(job.key)
            assert done is not None, "the ledger says so"
            return done.facts
        job.say(f"to be done: {why}")
        reason = ""
        for attempt in range(job.settings.daily.stage(job.stage).attempts):
            record, reason = self._attempt(job)
            if record.state == "succeeded":
                seconds = (datetime.now(UTC) - record.started).total_seconds()
                job.say(f"done in {seconds:.0f} s")
                return record.facts
            job.say(f"attempt {attempt + 1} {record.state}: {reason}")
            if reason.startswith(FOR_GOOD):
                break
        raise StageFailedError(job, reason)

    def settle_others(self, day: date, settings: JobSettings) -> None:
        """Watch to its end what drivers that are gone left of other days; end half publications."""
        for record in self.ledger.live():
            if record.key.day != day or record.key.stage == "publish":
                self._finish_left(record, settings)

    def _finish_left(self, record: Record, settings: JobSettings, job: Job | None = None) -> None:
        """Watch what a driver that is gone left in its scheduler's hands, and record its end."""
        adopted = self.ledger.adopt(record, self.lease)
        print(f"{record.key}: left by a driver that is gone; waiting for its end", flush=True)
        try:
            handle = self._handle_of(adopted, settings)
            state = self._watch_left(adopted, handle, settings) if handle else AppState.UNKNOWN
        except UnansweredError:
            # It may be at work, so it stays as it is; but somebody has to look.
            self._tell_failed(adopted, settings)
            raise
        if job is not None and state == AppState.SUCCEEDED:
            self._finished(job, adopted, "succeeded", "")
            return
        # If it did come to its end all the same, doing it again finds that out.
        self.ledger.finish(adopted, "lost", error=f"its driver is gone; {state.name} since")
        self._tell_failed(adopted, settings)

    def _watch_left(self, record: Record, handle: str, settings: JobSettings) -> AppState:
        """How it ends; it has what is left of its stage's time, however often drivers changed."""
        about = Submission(
            verb=record.key.stage, config=self.config, title=str(record.key), log_folder=Path()
        )
        timeout_s = settings.daily.stage(cast(Submitted, record.key.stage)).seconds
        spent_s = (datetime.now(UTC) - record.started).total_seconds()
        try:
            return watch(
                self.runner,
                handle,
                about,
                timeout_s=max(0, timeout_s - spent_s),
                interrupted=self.interrupted,
            )
        except UnansweredError:
            raise
        except StageError:
            return AppState.CANCELLED

    def _handle_of(self, record: Record, settings: JobSettings) -> str | None:
        """What the scheduler has it under; a driver may be killed before it has recorded that."""
        if record.handle or record.key.stage == "publish":
            return record.handle
        handle = find_job(self.runner, settings.daily.scheduler, record.name, record.started)
        if handle is not None:
            print(f"{record.key}: found at its scheduler, as {handle}", flush=True)
            self.ledger.set_handle(record, handle)
        return handle

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

    def _attempt(self, job: Job) -> tuple[Record, str]:
        """Once; returns the record, and the reason if it failed."""
        before = self.ledger.latest(job.key)
        resume = before is not None and (before.inputs, before.config) == (
            job.inputs,
            job.config_digest,
        )
        record = self.ledger.begin(
            job.key,
            inputs=job.inputs,
            config=job.config_digest,
            code=program_version(),
            lease=self.lease,
        )
        asked = self._submission(job, record, resume=resume and job.stage in _RESUMABLE)
        try:
            return self._watched(job, record, asked)
        except (KeyboardInterrupt, SignalException, LedgerError):
            raise
        except UnansweredError:
            # It may be at work: the next driver finds it in the ledger.
            self._tell_failed(record, job.settings)
            raise
        except Exception as error:
            # Nobody watches over it from here on, and the alert is to know.
            self.ledger.finish(record, "failed", error=f"{type(error).__name__}: {error}")
            self._tell_failed(record, job.settings)
            raise

    def _watched(self, job: Job, record: Record, asked: Submission) -> tuple[Record, str]:
        """An attempt that has begun, from its submission to its end."""
        self.tell(job, facts_of(job, record, "running"))
        handle, reason = "", ""
        try:
            # In this order: what begins later than this finds that it is not awaited any more.
            admit(job.claimed, record.name)
            wait_for_orphans(job, self.interrupted)
            self.lease.check()
            with self._submitting:
                handle = submit(self.runner, asked)
            record = self.ledger.set_handle(record, handle)
            timeout_s = job.settings.daily.stage(job.stage).seconds
            ended = watch(
                self.runner, handle, asked, timeout_s=timeout_s, interrupted=self.interrupted
            )
            state = _STATES.get(ended, "failed")
        except UnansweredError:
            raise
        except StageError as error:
            state, reason = "failed", str(error)
        except (KeyboardInterrupt, SignalException):
            self._cancel(job, record, handle)
            raise
        if state != "succeeded":
            reason = reason or reason_of(asked.log_folder)
        return self._finished(job, record, state, reason), reason

    def _cancel(self, job: Job, record: Record, handle: str) -> None:
        """End an attempt, as the driver was interrupted."""
        try:
            if left := handle or self._handle_of(record, job.settings):
                cancel(self.runner, left)
        except UnansweredError as error:
            job.say(f"interrupted, but {error}")
            return
        self.ledger.finish(record, "cancelled", error="the driver was interrupted")

    def _tell_failed(self, record: Record, settings: JobSettings) -> None:
        """Tell Prometheus of an attempt of which nothing else is known."""
        facts = StageFacts(
            state="failed",
            data_day=record.key.day,
            started=record.started,
            ended=datetime.now(UTC),
            attempts=record.attempt,
        )
        publish_metrics(settings.monitoring, record.key.stage, record.key.task, facts)

    def _finished(self, job: Job, record: Record, state: EndState, reason: str) -> Record:
        if reason.startswith(UNFIT):
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

    def _submission(self, job: Job, record: Record, *, resume: bool) -> Submission:
        daily = job.settings.daily
        asked = daily.stage(job.stage)
        stage = "-".join(part for part in (job.stage, job.task) if part)
        # Its own, so that what an earlier attempt has said is not taken for this one's reason.
        folder = f"logs/day={job.day}/{stage}/attempt-{record.attempt}"
        return Submission(
            verb=job.verb,
            config=self.config,
            name=record.name,
            overrides=(*job.overrides, f"daily.attempt={record.name}"),
            title=str(job.key),
            log_folder=job.settings.data.root / folder,
            progress=job.folder / "progress.json",
            nodes=asked.nodes,
            processes=asked.processes,
            resume=resume,
            image=daily.image,
            mounts=daily.mounts,
            scheduler=daily.scheduler,
            options=daily.scheduler_options,
            cpus=asked.cpus,
            gpus=asked.gpus,
            memory_mb=asked.memory_mb,
            scheduler_retries=asked.scheduler_retries,
        )
