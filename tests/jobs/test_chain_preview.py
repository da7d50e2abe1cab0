"""What a day would do, told without doing anything."""

import sys
from datetime import timedelta

import pytest

from jobs import daily, status
from jobs.chain.driver import day_of, ledger_of
from jobs.chain.inputs import source_digests
from jobs.ledger.records import StageKey
from tests.jobs.daily_root import FIRST

RESOURCES = (
    "daily.scheduler=slurm",
    'daily.scheduler_options={partition="nights"}',
    "daily.stages.prepare={cpus=16, memory_mb=64000, attempts=3, timeout='90m'}",
    "daily.stages.pretrain={nodes=2, processes=8, gpus=8, scheduler_retries=1}",
)


def told(monkeypatch, capsys, chain, *arguments, verb=daily):
    """Exit code, what was printed, the error."""
    monkeypatch.setattr(sys, "argv", ["verb", "--config", str(chain.config), *arguments])
    code = 0
    try:
        verb.main()
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def test_what_each_stage_asks_of_the_scheduler(monkeypatch, capsys, chain):
    chain.source(FIRST)
    given = [text for override in RESOURCES for text in ("--set", override)]
    code, lines, _ = told(monkeypatch, capsys, chain, "--day", str(FIRST), "--dry-run", *given)
    assert code == 0
    usual = "1x1 processes, 2 CPUs, 4096 MB; 2 attempts, up to 6h each"
    large = "2x8 processes, 2 CPUs, 8 GPUs, 4096 MB; 2 attempts, scheduler_retries 1, up to 6h each"
    own = "1x1 processes, 16 CPUs, 64000 MB; 3 attempts, up to 90m each"
    assert lines == [
        f"{FIRST}: cold, it is the first; tasks ctr; scheduler slurm (partition=nights)",
        f"  prepare: would run: never tried; {own}",
        f"  test (ctr): would run after prepare; {usual}",
        f"  pretrain: would run after prepare; {large}",
        f"  export: would run after pretrain; {usual}",
        f"  rank (ctr): would run after prepare; {usual}",
        f"  gate (ctr): would run after prepare; {usual}",
        "  publish: would run last, if every gate is passed",
    ]


def test_a_day_that_is_not_there_would_wait(monkeypatch, capsys, chain):
    code, lines, error = told(monkeypatch, capsys, chain, "--day", str(FIRST), "--dry-run")
    assert (code, lines) == (4, [])
    assert f"WaitingError: {chain.root.parent}/events/day={FIRST}: no such day yet" in error


def test_every_day_that_yesterday_means_is_shown(monkeypatch, capsys, chain):
    last = FIRST + timedelta(days=2)
    monkeypatch.setattr(daily, "day_of", lambda _: last)
    chain.source(FIRST)
    chain.source(FIRST + timedelta(days=1))
    _, lines, _ = told(monkeypatch, capsys, chain, "--day", "yesterday", "--dry-run")
    assert lines[0].startswith(f"{FIRST}: cold")
    assert (
        lines[-2]
        == f"{FIRST + timedelta(days=1)}: would run all its stages once {FIRST} is settled"
    )
    assert lines[-1].startswith(f"{last}: would wait: ")


@pytest.mark.parametrize(("verb", "arguments"), [(daily, ("--dry-run",)), (status, ())])
def test_nothing_is_made(monkeypatch, capsys, chain, verb, arguments):
    chain.source(FIRST)
    before = sorted(chain.root.parent.rglob("*"))
    told(monkeypatch, capsys, chain, "--day", str(FIRST), *arguments, verb=verb)
    assert sorted(chain.root.parent.rglob("*")) == before


def test_settled_days(monkeypatch, capsys, chain):
    """A published day is left as it is, a rejected one until its files are others."""
    ledger = ledger_of(chain.settings())
    chain.source(FIRST)
    dry = ("--day", str(FIRST), "--dry-run")
    inputs = source_digests(chain.settings(), [FIRST])
    begun = ledger.begin(StageKey(FIRST, "prepare"), inputs=inputs, config="c", code="v")
    ledger.finish(begun, "succeeded")
    ledger.set_day(FIRST, "rejected", "a gate said no")
    code, lines, _ = told(monkeypatch, capsys, chain, *dry)
    assert (code, lines[0][:43]) == (0, f"{FIRST}: rejected before: a gate said no"[:43])
    assert len(lines) == 1
    _, lines, _ = told(monkeypatch, capsys, chain, *dry, "--accept")
    assert lines[0].startswith(f"{FIRST}: cold")
    chain.source(FIRST, "mended")
    _, lines, _ = told(monkeypatch, capsys, chain, *dry)
    assert lines[0].startswith(f"{FIRST}: rejected before, but inputs.source {FIRST}")
    assert lines[1].startswith(f"{FIRST}: cold")
    ledger.set_day(FIRST, "published")
    code, lines, _ = told(monkeypatch, capsys, chain, *dry)
    assert (code, lines) == (0, [f"{FIRST}: published already: nothing to do"])


def test_days_are_accepted_one_by_one(monkeypatch, capsys, chain):
    code, _, error = told(monkeypatch, capsys, chain, "--day", "yesterday", "--accept")
    assert code == 2
    assert f"accept one by its date, --day {day_of('yesterday')}, say" in error
    assert not chain.root.exists()
