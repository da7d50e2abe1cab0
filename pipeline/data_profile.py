"""What a day's events look like in figures, counted by the engine for many days at once.

classified events, evaluated -> a few group-bys -> {day: DayProfile} -> `data_report`
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import ibis
from ibis.expr.types import Table
from pydantic import Field

from pipeline.engine import Engine
from pipeline.schema import FeatureSettings
from pipeline.settings import Settings

__all__ = ["NO_EVENTS", "STORED_VALUES", "DayProfile", "ValueCounts", "profile_days"]

# Most frequent values of a column that a report keeps, so that another day can be compared
# with it.
STORED_VALUES = 100


class ValueCounts(Settings):
    """The values of one column on one day."""

    nulls: int
    distinct: int
    # The most frequent values, as text, and their rows; most frequent first, ties in text order.
    top: dict[str, int]


class DayProfile(Settings):
    """The events of one day that are kept."""

    rows: int = 0
    users: int = 0
    items: int = 0
    # UTC; null on a day without events.
    first_event: datetime | None = None
    last_event: datetime | None = None
    unknown_action_rows: int = 0
    actions: ValueCounts = ValueCounts(nulls=0, distinct=0, top={})
    features: dict[str, ValueCounts] = Field(default={})


NO_EVENTS = DayProfile()


def profile_days(
    engine: Engine,
    events: Table,
    features: Sequence[FeatureSettings],
    known_actions: Sequence[str],
) -> dict[date, DayProfile]:
    """A profile of each day that has events.

    `events` has `day` and the columns of events, evaluated already: it is read several times.
    Actions other than those known are counted; none known, none counted.
    """
    columns = ["action", *(feature.name for feature in features)]
    values: dict[tuple[date, str], list[dict[str, Any]]] = {}
    for row in engine.rows_of(ibis.union(*(_values_of(events, name) for name in columns))):
        values.setdefault((row["day"], row["column"]), []).append(row)
    profiles: dict[date, DayProfile] = {}
    for row in engine.rows_of(_totals(events, known_actions)):
        day = row.pop("day")
        for name in ("first_event", "last_event"):
            # Engines say UTC, or nothing, and mean the same.
            row[name] = row[name].replace(tzinfo=UTC)
        counts = {name: _value_counts(values[day, name]) for name in columns}
        profiles[day] = DayProfile(
            **row, items=counts["item_id"].distinct, actions=counts.pop("action"), features=counts
        )
    return profiles


def _totals(events: Table, known_actions: Sequence[str]) -> Table:
    """One row a day; its columns are figures of a profile."""
    figures: dict[str, ibis.Value] = {
        "rows": events.count(),
        "users": events.user_id.nunique(),
        "first_event": events.event_time.min(),
        "last_event": events.event_time.max(),
    }
    if known_actions:
        figures["unknown_action_rows"] = events.count(where=events.action.notin(known_actions))
    return events.group_by("day").agg(**figures)


def _values_of(events: Table, name: str) -> Table:
    """The most frequent values of a column on each day, null in any case, with their rows.

    Each row also has the day's number of different values.
    """
    values = events.group_by("day", value=name).agg(rows=ibis._.count())
    values = values.mutate(value=values.value.cast("string"), column=ibis.literal(name))
    best_first = ibis.window(group_by="day", order_by=[values.rows.desc(), values.value])
    ranked = values.mutate(
        place=ibis.row_number().over(best_first),
        distinct=values.value.count().over(ibis.window(group_by="day")),
    )
    shown = ranked.filter((ranked.place <= STORED_VALUES) | ranked.value.isnull())
    return shown.select("day", "column", "value", "rows", "distinct")


def _value_counts(rows: Sequence[dict[str, Any]]) -> ValueCounts:
    top = [(row["value"], row["rows"]) for row in rows if row["value"] is not None]
    return ValueCounts(
        nulls=sum(row["rows"] for row in rows if row["value"] is None),
        distinct=rows[0]["distinct"],
        top=dict(sorted(top, key=lambda value: (-value[1], value[0]))[:STORED_VALUES]),
    )
