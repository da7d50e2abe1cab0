"""The simulated days on disk: the events log, and beside it the truth about each impression.

    ROOT/events/day=D/    what `prepare` reads; carts and purchases on the day they happen
    ROOT/truth/day=D/     one row an impression: the probabilities its labels were drawn with

Carts and purchases of later days wait here. Files are in the order of users, not of time.

Legend: M impressions, C clicks, E events.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.simulation.catalogue import Catalogue
from pipeline.simulation.conversions import NEVER_US
from pipeline.simulation.draws import Ints
from pipeline.simulation.impressions import Impressions
from pipeline.simulation.traffic import DAY_US

__all__ = ["ACTIONS", "EVENTS_SCHEMA", "TRUTH_SCHEMA", "EventLog", "truth_batch"]

ACTIONS = ("impression", "click", "cart", "purchase")
IMPRESSION, CLICK, CART, PURCHASE = range(4)

EVENTS_SCHEMA = pa.schema(
    {
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "event_time": pa.timestamp("us", tz="UTC"),
        "action": pa.string(),
        "request_id": pa.string(),
        "category_id": pa.int64(),
        "brand_id": pa.int64(),
        "position": pa.int64(),
    }
)
TRUTH_SCHEMA = pa.schema(
    {
        "request_id": pa.string(),
        "item_id": pa.int64(),
        "p_seen": pa.float32(),
        "p_click": pa.float32(),
        "p_cart": pa.float32(),
        "p_purchase": pa.float32(),
    }
)

# Rows of events, one column each: user, item, request, position, action, time since day 0.
_USER, _ITEM, _REQUEST, _POSITION, _ACTION, _TIME = range(6)


class EventLog:
    """Turns the marketplace's blocks into events, and holds over what happens on later days."""

    def __init__(self, catalogue: Catalogue, first_day: date, num_days: int) -> None:
        self._catalogue = catalogue
        start = datetime.combine(first_day, time(), UTC)
        self._start_us = (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        self._num_days = num_days
        self._waiting: dict[int, list[Ints]] = {}
        self.counts: dict[str, int] = dict.fromkeys((*ACTIONS, "after the last day"), 0)

    def batch(self, shown: Impressions) -> pa.RecordBatch:
        """The impressions and clicks of a block; carts and purchases are kept for `due`."""
        day_us = shown.day * DAY_US
        impressions = _rows(shown, IMPRESSION, day_us + shown.time_us)
        clicked = _rows(shown, CLICK, day_us + shown.time_us)[:, shown.clicked]
        clicked[_TIME] = day_us + shown.click_time_us
        followed = shown.conversions
        for action, delay_us in (
            (CART, followed.cart_delay_us),
            (PURCHASE, followed.purchase_delay_us),
        ):
            self._hold(clicked, action, delay_us)
        return self._batch(np.concatenate([impressions, clicked], axis=1))

    def due(self, day: int) -> Iterator[pa.RecordBatch]:
        """The carts and purchases of this day; no block of it may come after."""
        for rows in self._waiting.pop(day, []):
            yield self._batch(rows)

    def _hold(self, clicked: Ints, action: int, delay_us: Ints) -> None:
        happens = delay_us != NEVER_US
        rows = clicked[:, happens]
        rows[_ACTION] = action
        rows[_TIME] += delay_us[happens]
        days = rows[_TIME] // DAY_US
        for day in np.unique(days):
            of_day = rows[:, days == day]
            if day < self._num_days:
                self._waiting.setdefault(int(day), []).append(of_day)
            else:
                self.counts["after the last day"] += of_day.shape[1]

    def _batch(self, rows: Ints) -> pa.RecordBatch:
        item = rows[_ITEM]
        for number, action in enumerate(ACTIONS):
            self.counts[action] += int((rows[_ACTION] == number).sum())
        action = pa.DictionaryArray.from_arrays(rows[_ACTION].astype(np.int8), list(ACTIONS))
        columns: list[Any] = [
            1 + rows[_USER],
            self._catalogue.item_id[item],
            pa.array(self._start_us + rows[_TIME]).cast(EVENTS_SCHEMA.field("event_time").type),
            action.cast(pa.string()),
            _text(rows[_REQUEST]),
            self._catalogue.category_id[item],
            self._catalogue.brand_id[item],
            rows[_POSITION],
        ]
        return pa.record_batch([pa.array(column) for column in columns], schema=EVENTS_SCHEMA)


def truth_batch(shown: Impressions, catalogue: Catalogue) -> pa.RecordBatch:
    """What is known of a block's impressions; carts and purchases only of the clicked ones."""
    columns = [
        _text(shown.request),
        pa.array(catalogue.item_id[shown.item]),
        pa.array(shown.seen),
        pa.array(shown.p_click),
        _of_clicked(shown, shown.conversions.p_cart),
        _of_clicked(shown, shown.conversions.p_purchase),
    ]
    return pa.record_batch(columns, schema=TRUTH_SCHEMA)


def _rows(shown: Impressions, action: int, time_us: Ints) -> Ints:
    columns = [shown.user, shown.item, shown.request, shown.position]
    return np.stack([*columns, np.full(len(time_us), action), time_us])


def _text(numbers: Ints) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _of_clicked(shown: Impressions, values_C: np.ndarray) -> pa.Array:
    values_M = np.zeros(len(shown.clicked), dtype=np.float32)
    values_M[shown.clicked] = values_C
    return pa.array(values_M, mask=~shown.clicked)
