from datetime import timedelta

import pytest

from pipeline.partitions import days_between
from tests.pipeline.small_days import (
    DAYS,
    FIRST,
    SHOWN,
    SHOWN_REQUESTS,
    at,
    event,
    manifest_of,
    rows_of,
    run,
    values_of,
    write_day,
)

DAY = DAYS.ranking[0]
OLD_ITEMS = range(10)


def shown(user, item, time, request, **more):
    return event(user, item, time, request, action="impression", **more)


def write_source(folder, *rows):
    """The rows; items 0 to 9 are known from the first day on; no day is empty."""
    known = [event("filler", item, at(FIRST, 1), action="click") for item in OLD_ITEMS]
    for day in days_between(FIRST, DAYS.test[1]):
        of_day = [row for row in rows if row["event_time"].date() == day]
        filler = shown("filler", 0, at(day, 1), f"filler {day}")
        write_day(folder, day, [*of_day, filler, *(known if day == FIRST else [])])


def build(folder, *rows, **changed):
    """Rows of DAY's requests by user, and their counts."""
    write_source(folder / "source", *rows)
    settings = SHOWN | {"requests": SHOWN_REQUESTS.model_copy(update=changed)}
    run(folder / "root", folder / "source", **settings)
    found = {}
    for row in rows_of(folder / "root", "requests", DAY):
        found.setdefault(row["user_id"], []).append(row)
    return found, manifest_of(folder / "root", "requests", DAY).counts


def items_of(folder, rows):
    names = values_of(folder / "root", "item_id")
    return [names[row] for row in rows]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown")
    late = at(DAY, 23, 59)
    rows = [
        # One page, told in two moments; one item on it twice.
        shown("page", 1, at(DAY, 9), "p", store=3),
        shown("page", 2, at(DAY, 9, 5), "p", store=3),
        shown("page", 1, at(DAY, 9, 6), "p", store=3),
        # No ids: what comes at one time is one request.
        *(shown("none", item, at(DAY, 9 + item // 2), None) for item in range(4)),
        # An id of several users, and one that goes on after midnight.
        shown("first", 1, at(DAY, 9), "shared"),
        shown("second", 2, at(DAY, 9), "shared"),
        shown("night", 1, late, "over midnight"),
        shown("night", 2, late + timedelta(minutes=2), "over midnight"),
        # A click before its own page; one before, of another; what was done at the same time.
        event("behind", 4, at(DAY, 8, 59), "b", action="click"),
        event("behind", 5, at(DAY, 8, 58), None, action="click"),
        event("behind", 6, at(DAY, 9), None, action="click"),
        shown("behind", 4, at(DAY, 9), "b"),
        shown("behind", 7, at(DAY, 10), "later"),
        # Items that are new today.
        event("new", 777, at(DAY, 8), action="click", department="new"),
        shown("new", 777, at(DAY, 9), "n", department="new"),
        shown("new", 1, at(DAY, 9), "n"),
        shown("new", 777, at(DAY + timedelta(days=1), 9), "n2", department="new"),
    ]
    found, counts = build(folder, *rows)
    return folder, found, counts


def test_a_page_is_one_request_and_an_item_one_candidate(built):
    folder, found, counts = built
    (page,) = found["page"]
    assert (page["request_id"], page["request_time"]) == ("p", at(DAY, 9))
    assert sorted(items_of(folder, page["candidate_item_id"])) == [1, 2]
    assert values_of(folder / "root", "store_id")[page["store_id"]] is None
    assert counts["repeated_candidates"] == 1


def test_without_ids_what_was_shown_at_one_time_is_one_request(built):
    folder, found, _ = built
    items = {
        row["request_time"]: sorted(items_of(folder, row["candidate_item_id"]))
        for row in found["none"]
    }
    assert items == {at(DAY, 9): [0, 1], at(DAY, 10): [2, 3]}
    assert len({row["request_id"] for row in found["none"]}) == 2


def test_odd_ids_are_counted(built):
    folder, found, counts = built
    assert counts["request_ids_of_several_users"] == 2
    assert counts["request_ids_over_midnight"] == 1
    for user, item in (("first", 1), ("second", 2), ("night", 1)):
        (row,) = found[user]
        assert items_of(folder, row["candidate_item_id"]) == [item]
    next_day = rows_of(folder / "root", "requests", DAY + timedelta(days=1))
    assert [row["request_id"] for row in next_day if row["user_id"] == "night"] == ["over midnight"]


def test_an_answer_is_in_no_history_of_what_it_answers(built):
    folder, found, counts = built
    first, later = sorted(found["behind"], key=lambda row: row["request_time"])
    assert items_of(folder, first["history_item_id"]) == [5]
    assert first["label_ctr"] == [1]
    assert counts["corrected_times"] == 1
    # It is in the next one, at the time of the page that it answers.
    assert sorted(items_of(folder, later["history_item_id"])) == [4, 5, 6]
    assert later["history_time"] == [at(DAY, 8, 58), at(DAY, 9), at(DAY, 9)]


def test_what_is_new_today_is_unknown_until_tomorrow(built):
    folder, found, _ = built
    (row,) = found["new"]
    assert sorted(items_of(folder, row["candidate_item_id"]), key=str) == [1, None]
    assert row["history_item_id"] == row["history_department"] == [0]
    # The rows are there, only not yet today.
    assert 777 in values_of(folder / "root", "item_id")
    (tomorrow,) = [
        row
        for row in rows_of(folder / "root", "requests", DAY + timedelta(days=1))
        if row["user_id"] == "new"
    ]
    assert (
        items_of(folder, tomorrow["candidate_item_id"] + tomorrow["history_item_id"]) == [777] * 2
    )


def test_a_long_page_is_cut_by_hash_and_a_short_history_left_out(tmp_path):
    page = [shown("long", item, at(DAY, 9), "l") for item in OLD_ITEMS]
    past = [event("long", item, at(DAY, 8), action="click") for item in (1, 2)]
    one = [event("short", 1, at(DAY, 8), action="click"), shown("short", 1, at(DAY, 9), "s")]
    found, counts = build(tmp_path, *page, *past, *one, max_candidates=4, min_history=2)
    assert found.keys() == {"long", "filler"}
    items = items_of(tmp_path, found["long"][0]["candidate_item_id"])
    assert len(items) == 4
    assert set(items) < set(OLD_ITEMS)
    assert counts["cut_candidates"] == 6
    assert counts["with_short_history"] == 1
    assert counts["requests"] == 2
