"""Histories of any length, from chunks of any size, against the end of a plain list."""

from datetime import UTC, datetime, timedelta

import ibis
import pyarrow as pa
import pytest

from pipeline.engine import open_engine
from pipeline.histories import (
    chunks_of,
    count_before,
    last_events,
    last_slices,
    placed_events,
    spans_of,
    tie,
)
from pipeline.user_states import next_states, past_events

START = datetime(2024, 5, 1, tzinfo=UTC).replace(tzinfo=None)
NAMES = ["item_id", "brand"]
ACTIONS = ("click", "buy")


@pytest.fixture
def engine(tmp_path):
    with open_engine(tmp_path) as engine:
        yield engine


def events_of(engine, rows):
    """Events of (user, minute, item row, brand row, action, raw item)."""
    names = ("user_id", "minute", "item_id", "brand", "action", "raw_item")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    minutes = columns.pop("minute")
    times = [START + timedelta(minutes=minute) for minute in minutes]
    columns["event_time"] = pa.array(times, pa.timestamp("us"))
    return engine.in_memory(pa.table(columns))


def spans(engine, rows, past, names, size):
    """Spans of the rows after `past`, which is a table with lists, or None."""
    placed = placed_events(events_of(engine, rows), ACTIONS, NAMES)
    return engine.computed("spans", spans_of(chunks_of(engine, placed, names, size), past, names))


def clicks(user, minutes):
    return [(user, minute, 100 + minute, minute % 3, "click", minute) for minute in minutes]


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("num_past", [0, 2, 4])
def test_a_history_is_the_end_of_what_was_before(engine, size, num_past):
    """Requests between any two of 9 events, with the last `size` events of a past before them."""
    past = None
    if num_past:
        placed = placed_events(
            events_of(engine, clicks("u", range(-num_past, 0))[-size:]), ACTIONS, NAMES
        )
        past = engine.computed("past", chunks_of(engine, placed, NAMES, size).drop("chunk"))
    found_spans = spans(engine, clicks("u", range(9)), past, NAMES, size)
    asked = engine.in_memory(
        pa.table(
            {
                "user_id": ["u"] * 11,
                "num_past": [min(num_past, size)] * 11,
                "num_before": [*range(10), 0],
            }
        )
    )
    found = engine.rows_of(last_events(asked, found_spans, ["item_id"], size))
    assert len(found) == 11
    for row in found:
        every = [100 + minute for minute in range(-num_past, row["num_before"])]
        assert row["history_item_id"] == every[-size:]
    numbered = engine.computed("numbered", found_spans.mutate(number=ibis.row_number() * 3 + 1))
    lists = {row["number"]: row["item_id"] for row in engine.rows_of(numbered)}
    slices = engine.rows_of(last_slices(asked, numbered, size))
    assert len(slices) == 11
    for row in slices:
        every = [100 + minute for minute in range(-num_past, row["num_before"])]
        start, end = row["history_start"], row["history_end"]
        assert end - start == len(every[-size:])
        assert lists.get(row["span"], [])[start:end] == every[-size:]


def test_a_user_without_a_past_has_an_empty_history(engine):
    found = spans(engine, clicks("u", range(3)), None, NAMES, 4)
    nobody = {"user_id": ["nobody"], "num_past": [0], "num_before": [0]}
    asked = engine.in_memory(pa.table(nobody))
    (row,) = engine.rows_of(last_events(asked, found, NAMES, 4))
    assert row["history_item_id"] == row["history_brand"] == []
    (row,) = engine.rows_of(last_slices(asked, found.mutate(number=found.chunk), 4))
    assert row["history_start"] == row["history_end"] == 0
    assert row["span"] is not None


def test_only_what_is_strictly_before_is_counted(engine):
    rows = [*clicks("u", [0, 5, 5, 9]), *clicks("v", [1]), ("u", 2, 1, 1, "view", 1)]
    rows[2] = ("u", 5, 7, 1, "click", 7)
    placed = placed_events(events_of(engine, rows), ACTIONS, NAMES)
    minutes = {"a": 0, "b": 1, "c": 5, "d": 6, "e": 10}
    asked = {
        "request_key": [*minutes, "v"],
        "user_id": ["u"] * 5 + ["v"],
        "request_time": pa.array(
            [START + timedelta(minutes=minute) for minute in [*minutes.values(), 9]],
            pa.timestamp("us"),
        ),
    }
    found = engine.rows_of(count_before(placed, engine.in_memory(pa.table(asked))))
    counts = {row["request_key"]: row["num_before"] for row in found}
    assert counts == {"a": 0, "b": 1, "c": 1, "d": 3, "e": 4, "v": 1}


def test_ties_are_broken_alike_for_equal_events_and_unlike_for_others(engine):
    rows = [
        ("u", 0, item, brand, action, raw)
        for item, raw in ((1, 1), (2, 2), (3, 3), (0, 4), (0, 5))
        for brand in (0, 1, 7)
        for action in ACTIONS
    ]
    events = events_of(engine, [*rows, *[("v", *row[1:]) for row in rows]])
    ties = engine.rows_of(events.select("user_id", tie=tie(events, NAMES, ACTIONS)))
    of_user = {user: [row["tie"] for row in ties if row["user_id"] == user] for user in "uv"}
    assert sorted(of_user["u"]) == sorted(of_user["v"])
    assert len(set(of_user["u"])) == len(rows)
    # Items do not stand in the order of their numbers, nor the same at every time.
    orders = set()
    for minute in range(20):
        of_time = events_of(engine, [("u", minute, item, 0, "click", item) for item in range(1, 6)])
        order = engine.rows_of(of_time.order_by(tie(of_time, NAMES)).select("item_id"))
        orders.add(tuple(row["item_id"] for row in order))
    assert len(orders) > 5


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_state_holds_the_last_events_and_what_is_open(engine, size):
    """Day after day: the next state is made of the one before and of the day's events."""
    days = [range(2), range(2, 3), range(0), range(3, 9)]
    past, seen = None, []
    for minutes in days:
        seen += [100 + minute for minute in minutes]
        rows = [*clicks("u", minutes), *clicks("v", [0])]
        new = spans(engine, rows, past, ["event_time", *NAMES], size)
        opened = engine.in_memory(
            pa.table(
                {
                    "user_id": ["u", "only open"],
                    "event_time": pa.array([[START], [START]], pa.list_(pa.timestamp("us"))),
                    "action": [["click"], ["click"]],
                    "item_id": [[1], [2]],
                    "brand": [[1], [2]],
                }
            )
        )
        states = engine.computed("states", next_states(new, opened, NAMES, size))
        found = {row["user_id"]: row for row in engine.rows_of(states)}
        assert found.keys() == {"u", "v", "only open"}
        assert found["u"]["history_item_id"] == seen[-size:]
        assert found["u"]["open_item_id"] == [1]
        assert found["only open"]["open_brand"] == [2]
        assert found["v"]["open_item_id"] is None
        known = states.filter(states.history_time.notnull())
        past = engine.computed("past", past_events(known, NAMES))
