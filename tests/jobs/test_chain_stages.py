"""What drivers that are gone left of other days, and which days a timer runs."""

import argparse
from datetime import UTC, datetime, timedelta

import pytest
from torchx.schedulers.api import ListAppResponse
from torchx.specs import AppState

from jobs.chain.driver import ledger_of, unsettled_days
from jobs.chain.inputs import source_digests
from jobs.chain.plan import DayPlan
from jobs.chain.stages import Stages
from jobs.ledger.records import StageKey
from jobs.monitoring.metrics import RUN_STATES
from jobs.monitoring.push import textfile_path
from tests.jobs.daily_root import FIRST, DailyRoot

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
def chain(tmp_path):
    (tmp_path / "metrics").mkdir()
    return DailyRoot(tmp_path)


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


def asked(chain):
    arguments = argparse.Namespace(config=chain.config, overrides=[])
    return unsettled_days(arguments, LAST)


def test_a_timer_runs_the_days_that_are_not_settled(chain, ledger):
    assert asked(chain) == [FIRST, NEXT, LAST]
    ledger.set_day(FIRST, "published")
    ledger.set_day(NEXT, "rejected", "by a gate")
    assert asked(chain) == [LAST]


def test_and_one_that_was_rejected_once_its_data_is_mended(chain, rejected):
    assert asked(chain) == [LAST]
    chain.source(NEXT, "mended")
    assert asked(chain) == [NEXT, LAST]


def test_not_one_that_a_gate_rejected(chain, ledger, rejected):
    again = ledger.begin(StageKey(NEXT, "prepare"), inputs={f"source {NEXT}": "other"}, **MADE_OF)
    ledger.finish(again, "succeeded")
    assert asked(chain) == [LAST]
