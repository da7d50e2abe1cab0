"""Sequences for pretraining: each user's events, cut into subsequences (CLICK-style).

    encoded events + what was open the day before -> ROOT/sequences/day=D, ROOT/tails/day=D

A user's events are cut every `max_length` events from the first one on. A subsequence belongs to
the day on which it became full; it is never changed again. What is still open by the end of a day
is in the users' state of that day; those open pieces that have `min_length` events are the day's
tails, written for the last pretraining day, so that training up to it misses nothing long enough.

Who trains on every day does not wait for pieces to become full: a day's increments are the pieces
that got events on it, as they were in the evening, with the number of events that were new.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta

import ibis
from ibis.expr.types import IntegerValue, Table
from pydantic import Field, model_validator

from pipeline.engine import Engine
from pipeline.histories import joined_lists
from pipeline.schema import FeatureSettings, item_features
from pipeline.settings import Settings

__all__ = [
    "SequenceSettings",
    "closed_sequences",
    "count_increments",
    "count_sequences",
    "count_tails",
    "cut_sequences",
    "full_sequences",
    "increments",
    "open_sequences",
    "sequence_columns",
    "tails",
]


class SequenceSettings(Settings):
    """`[sequences]`: which events make a subsequence, and how long it is."""

    # Actions that pretraining predicts, and sees.
    actions: tuple[str, ...] = Field(default=("click",), min_length=1)
    # Events of a subsequence; shorter last pieces are left out and counted.
    min_length: int = Field(default=50, ge=2)
    # A subsequence that reaches it is whole, and the next one begins.
    max_length: int = Field(default=100, ge=2)
    # Also publish each day's increments, for pretraining that goes on day after day.
    increments: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "SequenceSettings":
        if self.min_length > self.max_length:
            raise ValueError(
                f"sequences.min_length is {self.min_length}, more than sequences.max_length, "
                f"{self.max_length}"
            )
        return self


def sequence_columns(features: Sequence[FeatureSettings]) -> list[str]:
    """The lists of a sequence."""
    return ["event_time", "action", *item_features(features)]


def cut_sequences(
    engine: Engine,
    placed: Table,
    opened: Table | None,
    settings: SequenceSettings,
    names: Sequence[str],
) -> Table:
    """All pieces: user_id, day (of the last event; null without new ones), num_events, the lists.

    `placed` are the users' new events with their position among them; `opened` has what was open
    before: user_id and the lists.
    """
    size = settings.max_length
    if opened is not None:
        before = opened.select("user_id", num_open=opened.event_time.length())
        placed = placed.left_join(before, "user_id").drop("user_id_right")
        placed = placed.mutate(position=placed.position + placed.num_open.fill_null(0))
    placed = placed.mutate(piece=placed.position // size)
    keys = ["user_id", "piece"]
    pieces = engine.sorted_lists("new_pieces", placed, keys, ["position"], ["day", *names])
    pieces = pieces.mutate(day=pieces.day.maxs())
    if opened is not None:
        pieces = _continued(pieces, opened, names)
    return pieces.mutate(num_events=pieces.event_time.length())


def _continued(pieces: Table, opened: Table, names: Sequence[str]) -> Table:
    """First pieces begin with what was open; a user without new events keeps it."""
    opened = opened.select(
        "user_id", opened_piece=ibis.literal(0), **{f"open_{n}": opened[n] for n in names}
    )
    both = pieces.outer_join(
        opened, [pieces.user_id == opened.user_id, pieces.piece == opened.opened_piece]
    )
    both = both.mutate(user_id=ibis.coalesce(both.user_id, both.user_id_right))
    both = both.mutate(**joined_lists(both, names, "open_", ""))
    return both.select("user_id", "day", *names, piece=both.piece.fill_null(0))


def closed_sequences(pieces: Table, settings: SequenceSettings, days: Sequence[date]) -> Table:
    """Full pieces of the given days, in the order of their files: users are mixed."""
    full = full_sequences(pieces, settings)
    return _in_order(full.filter(full.day.isin(list(days))))


def full_sequences(pieces: Table, settings: SequenceSettings) -> Table:
    """Those that will never be changed again."""
    return pieces.filter(pieces.num_events == settings.max_length)


def open_sequences(pieces: Table, settings: SequenceSettings) -> Table:
    """What is not full yet: one row a user at most."""
    return pieces.filter(pieces.num_events < settings.max_length)


def tails(opened: Table, settings: SequenceSettings, day: date) -> Table:
    """Open pieces long enough to learn from, in the order of their files."""
    long_enough = opened.filter(opened.num_events >= settings.min_length)
    return _in_order(long_enough.mutate(day=ibis.literal(day)))


def increments(pieces: Table, days: Sequence[date], names: Sequence[str]) -> Table:
    """Pieces with events on a day, up to its evening: user_id, day, the lists, num_new.

    One event alone says nothing of what comes next, so pieces have two at least.
    """
    of_days: list[Table] = []
    for day in days:
        until = {d: _events_before(pieces, d) for d in (day, day + timedelta(days=1))}
        before, now = until.values()
        cut = pieces.mutate(
            day=ibis.literal(day),
            num_new=now - before,
            **{name: pieces[name][:now] for name in names},
        )
        of_days.append(cut.filter(cut.num_new > 0, cut.event_time.length() > 1))
    return _in_order(ibis.union(*of_days) if len(of_days) > 1 else of_days[0])


def _events_before(pieces: Table, day: date) -> IntegerValue:
    midnight = ibis.literal(datetime.combine(day, time()), type="timestamp(6)")
    return pieces.event_time.filter(lambda moment: moment < midnight).length()


def count_increments(engine: Engine, cut: Table) -> dict[date, dict[str, int]]:
    """Day -> increments, events in them, and how many of those are new."""
    counts = cut.group_by("day").agg(
        increments=cut.count(), events=cut.event_time.length().sum(), new_events=cut.num_new.sum()
    )
    return {
        row.pop("day"): {n: int(v or 0) for n, v in row.items()} for row in engine.rows_of(counts)
    }


def count_tails(engine: Engine, opened: Table, settings: SequenceSettings) -> dict[str, int]:
    """Tails and events in them, and what was too short to be one."""
    long_enough = opened.num_events >= settings.min_length
    (counts,) = engine.rows_of(
        opened.agg(
            sequences=long_enough.sum(),
            events=opened.num_events.sum(where=long_enough),
            too_short=(~long_enough).sum(),
            too_short_events=opened.num_events.sum(where=~long_enough),
        )
    )
    return {name: int(value or 0) for name, value in counts.items()}


def _in_order(pieces: Table) -> Table:
    key = pieces.user_id.hexdigest("md5")
    return pieces.order_by([pieces.day, key, pieces.piece])


def count_sequences(
    engine: Engine, pieces: Table, settings: SequenceSettings
) -> Mapping[date, dict[str, int]]:
    """Day -> sequences that became full on it, and events in them."""
    full = full_sequences(pieces, settings)
    counts = full.group_by("day").agg(sequences=full.count(), events=full.num_events.sum())
    return {
        row.pop("day"): {n: int(v or 0) for n, v in row.items()} for row in engine.rows_of(counts)
    }
