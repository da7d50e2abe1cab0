"""What the daily chain does on days that are not as they should be, and on those after them."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from embeddings.manifests import read_export
from jobs.checkpoint_files import content_digest, read_manifest
from jobs.runs import RunFolder
from tests.integration.daily_market import (
    BEFORE,
    DAY_AFTER,
    FAILED,
    FIRST,
    LAST,
    PUBLISHED,
    REJECTED,
    TODAY,
    TOLD,
    TOMORROW,
    WAITING,
    WHOLE,
    YESTERDAY,
    flipped,
    half,
)
from tests.jobs.ledgers import write

pytestmark = [pytest.mark.integration, pytest.mark.slow]


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
    assert market.state(TOMORROW) == "waiting"

    market.bring(TODAY)
    code, output = market.daily(TODAY)
    assert code == PUBLISHED, output
    assert market.published()["day"] == str(TODAY)
    assert market.told("run_state", "prepare") == TOLD["succeeded"]
    states = [state for stage, state in market.attempts(TODAY) if stage == "prepare"]
    assert states == ["failed", "rejected", "succeeded"]


def test_too_many_bad_rows_reject_the_day(market):
    market.bring(TODAY, TOMORROW)
    market.change(TODAY, nobodys)
    code, output = market.daily(TODAY)
    assert (code, "by its data: SetAsideError: day" in output) == (REJECTED, True), output
    assert market.state(TODAY) == "rejected"
    assert market.attempts(TODAY) == [("prepare", "rejected")]
    assert market.told("run_state", "prepare") == TOLD["rejected"]
    assert market.published()["day"] == str(YESTERDAY)
    code, output = market.daily(TOMORROW)
    assert (code, f"SetAsideError: day {TODAY}" in output) == (WAITING, True)
    market.bring(TODAY)
    code, output = market.daily(TODAY)
    assert code == PUBLISHED, output


def test_a_day_that_never_comes_is_left_out(market):
    market.bring(TOMORROW)
    allowed = ("--set", "source.missing_days=allow")
    code, output = market.daily(TODAY, *allowed)
    assert (code, "by its data: not one event to learn from" in output) == (REJECTED, True), output
    assert market.attempts(TODAY) == WHOLE[:1]
    assert market.told("run_state", "prepare") == TOLD["rejected"]
    code, output = market.daily(TOMORROW, *allowed)
    assert code == PUBLISHED, output
    run = RunFolder(market.root / "pretraining" / f"day={TOMORROW}")
    assert run.identity["continued"]["day"] == str(YESTERDAY)


def with_new_items(table):
    """The items of some users are others, which no day has shown before."""
    items, place = table["item_id"], table.schema.get_field_index("item_id")
    given = [
        item + 1_000_000 * (user % 10 == 3)
        for user, item in zip(table["user_id"].to_pylist(), items.to_pylist(), strict=True)
    ]
    return table.set_column(place, "item_id", pa.array(given, items.type))


def served(market):
    """What serves, and that its files are what was published."""
    found = {}
    for task, ranker in market.published()["rankers"].items():
        checkpoint = market.root / ranker["checkpoint"]
        assert content_digest(read_manifest(checkpoint)) == ranker["digest"]
        assert read_export(market.root / ranker["export"]).content_digest == ranker["export_digest"]
        found[task] = ranker["digest"], ranker["export_digest"]
    return found


def test_what_becomes_of_the_files_of_a_published_day_is_not_taken_in(market):
    """What serves has learned from them as they were; going back over the day opens it again."""
    before, attempts = served(market), market.attempts(YESTERDAY)
    market.change(YESTERDAY, with_new_items)
    code, output = market.daily(YESTERDAY)
    assert code == PUBLISHED, output
    assert f"{YESTERDAY}: published already; its files were changed since" in output
    assert (served(market), market.attempts(YESTERDAY)) == (before, attempts)
    vocabulary = vocabulary_rows(market, YESTERDAY)
    market.bring(TODAY)
    code, output = market.daily(TODAY)
    assert code == PUBLISHED, output
    said = (market.root / f"logs/day={TODAY}/prepare/attempt-1").rglob("*stdout*")
    told = f"files were changed since they were cleaned: {YESTERDAY}; the changes are not taken in"
    assert told in "".join(path.read_text() for path in said)
    assert str(YESTERDAY) in market.ledger.day(TODAY).note
    assert "which is not taken in" in market.run("status")[1]
    assert vocabulary_rows(market, YESTERDAY) == vocabulary
    run = RunFolder(market.root / "pretraining" / f"day={TODAY}")
    assert run.identity["continued"]["day"] == str(YESTERDAY)

    code, output = market.run("publish", "--rollback", "--to", str(BEFORE))
    assert code == 0, output
    code, output = market.run("backfill", "--from", str(YESTERDAY), "--to", str(TODAY))
    assert code == PUBLISHED, output
    assert vocabulary_rows(market, YESTERDAY) > vocabulary
    assert market.published()["day"] == str(TODAY)
    assert market.ledger.day(TODAY).note == ""


def vocabulary_rows(market, day):
    (path,) = (market.root / "vocabulary" / "item_id" / f"day={day}").glob("*.parquet")
    return pq.read_metadata(path).num_rows


def test_a_day_that_was_gone_back_from_stays_so_whatever_touches_its_files(market):
    code, output = market.run("publish", "--rollback")
    assert code == 0, output
    before = served(market)
    for day in (BEFORE, YESTERDAY):
        for path in market.source(day).glob("*.parquet"):
            os.utime(path)
    code, output = market.daily(YESTERDAY)
    assert (code, "what its files hold is the same" in output) == (REJECTED, True), output
    assert "rolled back" in output
    assert served(market) == before
    assert market.published()["day"] == str(BEFORE)
    code, output = market.daily(YESTERDAY, "--accept")
    assert code == PUBLISHED, output
    assert market.published()["day"] == str(YESTERDAY)
    # A driver that was killed when it had published the day, before it could record that.
    write(
        market.ledger,
        "DELETE FROM ledger_days WHERE state = 'published' AND day = ?",
        str(YESTERDAY),
    )
    assert market.ledger.settled(YESTERDAY).state == "rejected"
    code, output = market.daily(YESTERDAY)
    assert code == PUBLISHED, output
    assert (market.state(YESTERDAY), market.published()["day"]) == ("published", str(YESTERDAY))


def test_raw_days_that_were_built_may_be_cleared_away(market):
    before = served(market)
    for day in (FIRST, BEFORE, YESTERDAY):
        shutil.rmtree(market.source(day))
    code, output = market.daily(YESTERDAY)
    assert (code, f"{YESTERDAY}: published already" in output) == (PUBLISHED, True), output
    market.bring(TODAY)
    code, output = market.daily(TODAY)
    assert code == PUBLISHED, output
    assert market.published()["day"] == str(TODAY)
    assert before != served(market)


def nobodys(table):
    """Half of the rows are without a user."""
    users = [
        None if number % 2 else user for number, user in enumerate(table["user_id"].to_pylist())
    ]
    place = table.schema.get_field_index("user_id")
    return table.set_column(place, "user_id", pa.array(users, table["user_id"].type))


def test_a_day_whose_labels_a_check_stops_is_rejected(market):
    """They are those of the day before, which is published already."""
    market.bring(TODAY, TOMORROW)
    wrong = ("--set", "checks.label_rate={ctr=[0.9, 1.0]}")
    code, output = market.daily(TODAY, *wrong)
    assert (code, f"by its data: DataCheckError: day {YESTERDAY}" in output) == (REJECTED, True), (
        output
    )
    code, output = market.daily(TOMORROW, *wrong)
    assert (code, f"DataCheckError: day {YESTERDAY}" in output) == (WAITING, True)


def test_a_poisoned_day_is_left_out(market):
    """Its figures are those of any day; the published ranker is what does badly on it."""
    market.bring(TODAY, TOMORROW, DAY_AFTER, LAST)
    market.change(TODAY, flipped)
    # Its labels are final, and so looked at, only with the next day.
    code, output = market.daily(TODAY)
    assert code == PUBLISHED, output
    code, output = market.daily(TOMORROW)
    assert (code, "progressive: ranker that served at" in output) == (REJECTED, True), output
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
    # What serves, and the new day's clicks: nothing of the rejected day.
    run = RunFolder(market.root / "pretraining" / f"day={DAY_AFTER}")
    assert run.identity["continued"]["day"] == str(TODAY)
    assert run.identity["days"]["pretraining"] == [str(DAY_AFTER)] * 2
    # Nor is any model judged on labels that may be wrong.
    code, output = market.daily(LAST)
    assert code == PUBLISHED, output
    scored = f"scores requests of {YESTERDAY}, {DAY_AFTER}; left out, as rejected: {TODAY}, "
    assert scored + str(TOMORROW) in output
    judged = json.loads((market.root / f"judgements/ctr/day={LAST}/gate.json").read_text())
    assert judged["left_out"] == [str(TODAY), str(TOMORROW)]
    assert judged["models"][str(LAST)]["all"]["num_samples"] == held_out(
        market, YESTERDAY, DAY_AFTER
    )
    assert f"on {YESTERDAY} {DAY_AFTER}" in market.run("status")[1]

    code, output = market.daily(TOMORROW, "--accept")
    assert (code, f"{LAST} is published already" in output) == (WAITING, True)
    # The day after a rollback goes on from what serves.
    code, output = market.run("publish", "--rollback", "--to", str(TODAY))
    assert (code, f"went back from {LAST} to {TODAY}" in output) == (PUBLISHED, True)
    code, output = market.daily(TOMORROW, "--accept")
    assert code == PUBLISHED, output
    assert market.ledger.day(TOMORROW).note == "accepted by hand"
    ranker = market.published()["rankers"]["ctr"]
    assert ranker["requests_until"] == str(TODAY)
    assert read_export(market.root / ranker["export"]).content_digest == ranker["export_digest"]
    folder = market.root / "pretraining" / f"day={TOMORROW}"
    assert json.loads((folder / "result.json").read_text())["continued_from"]["day"] == str(TODAY)


def held_out(market, *days):
    """Held-out candidates that have a label, of some days."""
    folders = (market.root / "held_out" / f"day={day}" for day in days)
    files = (path for folder in folders for path in folder.glob("*.parquet"))
    labels = (pq.read_table(path).column("label_ctr") for path in files)
    return sum(pc.count(pc.list_flatten(column)).as_py() for column in labels)
