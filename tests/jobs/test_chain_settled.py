"""Which settled days are run again, however often a run of theirs was interrupted."""

import os
from datetime import timedelta

import pytest

from jobs.chain.driver import ledger_of
from jobs.chain.plan import DayPlan
from jobs.chain.published import publish, published_on
from jobs.chain.settled import changed_days, holds_the_same, rejection_of
from pipeline.errors import RejectedError, WaitingError
from tests.jobs.daily_root import FIRST, START

DAY, NEXT = FIRST + timedelta(days=1), FIRST + timedelta(days=2)
MADE_OF = {"config": "c", "code": "v"}


@pytest.fixture
def ledger(chain):
    return ledger_of(chain.settings())


@pytest.fixture
def before(chain, ledger):
    """The first day, which serves, as it was brought."""
    for number in range(4):
        chain.source(START + timedelta(days=number))
    chain.pretraining(FIRST)
    published = publish(chain.root, FIRST, {"ctr": chain.ranker(FIRST)})
    record(ledger, plan_of(chain, FIRST).prepare())
    ledger.set_day(FIRST, "published")
    return published


@pytest.fixture
def rejected(chain, ledger, before):
    """The day after it, which a gate rejected when all its stages had run."""
    chain.source(DAY)
    chain.data("increments", DAY, "as brought")
    plan = plan_of(chain, DAY, before)
    for job in (plan.prepare(), plan.pretrain()):
        record(ledger, job)
    ledger.set_day(DAY, "rejected", "a gate said no")
    return plan


def plan_of(chain, day, before=None):
    return DayPlan(config=chain.config, given=(), settings=chain.settings(), day=day, before=before)


def record(ledger, job, state="succeeded"):
    begun = ledger.begin(job.key, inputs=job.inputs, **MADE_OF)
    if state:
        ledger.finish(begun, state)


def verdict(plan, ledger):
    return rejection_of(plan, ledger)[1]


def test_a_rejected_day_stays_so_while_its_files_are_the_same(chain, ledger, rejected):
    with pytest.raises(RejectedError, match=r"rejected before: a gate said no; .* --accept"):
        verdict(rejected, ledger)
    chain.source(DAY, "mended")
    assert f"source {DAY}" in verdict(rejected, ledger)


@pytest.mark.parametrize("state", ["running", "failed", "waiting"])
def test_a_run_of_it_that_came_to_no_end_changes_nothing_of_that(chain, ledger, rejected, state):
    """Neither is a mended day forgotten, nor one that holds the same taken for another."""
    for path in chain.source(DAY).iterdir():
        os.utime(path, (0, 0))
    assert verdict(rejected, ledger)
    record(ledger, rejected.prepare())
    ledger.set_day(DAY, state)
    settled = ledger.settled(DAY)
    assert settled.note == "a gate said no"
    assert verdict(rejected, ledger)
    assert holds_the_same(rejected, ledger, settled)
    chain.data("increments", DAY, "mended")
    record(ledger, rejected.pretrain(), state="")
    assert not holds_the_same(rejected, ledger, settled)


def test_a_day_that_no_stage_learned_from_holds_something_else(chain, ledger, before):
    chain.source(DAY)
    chain.data("increments", DAY)
    plan = plan_of(chain, DAY, before)
    record(ledger, plan.prepare(), "rejected")
    ledger.set_day(DAY, "rejected", "by its data")
    assert not holds_the_same(plan, ledger, ledger.settled(DAY))


def test_which_days_are_open_is_no_reason(chain, ledger, rejected):
    """After going back over the day before it, too."""
    record(ledger, rejected.prepare())
    ledger.set_day(DAY, "rejected", "rolled back")
    again = plan_of(chain, DAY)
    assert again.prepare().inputs.keys() > rejected.prepare().inputs.keys()
    with pytest.raises(RejectedError, match="rolled back"):
        verdict(again, ledger)


def test_nor_is_it_forgotten_that_the_day_before_it_was_made_anew(chain, ledger, rejected):
    publish(chain.root, FIRST, {"ctr": rejected.before.rankers["ctr"]})
    again = plan_of(chain, DAY, published_on(chain.root, FIRST))
    assert verdict(again, ledger) == f"{FIRST}, which it goes on from, was published since"
    # In the same bits, as it turns out when it is prepared.
    assert holds_the_same(again, ledger, ledger.settled(DAY))


def test_a_later_day_that_is_published_comes_first(chain, ledger, before, rejected):
    assert rejection_of(rejected, ledger, accept=True) == (None, "")
    publish(chain.root, NEXT, before.rankers)
    with pytest.raises(WaitingError, match=rf"{NEXT} is published already, .*--rollback"):
        rejection_of(rejected, ledger, accept=True)


def test_changed_files_of_closed_days(chain, ledger, before, rejected):
    settings = chain.settings()
    assert changed_days(settings, ledger, FIRST) == []
    chain.source(START, "other")
    chain.source(FIRST, "other")
    assert changed_days(settings, ledger, FIRST) == [START, FIRST]
    narrow = chain.settings("data.keep_states=2")
    assert changed_days(narrow, ledger, FIRST) == [FIRST]
    # An open day that changed is taken in by the next day's prepare.
    chain.source(DAY, "mended")
    chain.source(NEXT)
    record(ledger, plan_of(chain, NEXT, before).prepare())
    assert changed_days(settings, ledger, NEXT) == [START, FIRST]


def test_files_that_were_removed_are_no_change(chain, ledger, before):
    folder = chain.source(FIRST)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert changed_days(chain.settings(), ledger, FIRST) == []
