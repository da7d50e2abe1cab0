"""One day of the chain, from its data to what serves.

    prepare -> test -> pretrain -> export -> per task: rank, gate -> publish

Nothing is published unless every gate of every task says so: a day's models serve together or not
at all. A day that was rejected is left out of what later days learn from.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from torchx.schedulers.local_scheduler import SignalException

from jobs.chain.failures import UNFIT, StageFailedError
from jobs.chain.gates import Gate, model_gates, progressive_gate, table_figures, table_gates
from jobs.chain.plan import DayPlan
from jobs.chain.published import Published, publish, published_now, ranker_of
from jobs.chain.retention import remove_old
from jobs.chain.settled import changed_days, holds_the_same, serves
from jobs.chain.stage_facts import facts_of, read_judgement
from jobs.chain.stage_job import Job
from jobs.chain.stages import Stages
from jobs.chain.start import check_brought
from jobs.chain.version import program_version
from jobs.ledger.records import DayRecord, StageKey
from jobs.monitoring.facts import StageFacts
from pipeline.errors import LedgerError, RejectedError, WaitingError

__all__ = ["Day"]

T = TypeVar("T")

# Days of which a published ranker's usual AUC is the mean, and how many say nothing yet.
_USUAL_DAYS = 7
_TOO_FEW_DAYS = 2
# Which day it is that is unfit, in the error that prepare ended with.
_DAY_IN_REASON = re.compile(r"Error: day (\d{4}-\d\d-\d\d):")


@dataclass(frozen=True, kw_only=True)
class Day:
    """A day being run."""

    plan: DayPlan
    stages: Stages
    accept: bool = False
    """publish whatever the gates say"""
    rejection: DayRecord | None = None
    """one that stands unless what the day's files hold is something else"""

    def run(self) -> Published:
        """Run what is not done yet, and publish.

        Raises:
            RejectedError: a gate said no, or its data is unfit; the day is recorded as rejected.
            WaitingError: its data is not there yet.
            StageFailedError, LeaseLostError: as `Stages.run`.
        """
        day, ledger, lease = self.plan.day, self.stages.ledger, self.stages.lease
        ledger.set_day(day, "running", lease=lease)
        try:
            published = self._run()
        except RejectedError as error:
            ledger.set_day(day, "rejected", str(error), lease=lease)
            raise
        except WaitingError as error:
            ledger.set_day(day, "waiting", str(error), lease=lease)
            raise
        except StageFailedError as error:
            ledger.set_day(day, "failed", str(error), lease=lease)
            raise
        except (LedgerError, SignalException):
            raise
        except Exception as error:
            ledger.set_day(day, "failed", f"{type(error).__name__}: {error}", lease=lease)
            raise
        ledger.set_day(day, "published", "; ".join(self._notes()), lease=lease)
        remove_old(self.plan.settings, day)
        return published

    @property
    def _is_accepted(self) -> bool:
        """Whether no gate keeps it from being published; what serves has been let through."""
        return self.accept or serves(self.plan)

    def _notes(self) -> Iterator[str]:
        """What is to be known of a day that is published."""
        if self.accept:
            yield "accepted by hand"
        before, ledger = self.plan.before, self.stages.ledger
        changed = changed_days(self.plan.settings, ledger, before.day) if before else []
        if changed:
            days = ", ".join(map(str, changed))
            yield f"closed days whose files were changed, which is not taken in: {days}"

    def _run(self) -> Published:
        self._prepare()
        if self.rejection and holds_the_same(self.plan, self.stages.ledger, self.rejection):
            print(f"{self.plan.day}: what its files hold is the same", flush=True)
            raise RejectedError(self.rejection.note)
        self._side_by_side(self._test)
        self.stages.run(self.plan.pretrain())
        self.stages.run(self.plan.export())
        self._check_tables()
        return self._publish([task for task in self._side_by_side(self._rank) if task])

    def _prepare(self) -> None:
        """What is wrong with the data rejects the day, or lets it wait."""
        check_brought(self.plan.settings, self.plan.day)
        job = self.plan.prepare()
        try:
            self.stages.run(job)
        except StageFailedError as error:
            if error.reason.startswith(UNFIT) and not self._is_known(error.reason):
                raise RejectedError(f"{self.plan.day}: by its data: {error.reason}") from None
            # What is wrong with an earlier day keeps this one waiting until that one is mended.
            if error.reason.startswith((*UNFIT, "MissingDayError", "HalfWrittenDayError")):
                raise WaitingError(f"{self.plan.day}: {error.reason}") from None
            raise
        if not self.plan.brings_something:
            record = self.stages.ledger.latest(job.key)
            assert record is not None, "it ran"
            self.stages.tell(job, facts_of(job, record, "rejected"))
            raise RejectedError(
                f"{self.plan.day}: by its data: not one event to learn from; bring it and run the "
                "day again, or leave it: later days go on without it"
            )

    def _is_known(self, reason: str) -> bool:
        """Whether an earlier day was rejected for the same, so that this one waits for that one.

        What is wrong with labels shows on a later day than theirs, which is rejected for it.
        """
        about = _DAY_IN_REASON.search(reason)
        if about is None:
            return False
        first, yesterday = date.fromisoformat(about.group(1)), self.plan.day - timedelta(days=1)
        earlier = self.stages.ledger.days(first, yesterday) if first <= yesterday else []
        return any(day.state == "rejected" and about.group() in day.note for day in earlier)

    def _test(self, task: str) -> None:
        """How the ranker that served on days that are final now did on them."""
        job = self.plan.test(task)
        if job is None:
            return
        auc = self.stages.run(job).get("auc")
        before = self._usual_aucs(task)
        if auc is not None and len(before) > _TOO_FEW_DAYS:
            gates = self.plan.settings.daily.gates
            self._check(task, job, [progressive_gate(auc, before, gates)])

    def _usual_aucs(self, task: str) -> list[float]:
        """Of the latest published days."""
        day, ledger = self.plan.day, self.stages.ledger
        first = day - timedelta(days=_USUAL_DAYS)
        yesterday = day - timedelta(days=1)
        good = [d.day for d in ledger.days(first, yesterday) if d.state == "published"]
        records = (ledger.latest(StageKey(d, "test", task)) for d in good)
        return [r.facts["auc"] for r in records if r is not None and r.facts.get("auc") is not None]

    def _side_by_side(self, work: Callable[[str], T]) -> list[T]:
        """Do it for each task; where one fails, the others come to their end first."""
        with ThreadPoolExecutor(self.plan.settings.daily.parallel_tasks) as pool:
            try:
                return [done.result() for done in [pool.submit(work, t) for t in self.plan.tasks]]
            except (KeyboardInterrupt, SignalException):
                self.stages.interrupted.set()
                raise

    def _rank(self, task: str) -> str | None:
        """Train and judge one task, and return it; None: there was nothing to learn from."""
        job = self.plan.rank(task)
        if job is None:
            print(f"{self.plan.day} rank ({task}): no new final days; the ranker stays", flush=True)
            return None
        self.stages.run(job)
        judged = self.plan.gate(task)
        judged.say(f"scores requests of {self._scored(task)}")
        self.stages.run(judged)
        models = [found["all"] for found in read_judgement(judged).values()]
        published = models[0] if len(models) > 1 else None
        gates = model_gates(models[-1], published, self.plan.settings.daily.gates)
        self._check(task, judged, list(gates))
        return task

    def _scored(self, task: str) -> str:
        left_out = ", ".join(map(str, self.plan.left_out_days(task)))
        scored = ", ".join(map(str, self.plan.scored_days(task)))
        return f"{scored}{f'; left out, as rejected: {left_out}' if left_out else ''}"

    def _check_tables(self) -> None:
        """The export's against those of the published one."""
        settings, before = self.plan.settings, self.plan.before
        root = settings.data.root
        exports = {r.day: root / r.export for r in before.rankers.values()} if before else {}
        newest = exports[max(exports)] if exports else None
        job = self.plan.export()
        tables = table_figures(job.settings.export_folder, newest)
        largest = {
            "table_norm": max(table.norm for table in tables),
            "table_drift_ratio": max(table.drift for table in tables),
        }
        self._check("", job, list(table_gates(tables, settings.daily.gates)), largest)

    def _check(
        self,
        task: str,
        job: Job,
        gates: Sequence[Gate],
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Tell how the gates of what a job made went, and `figures` with it.

        Raises:
            RejectedError: one was not passed, and nobody accepted the day.
        """
        about = f"{self.plan.day} gates{f' ({task})' if task else ''}"
        for gate in gates:
            print(f"{about}: {gate.name} {'passed' if gate.passed else 'FAILED'}: {gate.text}")
        self._tell_gates(task, job, gates, figures or {})
        failed = [f"{gate.name}: {gate.text}" for gate in gates if not gate.passed]
        if failed and not self._is_accepted:
            raise RejectedError(f"{about} not passed: {'; '.join(failed)}")

    def _tell_gates(
        self, task: str, job: Job, gates: Sequence[Gate], figures: Mapping[str, float]
    ) -> None:
        record = self.stages.ledger.latest(job.key)
        assert record is not None, "it ran"
        passed: dict[str, bool] = {}
        for gate in gates:
            passed[gate.name] = passed.get(gate.name, True) and gate.passed
        facts = StageFacts(
            state="succeeded" if all(passed.values()) or self._is_accepted else "rejected",
            data_day=self.plan.day,
            started=record.started,
            ended=datetime.now(UTC),
            attempts=record.attempt,
            gates=passed,
        )
        measured = {name: value for name, value in figures.items() if math.isfinite(value)}
        self.stages.tell_as("gate", task, job, replace(facts, **measured))

    def _publish(self, new: Sequence[str]) -> Published:
        """All of a day's rankers at once; a task without a new one keeps the one it has."""
        plan, ledger = self.plan, self.stages.ledger
        kept = plan.before.rankers if plan.before else {}
        rankers = {**kept, **{task: ranker_of(plan.settings_of(task)) for task in new}}
        key, root = StageKey(plan.day, "publish"), plan.settings.data.root
        inputs = {task: ranker.digest for task, ranker in rankers.items()}
        made_of: dict[str, Any] = {"inputs": inputs, "config": "", "code": program_version()}
        now = published_now(root)
        if now is not None and now.day == plan.day and ledger.succeeded_with(key, **made_of):
            return now
        record = ledger.begin(key, **made_of, lease=self.stages.lease)
        published = publish(root, plan.day, rankers)
        ledger.finish(record, "succeeded", facts={"rankers": len(rankers)})
        facts = StageFacts(
            state="succeeded",
            data_day=plan.day,
            started=record.started,
            ended=datetime.now(UTC),
            attempts=record.attempt,
            serving_day=plan.day,
        )
        self.stages.tell_as("publish", "", plan.export(), facts)
        print(f"{plan.day}: published {', '.join(rankers)}", flush=True)
        return published
