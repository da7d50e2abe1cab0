"""How the chain stands, as the one who is called at night reads it."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from jobs import publish as publish_verb
from jobs import status
from jobs.chain.driver import ledger_of
from jobs.chain.published import publish, published_now
from jobs.chain.standing import Standing
from jobs.ledger.records import StageKey
from jobs.monitoring.push import textfile_path
from jobs.status import status_lines
from tests.jobs.daily_root import FIRST

NEXT = FIRST + timedelta(days=1)
FROM = {"inputs": {}, "config": "c", "code": "v"}


@pytest.fixture
def ledger(chain):
    return ledger_of(chain.settings())


def record(ledger, day, stage, state="succeeded", *, task="", error="", lease=None, **facts):
    begun = ledger.begin(StageKey(day, stage, task), lease=lease, **FROM)
    return ledger.finish(begun, state, error=error, facts=facts) if state else begun


@pytest.fixture
def driver(ledger):
    """The lease of one that is at work: this process."""
    with ledger.lease("daily") as lease:
        yield lease


@pytest.fixture
def two_days(chain, ledger, driver):
    """The first published, the second at work."""
    record(ledger, FIRST, "prepare", event_rows=12_345, set_aside_rows=6)
    record(ledger, FIRST, "rank", "failed", task="ctr", error="ShortageError: full\nat line 3")
    record(ledger, FIRST, "rank", task="ctr", run_samples=99)
    record(ledger, FIRST, "gate", task="ctr", auc=0.75, published_auc=None)
    record(ledger, FIRST, "gate", task="cart", auc=0.5)
    ledger.set_day(FIRST, "published")
    record(ledger, NEXT, "prepare", event_rows=12_345_678)
    record(ledger, NEXT, "test", task="ctr", auc=0.5)
    record(ledger, NEXT, "test", "lost", task="cart", error="its driver is gone")
    record(ledger, NEXT, "pretrain", None, lease=driver)
    ledger.set_day(NEXT, "running")
    publish(chain.root, FIRST, {})
    return ledger


def lines_of(chain, ledger, now, first=FIRST, last=NEXT):
    standing = Standing(
        published=published_now(chain.root),
        driver=ledger.holder("daily"),
        days=ledger.days(first, last),
        records=ledger.records(first, last),
        now=now,
    )
    return list(status_lines(standing))


def cells(line):
    return [cell for cell in line.split("  ") if cell]


def test_a_line_a_day_and_the_stages_of_the_last(chain, two_days):
    now = datetime.now(UTC) + timedelta(hours=30)
    found = lines_of(chain, two_days, now)
    assert found[0].startswith(f"serving: models of {FIRST}, for 30.0 h")
    assert found[1].startswith(f"driver: process {os.getpid()} on {os.uname().nodename}, since 20")
    header, first, second = (list(map(str.strip, cells(line))) for line in found[3:6])
    assert header == ["day", "state", "rows", *status._ORDER, "AUC cart", "ctr"]
    assert first[:5] == [str(FIRST), "published", "12,345", "ok 0s", "-"]
    assert first[7:] == ["ok 0s #2", "ok 0s", "-", "0.500", "0.750"]
    # Of two tasks the worse; the seconds of what is still running count, too.
    assert second[:6] == [str(NEXT), "running", "12.3M", "ok 0s", "lost 0s", "running 1800m"]
    assert second[-2:] == ["-", "-"]
    details = found[7:]
    assert details[0].startswith(f"{NEXT}: running since ")
    assert [line.split()[0] for line in details[1:]] == ["prepare", "test", "test", "pretrain"]
    assert details[2].endswith("its driver is gone")
    assert details[3].endswith("AUC 0.5000")


def test_what_a_driver_that_is_gone_was_at_is_left(chain, ledger):
    with ledger.lease("daily") as gone:
        record(ledger, FIRST, "prepare")
        record(ledger, FIRST, "pretrain", None, lease=gone)
        ledger.set_day(FIRST, "running")
    now = datetime.now(UTC)
    found = lines_of(chain, ledger, now)
    assert found[1].startswith("driver: none is at work, and what the last one was at is left: run")
    assert list(map(str.strip, cells(found[4])))[:6] == [
        *(str(FIRST), "LEFT", "-", "ok 0s", "-"),
        "LEFT",
    ]
    assert found[-3].startswith(f"{FIRST}: LEFT since ")
    assert "LEFT" in found[-1]
    assert found[-1].endswith(f"UTC; process {os.getpid()} on {os.uname().nodename} was its driver")
    # The next driver has begun, but not come to it yet.
    with ledger.lease("daily"):
        found = lines_of(chain, ledger, now)
    assert found[1].startswith("driver: process")
    assert "LEFT" in found[4]


def test_a_table_of_three_tasks_fits_a_terminal(chain, ledger):
    for task in ("cart", "ctr", "cvr"):
        for stage in ("test", "rank"):
            record(ledger, FIRST, stage, task=task)
        figures = {"auc": 0.5, "published_auc": 0.5, "new_item_auc": 0.5, "calibration_ratio": 1}
        inputs = {f"held_out {day}": "d" for day in (FIRST, NEXT)}
        begun = ledger.begin(StageKey(FIRST, "gate", task), **(FROM | {"inputs": inputs}))
        ledger.finish(begun, "succeeded", facts=figures)
    for stage in ("prepare", "pretrain", "export", "publish"):
        record(ledger, FIRST, stage, event_rows=9e8)
    ledger.set_day(FIRST, "published")
    assert max(map(len, lines_of(chain, ledger, datetime.now(UTC)))) <= 120


def test_what_failed_is_told_in_its_first_line(chain, ledger):
    record(ledger, FIRST, "prepare", "failed", error="CorruptFileError: part-0: cut off\nsee log")
    record(ledger, FIRST, "prepare", "failed", error="CorruptFileError: part-0: cut off\nsee log")
    ledger.set_day(FIRST, "failed", "the note")
    found = lines_of(chain, ledger, datetime.now(UTC))
    assert found[0] == "serving: nothing yet"
    assert "FAILED" in found[4]
    assert found[-2] == "  the note"
    assert found[-1].endswith("attempt 2, CorruptFileError: part-0: cut off")


def test_why_an_earlier_day_does_not_serve(chain, ledger):
    record(ledger, FIRST, "prepare")
    ledger.set_day(FIRST, "rejected", "gates (ctr) not passed: progressive: 0.48\nmore")
    record(ledger, NEXT, "prepare")
    ledger.set_day(NEXT, "published", "accepted by hand")
    found = lines_of(chain, ledger, datetime.now(UTC))
    assert found[6:8] == ["", f"{FIRST}: REJECTED: gates (ctr) not passed: progressive: 0.48"]
    assert found[8].startswith(f"{NEXT}: published since ")


def test_a_day_that_waits_is_no_failure(chain, ledger):
    ledger.set_day(FIRST, "waiting", "no such day yet; bring it")
    ledger.set_day(NEXT, "running")
    found = lines_of(chain, ledger, datetime.now(UTC))
    assert found[4].split()[:2] == [str(FIRST), "waiting"]
    assert f"{FIRST}: waiting: no such day yet; bring it" in found


def test_the_figures_that_tell_most(chain, two_days):
    two_days.set_day(NEXT, "rejected", "gates not passed")
    found = lines_of(chain, two_days, datetime.now(UTC), FIRST, FIRST)
    assert found[-4].endswith("12,345 events, 6 set aside")
    assert found[-3].endswith("attempt 2, 99 samples")
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


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [("status", ()), ("publish", ()), ("daily", ("--day", str(FIRST), "--dry-run"))],
)
def test_whoever_reads_may_stop_reading(chain, two_days, verb, arguments):
    chain.source(FIRST)
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{verb}", "--config", str(chain.config), *arguments],
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
    assert [(day["rows"], day["auc"]) for day in found["days"]] == [
        (12_345, {"ctr": 0.75, "cart": 0.5}),
        (12_345_678, {}),
    ]
    assert found["driver"]["pid"] == os.getpid()
    assert not any(stage["left"] for stage in found["stages"])


def test_before_anything_ran(chain, monkeypatch, capsys):
    found = run(monkeypatch, capsys, status, chain).splitlines()
    assert found == ["serving: nothing yet", "driver: none is at work", "no day has been run yet"]
    assert json.loads(run(monkeypatch, capsys, status, chain, "--json")) == {
        "published": None,
        "driver": None,
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
    (chain.root.parent / "metrics").mkdir()
    out = run(monkeypatch, capsys, publish_verb, chain, "--rollback", "--to", str(FIRST))
    assert f"went back from {NEXT} to {FIRST}" in out
    assert "can go back to: nothing" in out
    assert [day.state for day in ledger.days(FIRST, NEXT)] == ["published", "rejected"]
    assert ledger.day(NEXT).note == f"rolled back to {FIRST}"
    # Prometheus hears whose models serve, and that no publication was made for it.
    told = textfile_path(chain.root.parent / "metrics", "publish", "").read_text().splitlines()
    day_s = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC).timestamp()
    name = 'frostrank_serving_day_timestamp_seconds{stage="publish",task=""}'
    ((what, value),) = (line.split() for line in told if not line.startswith("#"))
    assert (what, float(value)) == (name, day_s)


def test_going_back_leaves_a_day_between_its_own_reason(chain, ledger, monkeypatch, capsys):
    last = NEXT + timedelta(days=1)
    for day in (FIRST, last):
        chain.pretraining(day)
        publish(chain.root, day, {"ctr": chain.ranker(day)})
        ledger.set_day(day, "published")
    ledger.set_day(NEXT, "rejected", "auc: 0.4 against 0.6")
    run(monkeypatch, capsys, publish_verb, chain, "--rollback", "--to", str(FIRST))
    notes = [(day.state, day.note) for day in ledger.days(NEXT, last)]
    assert notes == [
        ("rejected", "auc: 0.4 against 0.6"),
        ("rejected", f"rolled back to {FIRST}"),
    ]


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
