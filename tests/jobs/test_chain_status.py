"""How the chain stands, as the one who is called at night reads it."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from jobs import publish as publish_verb
from jobs import status
from jobs.chain.driver import ledger_of
from jobs.chain.published import publish, published_now
from jobs.ledger.records import StageKey
from jobs.status import status_lines
from tests.jobs.daily_root import FIRST, DailyRoot

NEXT = FIRST + timedelta(days=1)
FROM = {"inputs": {}, "config": "c", "code": "v"}


@pytest.fixture(autouse=True)
def _same_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def chain(tmp_path):
    return DailyRoot(tmp_path)


@pytest.fixture
def ledger(chain):
    return ledger_of(chain.settings())


def record(ledger, day, stage, state="succeeded", *, task="", error="", **facts):
    begun = ledger.begin(StageKey(day, stage, task), **FROM)
    return ledger.finish(begun, state, error=error, facts=facts) if state else begun


@pytest.fixture
def two_days(chain, ledger):
    """The first published, the second stuck."""
    record(ledger, FIRST, "prepare", event_rows=12_345, set_aside_rows=6)
    record(ledger, FIRST, "rank", "failed", task="ctr", error="ShortageError: full\nat line 3")
    record(ledger, FIRST, "rank", task="ctr", run_samples=99)
    record(ledger, FIRST, "gate", task="ctr", auc=0.75, published_auc=None)
    ledger.set_day(FIRST, "published")
    record(ledger, NEXT, "prepare")
    record(ledger, NEXT, "test", task="ctr", auc=0.5)
    record(ledger, NEXT, "test", "lost", task="cart", error="its driver is gone")
    record(ledger, NEXT, "pretrain", None)
    ledger.set_day(NEXT, "running")
    publish(chain.root, FIRST, {})
    return ledger


def lines_of(chain, ledger, now):
    days, records = ledger.days(FIRST, NEXT), ledger.records(FIRST, NEXT)
    return list(status_lines(days, records, published_now(chain.root), now))


def cells(line):
    return [cell for cell in line.split("  ") if cell]


def test_a_line_a_day_and_the_stages_of_the_last(chain, two_days):
    now = datetime.now(UTC) + timedelta(hours=30)
    found = lines_of(chain, two_days, now)
    assert found[0].startswith(f"serving: models of {FIRST}, for 30.0 h")
    header, first, second = (list(map(str.strip, cells(line))) for line in found[2:5])
    assert header == ["day", "state", *status._ORDER]
    assert first[:4] == [str(FIRST), "published", "ok 0s", "-"]
    assert first[6:8] == ["ok 0s #2", "ok 0s"]
    # Of two tasks the worse; the seconds of what is still running count, too.
    assert second[:5] == [str(NEXT), "running", "ok 0s", "lost 0s", "running 1800m"]
    details = found[6:]
    assert details[0].startswith(f"{NEXT}: running since ")
    assert [line.split()[0] for line in details[1:]] == ["prepare", "test", "test", "pretrain"]
    assert details[2].endswith("its driver is gone")
    assert details[3].endswith("AUC 0.5000")


def test_what_failed_is_told_in_its_first_line(chain, ledger):
    record(ledger, FIRST, "prepare", "failed", error="CorruptFileError: part-0: cut off\nsee log")
    record(ledger, FIRST, "prepare", "failed", error="CorruptFileError: part-0: cut off\nsee log")
    ledger.set_day(FIRST, "failed", "the note")
    found = lines_of(chain, ledger, datetime.now(UTC))
    assert found[0] == "serving: nothing yet"
    assert "FAILED" in found[3]
    assert found[-2] == "  the note"
    assert found[-1].endswith("attempt 2  CorruptFileError: part-0: cut off")


def test_why_an_earlier_day_does_not_serve(chain, ledger):
    record(ledger, FIRST, "prepare")
    ledger.set_day(FIRST, "rejected", "gates (ctr) not passed: progressive: 0.48\nmore")
    record(ledger, NEXT, "prepare")
    ledger.set_day(NEXT, "published", "accepted by hand")
    found = lines_of(chain, ledger, datetime.now(UTC))
    assert found[5:7] == ["", f"{FIRST}: REJECTED: gates (ctr) not passed: progressive: 0.48"]
    assert found[7].startswith(f"{NEXT}: published since ")


def test_a_day_that_waits_is_no_failure(chain, ledger):
    ledger.set_day(FIRST, "waiting", "no such day yet; bring it")
    ledger.set_day(NEXT, "running")
    found = lines_of(chain, ledger, datetime.now(UTC))
    assert found[3].split()[:2] == [str(FIRST), "waiting"]
    assert f"{FIRST}: waiting: no such day yet; bring it" in found


def test_the_figures_that_tell_most(chain, two_days):
    two_days.set_day(NEXT, "rejected", "gates not passed")
    days = two_days.days(FIRST, FIRST)
    records = two_days.records(FIRST, FIRST)
    found = list(status_lines(days, records, None, datetime.now(UTC)))
    assert found[-3].endswith("12,345 events, 6 set aside")
    assert found[-2].endswith("attempt 2  99 samples")
    assert found[-1].endswith("AUC 0.7500")


def test_the_days_that_a_model_was_judged_on(chain, ledger):
    inputs = {f"held_out {FIRST}": "d1", f"held_out {NEXT}": "d2", "candidate": "d3"}
    begun = ledger.begin(StageKey(NEXT, "gate", "ctr"), inputs=inputs, config="c", code="v")
    ledger.finish(begun, "succeeded", facts={"auc": 0.75})
    ledger.set_day(NEXT, "published")
    found = lines_of(chain, ledger, datetime.now(UTC))
    assert found[-1].endswith(f"AUC 0.7500, on {FIRST} {NEXT}")


def run(monkeypatch, capsys, module, chain, *arguments):
    monkeypatch.setattr(sys, "argv", ["verb", "--config", str(chain.config), *arguments])
    module.main()
    return capsys.readouterr().out


def test_on_the_command_line(chain, two_days, monkeypatch, capsys):
    out = run(monkeypatch, capsys, status, chain)
    assert [str(day) in out for day in (FIRST, NEXT)] == [True, True]
    assert "pretrain" in out.splitlines()[-1]
    out = run(monkeypatch, capsys, status, chain, "--days", "1", "--day", str(FIRST))
    assert str(NEXT) not in out


def test_whoever_reads_may_stop_reading(chain, two_days):
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.status", "--config", str(chain.config)],
        stdout=written,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(written)
    assert (done.returncode, done.stderr) == (0, b"")


def test_as_json(chain, two_days, monkeypatch, capsys):
    found = json.loads(run(monkeypatch, capsys, status, chain, "--json"))
    assert found["published"]["day"] == str(FIRST)
    assert [(day["day"], day["state"]) for day in found["days"]] == [
        (str(FIRST), "published"),
        (str(NEXT), "running"),
    ]
    stages = [(stage["stage"], stage["attempt"], stage["state"]) for stage in found["stages"]]
    assert stages[:3] == [
        ("prepare", 1, "succeeded"),
        ("rank", 1, "failed"),
        ("rank", 2, "succeeded"),
    ]
    assert found["stages"][0]["facts"] == {"event_rows": 12_345, "set_aside_rows": 6}


def test_before_anything_ran(chain, monkeypatch, capsys):
    assert (
        run(monkeypatch, capsys, status, chain) == "serving: nothing yet\nno day has been run yet\n"
    )
    assert json.loads(run(monkeypatch, capsys, status, chain, "--json")) == {
        "published": None,
        "days": [],
        "stages": [],
    }


def test_what_serves_is_shown(chain, monkeypatch, capsys):
    for day in (FIRST, NEXT):
        chain.pretraining(day)
        publish(chain.root, day, {"ctr": chain.ranker(day)})
    out = run(monkeypatch, capsys, publish_verb, chain)
    assert f"serving: {NEXT}" in out
    assert (
        f"ctr: ranking/ctr/ST_SF/day={NEXT}/checkpoints/step-00000003 on tables/day={NEXT}" in out
    )
    assert f"can go back to: {FIRST}" in out


def test_going_back_counts_the_days_after_as_rejected(chain, ledger, monkeypatch, capsys):
    for day in (FIRST, NEXT):
        chain.pretraining(day)
        publish(chain.root, day, {"ctr": chain.ranker(day)})
        ledger.set_day(day, "published")
    out = run(monkeypatch, capsys, publish_verb, chain, "--rollback", "--to", str(FIRST))
    assert f"went back from {NEXT} to {FIRST}" in out
    assert "can go back to: nothing" in out
    assert [day.state for day in ledger.days(FIRST, NEXT)] == ["published", "rejected"]
    assert ledger.day(NEXT).note == f"rolled back to {FIRST}"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--rollback"], 1, "nothing earlier to go back to"),
        ([], 1, "nothing was ever published"),
        (["--to", str(FIRST)], 2, "--to: only with --rollback"),
    ],
)
def test_what_cannot_be_shown_or_undone(chain, monkeypatch, capsys, arguments, code, message):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, capsys, publish_verb, chain, *arguments)
    assert ended.value.code == code
    assert message in capsys.readouterr().err
