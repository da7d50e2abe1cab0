"""Histories: what a user did strictly before a request, oldest first.

A user's events of the days being built lie in chunks of `size`; chunk -1 is what the user's state
of the day before holds, the last `size` events at most. A span is a chunk after the one before it,
so a history is a slice of one span: one lookup, however long the user's past is.
"""

from collections.abc import Sequence
from typing import Any

import ibis
from ibis.expr.types import ArrayValue, IntegerValue, Table

from pipeline.engine import Engine
from pipeline.hashing import hash_of, scrambled
from pipeline.schema import UNKNOWN_ROW

__all__ = [
    "chunks_of",
    "count_before",
    "joined_lists",
    "last_events",
    "last_slices",
    "last_spans",
    "or_empty",
    "placed_events",
    "spans_of",
    "tie",
]


def tie(events: Table, names: Sequence[str], actions: Sequence[str] = ()) -> IntegerValue:
    """Order of a user's events of one time: by hash, so that it says nothing of the items.

    Events of one basket share their time. Equal on every engine; equal only for equal events.
    """
    others = ibis.literal(0).cast("int64")
    for name in names[1:]:
        others = (others * 31 + events[name]) & (2**31 - 1)
    action = ibis.literal(0)
    for number, name in enumerate(actions):
        action = ibis.ifelse(events.action == name, number, action)
    seconds = events.event_time.truncate("s").epoch_seconds().cast("int64")
    known = scrambled(events.item_id * 0x9E3779B1 + seconds * 0x85EBC)
    # A condition evaluates only the branch it takes: unknown items are few.
    item = ibis.ifelse(events.item_id == UNKNOWN_ROW, hash_of(events.raw_item), known)
    return item * 2**31 + ((others * 8 + action) & (2**31 - 1))


def placed_events(events: Table, actions: Sequence[str], names: Sequence[str]) -> Table:
    """Events of these actions with `position`, each user's from 0, oldest first; and `tie`."""
    chosen = events.filter(events.action.isin(actions))
    chosen = chosen.mutate(tie=tie(chosen, names, actions))
    in_order = ibis.window(group_by="user_id", order_by=[chosen.event_time, chosen.tie])
    return chosen.mutate(position=ibis.row_number().over(in_order))


def chunks_of(engine: Engine, placed: Table, names: Sequence[str], size: int) -> Table:
    """user_id, chunk from 0, and a list a name; evaluated."""
    placed = placed.mutate(chunk=placed.position // size)
    return engine.sorted_lists("new_chunks", placed, ["user_id", "chunk"], ["position"], names)


def spans_of(chunks: Table, past: Table | None, names: Sequence[str]) -> Table:
    """user_id, chunk, and a list a name: each chunk after the one before it.

    `past` has what comes before chunk 0: user_id and the lists; it is a chunk too, -1.
    """
    first: Table | None = None
    if past is not None:
        first = past.mutate(chunk=ibis.literal(-1, "int64")).select(chunks.columns)
        chunks = ibis.union(chunks, first)
    early = chunks.select(
        "user_id", chunk=chunks.chunk + 1, **{f"early_{name}": chunks[name] for name in names}
    )
    late = chunks.filter(chunks.chunk >= 0).rename({f"late_{name}": name for name in names})
    both = late.left_join(early, ["user_id", "chunk"])
    spans = both.select("user_id", "chunk", **joined_lists(both, names, "early_", "late_"))
    return ibis.union(spans, first.select(spans.columns)) if first is not None else spans


def count_before(placed: Table, heads: Table) -> Table:
    """request_key, user_id, num_before: placed events strictly before `request_time`."""
    events = placed.select(
        "user_id", time="event_time", request_key=ibis.null("string"), is_event=ibis.literal(1)
    )
    asked = heads.select(
        "user_id", "request_key", time="request_time", is_event=ibis.literal(0)
    ).select(events.columns)
    both = ibis.union(events, asked)
    # At one time requests come first, so events of that time are not counted.
    before = ibis.window(
        group_by="user_id", order_by=[both.time, both.is_event], preceding=None, following=0
    )
    both = both.mutate(num_before=both.is_event.sum().over(before))
    return both.filter(both.is_event == 0).select("request_key", "user_id", "num_before")


def last_events(asked: Table, spans: Table, names: Sequence[str], size: int) -> Table:
    """`asked` and a list `history_<name>` per name: the user's last `size` events.

    `asked` has user_id, num_past (events of the past, all of which its chunk holds) and num_before
    (later ones).
    """
    lists = {f"span_{name}": spans[name] for name in names}
    found = _with_span(asked, spans.select("user_id", "chunk", **lists), size)
    start, end = found.history_start, found.history_end
    histories = {f"history_{name}": or_empty(found[f"span_{name}"][start:end]) for name in names}
    return found.select(*asked.columns, **histories)


def last_slices(asked: Table, spans: Table, size: int) -> Table:
    """As `last_events`, but says only where the lists lie: span, history_start, history_end.

    `spans` have numbers; where there is no history, the span is any.
    """
    found = _with_span(asked, spans.select("user_id", "chunk", span="number"), size)
    places = ["history_start", "history_end"]
    return found.select(*asked.columns, *places, span=found.span.fill_null(0))


def _with_span(asked: Table, spans: Table, size: int) -> Table:
    """`asked` with its span's columns, and history_start and history_end within the span."""
    is_new = asked.num_before > 0
    asked = asked.mutate(span_chunk=ibis.ifelse(is_new, (asked.num_before - 1) // size, -1))
    early = ibis.ifelse(asked.span_chunk == 0, asked.num_past, size)
    new = early + asked.num_before - asked.span_chunk * size
    end = ibis.ifelse(asked.num_before > 0, new, asked.num_past)
    asked = asked.mutate(history_start=ibis.greatest(end - size, 0), history_end=end)
    spans = spans.rename(span_user="user_id", span_number="chunk")
    same = [asked.user_id == spans.span_user, asked.span_chunk == spans.span_number]
    return asked.left_join(spans, same)


def last_spans(spans: Table, names: Sequence[str], size: int) -> Table:
    """user_id and, under their own names, the lists of each user's last `size` events."""
    last = spans.group_by("user_id").agg(chunk=spans.chunk.max())
    found = spans.semi_join(last, ["user_id", "chunk"])
    start = ibis.greatest(found[names[0]].length() - size, 0)
    return found.select("user_id", **{name: found[name][start:] for name in names})


def joined_lists(table: Table, names: Sequence[str], first: str, second: str) -> dict[str, Any]:
    """Name -> list `<first><name>` followed by `<second><name>`, absent ones being empty."""
    return {
        name: or_empty(table[first + name]).concat(or_empty(table[second + name])) for name in names
    }


def or_empty(values: ArrayValue) -> ArrayValue:
    """The list, or an empty one in place of null."""
    return ibis.coalesce(values, ibis.literal([], type=values.type()))
