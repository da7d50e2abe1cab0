"""What drivers that are gone left of other days, and which days a timer runs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from torchx.schedulers.api import ListAppResponse
from torchx.specs import AppState, AppStatus

from jobs.chain.day import Day
from jobs.chain.driver import ledger_of, unsettled_days
from jobs.chain.failures import StageFailedError
from jobs.chain.inputs import source_digests
from jobs.chain.plan import DayPlan
from jobs.chain.stages import Stages
from jobs.ledger.records import StageKey, moment_text
from jobs.monitoring.metrics import RUN_STATES
from jobs.monitoring.push import textfile_path
from pipeline.errors import StageError, UnansweredError
from tests.jobs.daily_root import FIRST
from tests.jobs.ledgers import write

NEXT, LAST = FIRST + timedelta(days=1), FIRST + timedelta(days=2)
MADE_OF = {"config": "c", "code": "v"}


class Scheduler:
    """What a Runner is asked, of a scheduler that is slow to say under which handle."""

    def __init__(self):
        self.names = []
        self.cancelled = []

    def run(self, app, scheduler, options):
        del scheduler, options
        self.names.append(app.name)
        raise KeyboardInterrupt

    def list(self, scheduler):
        return [
            ListAppResponse(name, AppState.RUNNING, f"{scheduler}://{name}") for name in self.names
        ]

    def cancel(self, handle):
        self.cancelled.append(handle)


@pytest.fixture
def chain(tmp_path, chain):
    (tmp_path / "metrics").mkdir()
    return chain


@pytest.fixture
def ledger(chain):
    return ledger_of(chain.settings())


def told(folder, stage, task):
    lines = textfile_path(folder, stage, task).read_text().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.partition("{")[0].removeprefix("frostrank_"): float(n) for name, n in pairs}


def test_what_was_left_of_another_day_is_told_too(tmp_path, chain, ledger):
    ledger.begin(StageKey(FIRST, "rank", "ctr"), inputs={}, **MADE_OF)
    ledger.begin(StageKey(NEXT, "rank", "cart"), inputs={}, **MADE_OF)
    settings = chain.settings("monitoring={}", f"monitoring.textfile={tmp_path / 'metrics'}")
    with ledger.lease("daily") as lease:
        stages = Stages(runner=Scheduler(), ledger=ledger, lease=lease, config=chain.config)
        stages.settle_others(NEXT, settings)
    assert ledger.latest(StageKey(FIRST, "rank", "ctr")).state == "lost"
    figures = told(tmp_path / "metrics", "rank", "ctr")
    assert figures["run_state"] == RUN_STATES["failed"]
    day_s = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC).timestamp()
    assert figures["run_day_timestamp_seconds"] == day_s
    assert "run_end_timestamp_seconds" in figures
    # What is left of the day itself is up to its own run.
    assert ledger.latest(StageKey(NEXT, "rank", "cart")).is_live
    assert not textfile_path(tmp_path / "metrics", "rank", "cart").exists()


def test_what_is_interrupted_while_it_is_submitted_is_cancelled(chain, ledger):
    override = "daily.scheduler=kubernetes"
    plan = DayPlan(
        config=chain.config,
        given=(override,),
        settings=chain.settings(override, "monitoring={}"),
        day=FIRST,
        before=None,
    )
    scheduler = Scheduler()
    with ledger.lease("daily") as lease:
        stages = Stages(runner=scheduler, ledger=ledger, lease=lease, config=chain.config)
        with pytest.raises(KeyboardInterrupt):
            stages.run(plan.prepare())
    record = ledger.latest(StageKey(FIRST, "prepare"))
    assert record.state == "cancelled"
    assert record.name in scheduler.names[0]
    assert scheduler.cancelled == [f"kubernetes://{scheduler.names[0]}"]
    assert record.name in (chain.root / ".prepare.attempt").read_text()


class Patient(Scheduler):
    """One whose jobs never end by themselves; somebody is told when it is asked after one."""

    def __init__(self):
        super().__init__()
        self.tell = bool

    def run(self, app, scheduler, options):
        del options
        self.names.append(app.name)
        return f"{scheduler}://{app.name}"

    def status(self, handle):
        del handle
        self.tell()
        return AppStatus(AppState.RUNNING)


def test_what_another_thread_waits_for_is_cancelled_when_the_driver_is_interrupted(chain, ledger):
    settings = chain.settings("monitoring={}")
    plan = DayPlan(config=chain.config, given=(), settings=settings, day=FIRST, before=None)
    scheduler = Patient()
    with ledger.lease("daily") as lease, ThreadPoolExecutor(1) as pool:
        stages = Stages(runner=scheduler, ledger=ledger, lease=lease, config=chain.config)
        scheduler.tell = stages.interrupted.set
        with pytest.raises(KeyboardInterrupt):
            pool.submit(stages.run, plan.prepare()).result()
    assert ledger.latest(StageKey(FIRST, "prepare")).state == "cancelled"
    assert scheduler.cancelled == [f"local_cwd://{scheduler.names[0]}"]


class Silent(Patient):
    """One that takes jobs, and then answers nothing."""

    def cancel(self, handle):
        raise OSError("connection refused")

    list = cancel


@pytest.fixture
def silent(chain, ledger):
    """Stages of a driver with such a scheduler, and its plan of the first day."""
    given = ("monitoring={}", "daily.scheduler=kubernetes", "daily.stages.prepare.timeout=1s")
    settings = chain.settings(*given)
    plan = DayPlan(config=chain.config, given=given, settings=settings, day=FIRST, before=None)
    with ledger.lease("daily") as lease:
        yield Stages(runner=Silent(), ledger=ledger, lease=lease, config=chain.config), plan


def test_an_interrupted_driver_leaves_what_it_cannot_cancel(capsys, ledger, silent):
    stages, plan = silent
    stages.runner.tell = stages.interrupted.set
    with pytest.raises(KeyboardInterrupt):
        stages.run(plan.prepare())
    assert ledger.latest(StageKey(FIRST, "prepare")).state == "running"
    assert "could not be cancelled: OSError: connection refused" in capsys.readouterr().out


def test_what_cannot_be_cancelled_when_its_time_is_over_may_be_at_work(ledger, silent):
    stages, plan = silent
    with pytest.raises(UnansweredError, match="could not be cancelled"):
        stages.run(plan.prepare())
    (record,) = ledger.records(FIRST, FIRST)
    assert record.state == "running"
    # The next driver waits for it in turn.
    with pytest.raises(UnansweredError, match="could not be cancelled"):
        stages.settle_others(NEXT, plan.settings)
    assert ledger.live() == [record]


def test_what_was_left_and_never_ends_is_cancelled_when_its_time_is_over(chain, ledger):
    begun = ledger.begin(StageKey(FIRST, "export"), inputs={}, **MADE_OF)
    ledger.set_handle(begun, "slurm://torchx/12")
    settings = chain.settings("monitoring={}", "daily.stages.export.timeout=1s")
    scheduler = Patient()
    with ledger.lease("daily") as lease:
        stages = Stages(runner=scheduler, ledger=ledger, lease=lease, config=chain.config)
        stages.settle_others(NEXT, settings)
    assert scheduler.cancelled == ["slurm://torchx/12"]
    record = ledger.latest(StageKey(FIRST, "export"))
    assert (record.state, record.error) == ("lost", "its driver is gone; CANCELLED since")


def test_what_was_left_has_no_more_time_than_it_had(chain, ledger):
    """Drivers that die one after the other do not keep a job alive that hangs."""
    begun = ledger.begin(StageKey(FIRST, "export"), inputs={}, **MADE_OF)
    ledger.set_handle(begun, "slurm://torchx/12")
    an_hour_ago = moment_text(begun.started - timedelta(hours=1))
    write(ledger, f"UPDATE ledger_stages SET started = '{an_hour_ago}'")
    settings = chain.settings("monitoring={}", "daily.stages.export.timeout=59m")
    scheduler, asked = Patient(), []
    scheduler.tell = lambda: asked.append("again")
    with ledger.lease("daily") as lease:
        stages = Stages(runner=scheduler, ledger=ledger, lease=lease, config=chain.config)
        stages.settle_others(NEXT, settings)
    assert scheduler.cancelled == ["slurm://torchx/12"]
    assert len(asked) <= 2


class Talker(Scheduler):
    """One whose first job fails after a word, and whose second before it has begun."""

    def __init__(self):
        super().__init__()
        self.folders = []

    def run(self, app, scheduler, options):
        del scheduler
        folder = Path(options["job_dir"])
        self.folders.append(folder)
        if not self.names:
            (folder / "slurm-12-export-0.err").write_text("CheckpointError: odd\n")
        self.names.append(app.name)
        return app.name

    def status(self, handle):
        is_first = handle == self.names[0]
        return AppStatus(AppState.FAILED if is_first else AppState.CANCELLED)


def test_what_an_earlier_attempt_said_is_not_why_this_one_failed(chain, ledger):
    settings = chain.settings("monitoring={}", "daily.scheduler=slurm")
    given = ("monitoring={}", "daily.scheduler=slurm")
    plan = DayPlan(config=chain.config, given=given, settings=settings, day=FIRST, before=None)
    scheduler = Talker()
    with ledger.lease("daily") as lease:
        stages = Stages(runner=scheduler, ledger=ledger, lease=lease, config=chain.config)
        with pytest.raises(StageFailedError, match="it wrote nothing under"):
            stages.run(plan.prepare())
    ends = [(r.state, r.error[:15]) for r in ledger.records(FIRST, FIRST)]
    assert ends == [("failed", "CheckpointError"), ("cancelled", "it wrote nothin")]
    assert [folder.name for folder in scheduler.folders] == ["attempt-1", "attempt-2"]


class Absent(Scheduler):
    """One that is not there."""

    def run(self, app, scheduler, options):
        raise RuntimeError("You must specify a region.")

    def list(self, scheduler):
        raise RuntimeError("You must specify a region.")


def aws(tmp_path, chain, ledger, lease):
    """The day's prepare on a scheduler that is not there."""
    textfile = f"monitoring.textfile={tmp_path / 'metrics'}"
    given = ("daily.scheduler=aws_batch", "monitoring={}", textfile)
    settings = chain.settings(*given)
    plan = DayPlan(config=chain.config, given=given, settings=settings, day=FIRST, before=None)
    stages = Stages(runner=Absent(), ledger=ledger, lease=lease, config=chain.config)
    return stages, plan


def test_an_attempt_that_its_scheduler_does_not_take_has_failed(tmp_path, chain, ledger):
    with ledger.lease("daily") as lease:
        stages, plan = aws(tmp_path, chain, ledger, lease)
        with pytest.raises(StageFailedError, match="RuntimeError: You must specify a region"):
            stages.run(plan.prepare())
    assert [r.state for r in ledger.records(FIRST, FIRST)] == ["failed", "failed"]
    assert told(tmp_path / "metrics", "prepare", "")["run_state"] == RUN_STATES["failed"]


def test_what_was_left_stays_as_it_is_while_its_scheduler_is_away(tmp_path, chain, ledger):
    chain.source(FIRST)
    ledger.begin(StageKey(FIRST, "prepare"), inputs={}, **MADE_OF)
    with ledger.lease("daily") as lease:
        stages, plan = aws(tmp_path, chain, ledger, lease)
        with pytest.raises(StageError, match="does not say whether it has a job"):
            Day(plan=plan, stages=stages).run()
    assert ledger.latest(StageKey(FIRST, "prepare")).is_live
    assert told(tmp_path / "metrics", "prepare", "")["run_state"] == RUN_STATES["failed"]


def test_an_attempt_has_failed_whatever_went_wrong(tmp_path, chain, ledger, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr("jobs.chain.stages.admit", fail)
    chain.source(FIRST)
    with ledger.lease("daily") as lease:
        stages, plan = aws(tmp_path, chain, ledger, lease)
        with pytest.raises(ZeroDivisionError):
            Day(plan=plan, stages=stages).run()
    record = ledger.latest(StageKey(FIRST, "prepare"))
    assert (record.state, record.error) == ("failed", "ZeroDivisionError: of our own")
    assert told(tmp_path / "metrics", "prepare", "")["run_state"] == RUN_STATES["failed"]
    day = ledger.day(FIRST)
    assert (day.state, day.note) == ("failed", "ZeroDivisionError: of our own")


def day_of(chain, ledger, *tasks):
    """So many tasks two at a time."""
    settings = chain.settings("daily.parallel_tasks=2")
    stages = Stages(runner=Scheduler(), ledger=ledger, lease=None, config=chain.config)
    return Day(plan=SimpleNamespace(settings=settings, tasks=tasks), stages=stages)


def test_an_interruption_reaches_the_tasks_that_are_worked_on_beside(chain, ledger):
    day = day_of(chain, ledger, "ctr", "cart", "cvr")
    job = DayPlan(config=chain.config, given=(), settings=chain.settings(), day=FIRST, before=None)

    def work(task):
        if task == "ctr":
            raise KeyboardInterrupt
        assert day.stages.interrupted.wait(60), "in vain"
        day.stages.run(job.prepare())

    with pytest.raises(KeyboardInterrupt):
        day._side_by_side(work)
    # Nothing was begun any more.
    assert ledger.records(FIRST, FIRST) == []


def test_where_one_task_fails_the_others_come_to_their_end(chain, ledger):
    done = []

    def work(task):
        if task == "ctr":
            raise StageError(task)
        done.append(task)

    with pytest.raises(StageError, match="ctr"):
        day_of(chain, ledger, "ctr", "cart", "cvr")._side_by_side(work)
    assert sorted(done) == ["cart", "cvr"]


@pytest.fixture
def rejected(chain, ledger):
    """A published day, and one that its data stopped."""
    chain.source(FIRST)
    chain.source(NEXT)
    ledger.set_day(FIRST, "published")
    begun = ledger.begin(
        StageKey(NEXT, "prepare"), inputs=source_digests(chain.settings(), [FIRST, NEXT]), **MADE_OF
    )
    ledger.finish(begun, "rejected", error="SetAsideError: day")
    ledger.set_day(NEXT, "rejected")


def asked(chain, ledger):
    return unsettled_days(chain.settings(), ledger, LAST)


def test_a_timer_runs_the_days_that_are_not_settled(chain, ledger):
    assert asked(chain, ledger) == [FIRST, NEXT, LAST]
    ledger.set_day(FIRST, "published")
    ledger.set_day(NEXT, "rejected", "by a gate")
    assert asked(chain, ledger) == [LAST]


def test_and_one_that_was_rejected_once_its_data_is_mended(chain, ledger, rejected):
    assert asked(chain, ledger) == [LAST]
    chain.source(NEXT, "mended")
    assert asked(chain, ledger) == [NEXT, LAST]


def test_not_one_that_a_gate_rejected(chain, ledger, rejected):
    again = ledger.begin(StageKey(NEXT, "prepare"), inputs={f"source {NEXT}": "other"}, **MADE_OF)
    ledger.finish(again, "succeeded")
    assert asked(chain, ledger) == [LAST]
