"""The daily chain on days that arrive one by one: what each exit code means, and what serves."""

import json

import pytest

from tests.integration.daily_market import (
    BEFORE,
    FIRST,
    NUM_READY,
    PUBLISHED,
    TODAY,
    TOMORROW,
    WAITING,
    WHOLE,
    WRONG,
    YESTERDAY,
    day_number,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_every_day_is_published_from_its_own_models(market):
    assert [market.state(day_number(n)) for n in range(NUM_READY)] == ["published"] * NUM_READY
    first = [each for each in WHOLE if each[0] != "test"]
    assert market.attempts(FIRST) == first
    # Nothing served yet on the day that it could test.
    assert market.attempts(day_number(1)) == first
    assert market.attempts(BEFORE) == WHOLE
    assert market.attempts(YESTERDAY) == WHOLE
    ranker = market.published()["rankers"]["ctr"]
    assert ranker["day"] == str(YESTERDAY)
    # Whose labels can change no more.
    assert ranker["requests_until"] == str(BEFORE)
    assert (market.root / ranker["checkpoint"]).is_dir()


def test_tables_grow_and_are_resized(market):
    rows, resized = [], []
    for number in range(1, NUM_READY):
        folder = market.root / "pretraining" / f"day={day_number(number)}"
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
    assert output == f"{YESTERDAY}: published already: nothing to do\n"
    assert (market.published(), market.attempts(YESTERDAY)) == before


def test_a_dry_run_says_what_would_run(market):
    market.bring(TODAY)
    code, output = market.daily(TODAY, "--dry-run")
    assert code == PUBLISHED
    assert f"on from {YESTERDAY}" in output
    assert "prepare: would run: never tried" in output
    assert "gate (ctr): would run after prepare" in output
    assert "publish: would run last, if every gate is passed" in output
    assert not market.attempts(TODAY)


def test_a_day_that_is_not_there_waits(market):
    code, output = market.daily(TODAY)
    assert (code, "no such day yet" in output) == (WAITING, True)
    assert market.state(TODAY) == "waiting"
    code, output = market.daily(TOMORROW)
    assert (code, f"the day before it, {TODAY}, is waiting" in output) == (WAITING, True)
    assert market.published()["day"] == str(YESTERDAY)


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
