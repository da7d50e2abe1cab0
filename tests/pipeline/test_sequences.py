from datetime import date

import pytest
from pydantic import ValidationError

from pipeline.partitions import days_between
from pipeline.sequences import SequenceSettings
from tests.pipeline.small_days import (
    DAYS,
    FIRST,
    at,
    event,
    manifest_of,
    rows_of,
    run,
    values_of,
    write_day,
)

LAST = DAYS.pretraining[1]
# User -> purchases on each day.
LOG = {
    "u": {1: 2, 2: 3, 3: 1, 4: 2},
    "full": {1: 3, 3: 3},
    "single": {1: 3, 3: 1, 5: 4},
    "many": {2: 8},
}


def basket():
    """Nine items bought at one time."""
    return [event("basket", item, at(FIRST, 5), request="r") for item in range(1, 10)]


def buy(folder, **per_day):
    """User -> number of purchases on each day; each item new to its user."""
    bought = dict.fromkeys(per_day, 0)
    for day in days_between(FIRST, DAYS.test[1]):
        rows = [event("somebody else", 1000, at(day, 1), action="click")]
        for user, numbers in per_day.items():
            for hour in range(numbers.get(day.day, 0)):
                bought[user] += 1
                rows.append(event(user, bought[user], at(day, hour)))
        write_day(folder, day, rows)


def pieces(root, user="u"):
    """Day (9 for tails) and the user's sequence."""
    found = [(day, "sequences", day.day) for day in days_between(*DAYS.pretraining)]
    return [
        (label, row)
        for day, kind, label in [*found, (LAST, "tails", 9)]
        for row in rows_of(root, kind, day)
        if row["user_id"] == user
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    buy(folder / "source", **LOG)
    write_day(folder / "source", FIRST, basket(), name="basket.parquet")
    return folder / "root", run(folder / "root", folder / "source")


def test_pieces_lie_on_the_day_on_which_they_became_full(built):
    root, _ = built
    names = values_of(root, "item_id")
    found = [(day, [names[row] for row in piece["item_id"]]) for day, piece in pieces(root)]
    assert found == [(2, [1, 2, 3]), (3, [4, 5, 6]), (9, [7, 8])]
    first = pieces(root)[0][1]
    assert first["event_time"] == [at(FIRST, 0), at(FIRST, 1), at(date(2024, 5, 2), 0)]
    assert first["action"] == ["purchase"] * 3
    assert len(first["department"]) == 3


def test_what_is_open_and_long_enough_is_a_tail(built):
    root, report = built
    assert [day for day, _ in pieces(root, "full")] == [1, 3]
    # One event was left, and what came after pretraining is nowhere.
    assert [day for day, _ in pieces(root, "single")] == [1]
    assert [day for day, _ in pieces(root, "many")] == [2, 2, 9]
    assert report.counts["sequences"] == {"sequences": 10, "events": 30}
    assert report.counts["tails"] == {
        "sequences": 2,
        "events": 4,
        "too_short": 1,
        "too_short_events": 1,
    }
    assert manifest_of(root, "sequences", date(2024, 5, 2)).counts == {"sequences": 3, "events": 9}
    assert manifest_of(root, "sequences", date(2024, 5, 4)).counts == {}


def test_equal_times_are_ordered_the_same_whatever_the_files_order(built, tmp_path):
    """Also where a basket is longer than a sequence: which piece comes first is not left open."""
    buy(tmp_path / "source", **LOG)
    write_day(tmp_path / "source", FIRST, basket()[::-1], name="basket.parquet")
    run(tmp_path / "root", tmp_path / "source")
    for day in days_between(*DAYS.pretraining):
        assert rows_of(tmp_path / "root", "sequences", day) == rows_of(built[0], "sequences", day)
    names = values_of(built[0], "item_id")
    items = [names[row] for _, piece in pieces(built[0], "basket") for row in piece["item_id"]]
    assert sorted(items) == list(range(1, 10))
    # The order says nothing of the items' numbers.
    assert items != list(range(1, 10))


def test_lengths_out_of_order():
    with pytest.raises(ValidationError, match=r"sequences\.min_length is 60, more than"):
        SequenceSettings(min_length=60, max_length=50)
