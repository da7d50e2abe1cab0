"""Sequences for pretraining: each user's events, cut into subsequences (CLICK-style).

    encoded events of the pretraining days -> ROOT/sequences/day=D

A user's events are cut every `max_length` events from the first one on; what is left at the end
is kept if it has `min_length` events. A subsequence belongs to the day of its last event.
"""

from collections.abc import Mapping, Sequence
from datetime import date

import ibis
from ibis.backends.duckdb import Backend
from ibis.expr.types import Table
from pydantic import Field, model_validator

from pipeline.engine import rows_of
from pipeline.schema import FeatureSettings, item_features
from pipeline.settings import Settings

__all__ = ["SequenceSettings", "count_sequences", "cut_sequences", "kept_sequences"]


class SequenceSettings(Settings):
    """`[sequences]`: which events make a subsequence, and how long it is."""

    actions: tuple[str, ...] = Field(default=("click",), min_length=1)
    # Events of a subsequence; shorter last pieces are dropped and counted.
    min_length: int = Field(default=50, ge=2)
    max_length: int = Field(default=100, ge=2)

    @model_validator(mode="after")
    def _in_order(self) -> "SequenceSettings":
        if self.min_length > self.max_length:
            raise ValueError(
                f"sequences.min_length is {self.min_length}, more than sequences.max_length, "
                f"{self.max_length}"
            )
        return self


def cut_sequences(
    events: Table,
    settings: SequenceSettings,
    features: Sequence[FeatureSettings],
    days: tuple[date, date],
) -> Table:
    """All pieces, also the too short ones: day, user_id, order_key, num_events, and the lists.

    `events` are encoded; only those from the first to the last of `days` are looked at.
    """
    chosen = events.filter(
        events.action.isin(settings.actions), events.day.between(days[0], days[1])
    )
    in_order = ibis.window(group_by="user_id", order_by=[chosen.event_time, chosen.tie])
    placed = chosen.mutate(position=ibis.row_number().over(in_order))
    placed = placed.mutate(piece=placed.position // settings.max_length)
    names = ["event_time", "action", *item_features(features)]
    token = ibis.struct({name: placed[name] for name in ["position", *names]})
    pieces = placed.group_by("user_id", "piece").agg(
        day=placed.day.max(), num_events=placed.count(), tokens=token.collect()
    )
    # Sorting structs sorts by their first field, the position.
    pieces = pieces.mutate(tokens=pieces.tokens.sort())
    key = pieces.user_id.concat("\t", pieces.piece.cast("string")).hexdigest("md5")
    lists = {name: pieces.tokens.map(lambda token, name=name: token[name]) for name in names}
    return pieces.select("day", "user_id", "num_events", order_key=key, **lists)


def kept_sequences(pieces: Table, settings: SequenceSettings, days: Sequence[date]) -> Table:
    """Pieces long enough, of the given days, in the order of their files: users are mixed."""
    kept = pieces.filter(pieces.num_events >= settings.min_length, pieces.day.isin(list(days)))
    return kept.order_by(["day", "order_key"])


def count_sequences(
    connection: Backend, pieces: Table, settings: SequenceSettings
) -> Mapping[date, dict[str, int]]:
    """Day -> sequences, events in them, and what was dropped as too short."""
    kept = pieces.num_events >= settings.min_length
    counts = pieces.group_by("day").agg(
        sequences=kept.sum(),
        events=pieces.num_events.sum(where=kept),
        dropped_pieces=(~kept).sum(),
        dropped_events=pieces.num_events.sum(where=~kept),
    )
    return {
        row.pop("day"): {name: int(value or 0) for name, value in row.items()}
        for row in rows_of(connection, counts)
    }
