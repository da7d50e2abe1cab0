"""The daily chain on days that arrive one by one: what each exit code means, and what serves."""

import json
import os
import shutil
import signal
import time

import pytest

from embeddings.export import read_export
from jobs.ledger_records import StageKey
from jobs.runs import is_claimed
from tests.integration.daily_market import FIRST, Market, day_number, flipped, half, simulate
from tests.integration.forked_scheduler import Server

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PUBLISHED, FAILED, WRONG, REJECTED, WAITING, HELD = 0, 1, 2, 3, 4, 75
NUM_READY = 3
TODAY, TOMORROW, DAY_AFTER = (day_number(NUM_READY + number) for number in range(3))
YESTERDAY, BEFORE = day_number(NUM_READY - 1), day_number(NUM_READY - 2)
STAGES = ["prepare", "test", "pretrain", "export", "rank", "gate", "publish"]
WHOLE = [(stage, "succeeded") for stage in STAGES]
TOLD = {"succeeded": 2, "failed": 3, "rejected": 4}
PATIENCE_S = 120


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("log"), NUM_READY + 3)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server") / "socket") as server:
        yield server


@pytest.fixture(scope="module")
def ready(log, server, tmp_path_factory):
    """A market whose first days are published: one by itself, the others by backfill."""
    market = Market(tmp_path_factory.mktemp("daily") / "market", log, server)
    market.bring(FIRST)
    code, output = market.daily(FIRST)
    assert code == PUBLISHED, output
    market.bring(BEFORE, YESTERDAY)
    days = ("--from", str(BEFORE), "--to", str(YESTERDAY))
    code, output = market.run("backfill", *days, "--parallel-days", "2")
    assert code == PUBLISHED, output
    shutil.copytree(market.folder, market.folder.with_name("kept"))
    return market


@pytest.fixture
def market(ready):
    """The same, as it was then: what is recorded of it holds in this place only."""
    shutil.rmtree(ready.folder)
    shutil.copytree(ready.folder.with_name("kept"), ready.folder)
    ready.remembers = False
    return ready


def wait_for(condition):
    end_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end_s, "in vain"
        time.sleep(0.01)
    return found


def test_every_day_is_published_from_its_own_models(ready):
    assert [ready.state(day_number(n)) for n in range(NUM_READY)] == ["published"] * NUM_READY
    first = [each for each in WHOLE if each[0] != "test"]
    assert ready.attempts(FIRST) == first
    assert ready.attempts(BEFORE) == WHOLE
    assert ready.attempts(YESTERDAY) == WHOLE
    ranker = ready.published()["rankers"]["ctr"]
    assert ranker["day"] == str(YESTERDAY)
    # Whose labels can change no more.
    assert ranker["requests_until"] == str(BEFORE)
    assert (ready.root / ranker["checkpoint"]).is_dir()


def test_tables_grow_and_are_resized(ready):
    rows, resized = [], []
    for number in range(1, NUM_READY):
        folder = ready.root / "pretraining" / f"day={day_number(number)}"
        items = json.loads((folder / "result.json").read_text())["continued_from"]["tables"]
        rows.append(items["item_id"]["rows"] - items["item_id"]["rows_before"])
        resized.append(items["item_id"]["resized"])
    assert all(rows)
    assert any(resized)
    assert not all(resized)


def test_what_is_done_is_not_done_again(market):
    before = market.published(), market.attempts(YESTERDAY)
    code, output = market.daily(YESTERDAY)
    assert (code, f"{YESTERDAY}: published already" in output) == (PUBLISHED, True)
    code, output = market.daily(YESTERDAY, "--dry-run")
    assert code == PUBLISHED
    assert output.count(": done") == len(STAGES) - 1
    assert (market.published(), market.attempts(YESTERDAY)) == before


def test_a_dry_run_says_what_would_run(market):
    market.bring(TODAY)
    code, output = market.daily(TODAY, "--dry-run")
    assert code == PUBLISHED
    assert f"on from {YESTERDAY}" in output
    assert "prepare: would run: never tried" in output
    assert "gate (ctr): would run after prepare" in output
    assert not market.attempts(TODAY)


def test_a_day_that_is_not_there_waits(market):
    code, output = market.daily(TODAY)
    assert (code, "no such day yet" in output) == (WAITING, True)
    assert market.state(TODAY) == "failed"
    code, output = market.daily(TOMORROW)
    assert (code, f"the day before it, {TODAY}, is failed" in output) == (WAITING, True)
    assert market.published()["day"] == str(YESTERDAY)


def test_bad_days_are_stopped_until_they_are_mended(market):
    market.bring(TODAY)
    (path,) = market.source(TODAY).glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    code, output = market.daily(TODAY)
    assert code == FAILED
    assert "CorruptFileError" in output
    assert str(path) in output
    # Another attempt would meet the same.
    assert market.attempts(TODAY) == [("prepare", "failed")]
    assert market.told("run_state", "prepare") == TOLD["failed"]

    market.bring(TODAY)
    market.change(TODAY, half)
    code, output = market.daily(TODAY)
    assert (code, "checks.max_rows_change" in output) == (REJECTED, True)
    assert market.state(TODAY) == "rejected"
    assert market.told("run_state", "prepare") == TOLD["rejected"]
    assert market.published()["day"] == str(YESTERDAY)
    code, output = market.daily(TODAY)
    assert (code, "rejected before" in output) == (REJECTED, True)
    # What comes after would be built on it.
    market.bring(TOMORROW)
    code, output = market.daily(TOMORROW)
    assert (code, f"DataCheckError: day {TODAY}" in output) == (WAITING, True)
    assert market.state(TOMORROW) == "failed"

    market.bring(TODAY)
    code, output = market.daily(TODAY)
    assert code == PUBLISHED, output
    assert market.published()["day"] == str(TODAY)
    assert market.told("run_state", "prepare") == TOLD["succeeded"]
    states = [state for stage, state in market.attempts(TODAY) if stage == "prepare"]
    assert states == ["failed", "rejected", "succeeded"]


def test_a_poisoned_day_is_left_out(market):
    """Its figures are those of any day; the published ranker is what does badly on it."""
    market.bring(TODAY, TOMORROW, DAY_AFTER)
    market.change(TODAY, flipped)
    # Its labels are final, and so looked at, only with the next day.
    code, output = market.daily(TODAY)
    assert code == PUBLISHED, output
    code, output = market.daily(TOMORROW)
    assert (code, "progressive: published ranker at" in output) == (REJECTED, True), output
    # Nothing has learned from it.
    assert market.attempts(TOMORROW) == WHOLE[:2]
    assert market.told("gate_progressive_passed", "gate", "ctr") == 0
    assert market.told("run_state", "gate", "ctr") == TOLD["rejected"]
    assert market.published()["day"] == str(TODAY)
    kept = market.published()["rankers"]
    code, output = market.daily(DAY_AFTER)
    assert code == PUBLISHED, output
    ranked = ("test", "rank", "gate")
    assert market.attempts(DAY_AFTER) == [each for each in WHOLE if each[0] not in ranked]
    assert market.published() == {"day": str(DAY_AFTER), "rankers": kept}

    code, output = market.daily(TOMORROW, "--accept")
    assert (code, f"{DAY_AFTER} is published already" in output) == (WAITING, True)
    # The day after a rollback goes on from what serves.
    code, output = market.run("publish", "--rollback")
    assert (code, f"went back from {DAY_AFTER} to {TODAY}" in output) == (PUBLISHED, True)
    code, output = market.daily(TOMORROW, "--accept")
    assert code == PUBLISHED, output
    assert market.ledger.day(TOMORROW).note == "accepted by hand"
    ranker = market.published()["rankers"]["ctr"]
    assert ranker["requests_until"] == str(TODAY)
    assert read_export(market.root / ranker["export"]).content_digest == ranker["export_digest"]
    folder = market.root / "pretraining" / f"day={TOMORROW}"
    assert json.loads((folder / "result.json").read_text())["continued_from"]["day"] == str(TODAY)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("holdout.share=0", "holdout.share"),
        ("sequences.increments=false", "sequences.increments"),
        ('daily.tasks=["sales"]', "daily.tasks: sales"),
        ("daily.stages.rank.timeout=soon", "daily.stages.rank.timeout"),
        ("daily.gates.calibration=[2, 1]", "daily.gates.calibration"),
    ],
)
def test_a_wrong_setting_is_named(market, override, message):
    code, output = market.daily(TODAY, "--set", override)
    assert (code, message in output) == (WRONG, True), output
    assert not market.state(TODAY)


def killed_while_pretraining(market):
    """A driver of today's killed while its stage, which is then halted, was at work."""
    market.bring(TODAY)
    driver = market.start("daily", "--day", str(TODAY))
    wait_for(lambda: is_claimed(market.root / "pretraining" / f"day={TODAY}"))
    lines = market.server.running().items()
    (pid,) = [pid for pid, line in lines if line[0] == "jobs.pretrain"]
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: market.attempts(TODAY)[-1:] == [("pretrain", "running")])
    code, output = market.daily(TODAY)
    assert (code, "LeaseHeldError" in output) == (HELD, True)
    driver.kill()
    assert driver.end() == -signal.SIGKILL
    return pid


def test_what_a_killed_driver_left_with_a_scheduler_is_not_started_again(market):
    market.remembers = True
    pid = killed_while_pretraining(market)
    driver = market.start("daily", "--day", str(TODAY))
    wait_for(lambda: "left by a driver that is gone" in driver.output)
    os.kill(pid, signal.SIGCONT)
    assert driver.end() == PUBLISHED, driver.output
    assert market.attempts(TODAY) == WHOLE


def test_what_nobody_knows_of_any_more_is_waited_for(market):
    pid = killed_while_pretraining(market)
    # And a publication of which nobody can say how far it got.
    market.ledger.begin(StageKey(TODAY, "publish"), inputs={}, config="", code="")
    driver = market.start("daily", "--day", str(TODAY))
    wait_for(lambda: "still at work there; waiting for them" in driver.output)
    os.kill(pid, signal.SIGCONT)
    assert driver.end() == PUBLISHED, driver.output
    for stage in ("pretrain", "publish"):
        again = [(stage, "lost"), (stage, "succeeded")]
        assert [each for each in market.attempts(TODAY) if each[0] == stage] == again


def test_on_this_machines_own_scheduler_with_two_processes(market):
    """What another scheduler has done of the day is not done again."""
    market.bring(TODAY)
    driver = market.start("daily", "--day", str(TODAY))
    wait_for(lambda: ("export", "succeeded") in market.attempts(TODAY))
    for pid in market.server.running():
        os.kill(pid, signal.SIGKILL)
    assert driver.end() == -signal.SIGKILL
    arguments = ("--day", str(TODAY), "--set", "daily.stages.rank.processes=2")
    driver = market.start("daily", *arguments, real=True)
    assert driver.end(timeout_s=600) == PUBLISHED, driver.output
    done = [stage for stage, state in market.attempts(TODAY) if state == "succeeded"]
    assert done == STAGES
    assert "export: done before" in driver.output
    folder = market.root / "ranking" / "ctr" / "ST_SF" / f"day={TODAY}"
    assert json.loads((folder / "result.json").read_text())["world_size"] == 2
    assert "the job goes on" in driver.output
