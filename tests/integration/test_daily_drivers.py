"""What a killed driver of the daily chain leaves behind, and what the next one makes of it."""

import json
import os
import signal
import time

import pytest

from jobs.claims import is_claimed, prepare_folder
from jobs.ledger.records import StageKey
from tests.integration.daily_market import (
    FAILED,
    HELD,
    PUBLISHED,
    STAGES,
    TODAY,
    WHOLE,
)
from tests.jobs.ledgers import write

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PATIENCE_S = 120


def wait_for(condition):
    end_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end_s, "in vain"
        time.sleep(0.01)
    return found


def killed_while(market, stage, folder):
    """A driver of today's killed while its stage, which is then halted, was at work in a folder."""
    market.bring(TODAY)
    driver = market.start("daily", "--day", str(TODAY))
    wait_for(lambda: is_claimed(folder))
    lines = market.server.running().items()
    (pid,) = [pid for pid, line in lines if line[0] == f"jobs.{stage}"]
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: market.attempts(TODAY)[-1:] == [(stage, "running")])
    code, output = market.daily(TODAY)
    assert (code, "LeaseHeldError" in output) == (HELD, True)
    driver.kill()
    assert driver.end() == -signal.SIGKILL
    return pid


def killed_while_pretraining(market):
    return killed_while(market, "pretrain", market.root / "pretraining" / f"day={TODAY}")


def test_what_a_killed_driver_left_with_a_scheduler_is_not_started_again(market):
    market.remembers = True
    pid = killed_while_pretraining(market)
    driver = market.start("daily", "--day", str(TODAY))
    wait_for(lambda: "left by a driver that is gone" in driver.output)
    os.kill(pid, signal.SIGCONT)
    assert driver.end() == PUBLISHED, driver.output
    assert market.attempts(TODAY) == WHOLE


def test_what_a_killed_driver_has_submitted_but_not_recorded_is_found(market):
    market.remembers = True
    pid = killed_while_pretraining(market)
    write(
        market.ledger,
        "UPDATE ledger_stages SET handle = '', state = 'submitted' WHERE handle <> ''"
        " AND state = 'running'",
    )
    driver = market.start("daily", "--day", str(TODAY))
    wait_for(lambda: "found at its scheduler" in driver.output)
    os.kill(pid, signal.SIGCONT)
    assert driver.end() == PUBLISHED, driver.output
    assert market.attempts(TODAY) == WHOLE
    (record,) = [r for r in market.ledger.records(TODAY, TODAY) if r.key.stage == "pretrain"]
    assert record.handle == f"forked://local_cwd/{pid}"


def test_what_nobody_knows_of_any_more_is_waited_for(market):
    pid = killed_while_pretraining(market)
    # And a publication of which nobody can say how far it got.
    market.ledger.begin(StageKey(TODAY, "publish"), inputs={}, config="", code="")
    driver = market.start("daily", "--day", str(TODAY))
    wait_for(lambda: "still at work there; waiting for them" in driver.output)
    os.kill(pid, signal.SIGCONT)
    assert driver.end() == PUBLISHED, driver.output
    orphan = market.server.submitted()[pid][1]
    assert "was given up by the daily chain" in started_late(market, orphan)
    for stage in ("pretrain", "publish"):
        again = [(stage, "lost"), (stage, "succeeded")]
        assert [each for each in market.attempts(TODAY) if each[0] == stage] == again


def started_late(market, line):
    """What a stage says that begins when nobody waits for it any more; it changes nothing."""
    before = files_of(market)
    started = market.server.start(line[0], line[1:], market.folder / "late" / line[0])
    assert started.end() == FAILED, started.output
    assert files_of(market) == before
    return started.output


def files_of(market):
    """What the stages have made, and when."""
    files = [path for path in market.root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_prepare_that_is_still_at_work_is_waited_for(market):
    pid = killed_while(market, "prepare", prepare_folder(market.root))
    driver = market.start("daily", "--day", str(TODAY))
    wait_for(lambda: "still at work there; waiting for them" in driver.output)
    os.kill(pid, signal.SIGCONT)
    assert driver.end() == PUBLISHED, driver.output
    assert market.attempts(TODAY) == [("prepare", "lost"), *WHOLE]


def test_no_stage_begins_when_another_attempt_has_been_admitted(market):
    before = market.server.submitted()
    market.bring(TODAY)
    code, output = market.daily(TODAY)
    assert code == PUBLISHED, output
    lines = [line for pid, (_, line) in market.server.submitted().items() if pid not in before]
    assert len(lines) == len(STAGES) - 1
    for module, *arguments in lines:
        assert arguments[-1].startswith("daily.attempt=")
        late = [module, *arguments[:-1], "daily.attempt=another"]
        assert "attempt another was given up by the daily chain" in started_late(market, late)


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
