"""Histories: what a user did strictly before a request, oldest first.

A user's events of the days being built lie in chunks of `size`; chunk -1 is what the user's state
of the day before holds, the last `size` events at most. A history is the end of one chunk after
the end of the one before it: two lookups, however long the user's past is.
"""

from collections.abc import Sequence
from typing import Any

import ibis
from ibis.expr.types import ArrayValue, IntegerValue, Table

from pipeline.hashing import scrambled
from pipeline.schema import UNKNOWN_ROW

__all__ = [
    "chunks_of",
    "count_before",
    "joined_lists",
    "last_events",
    "or_empty",
    "placed_events",
    "sorted_lists",
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
    item = ibis.ifelse(events.item_id == UNKNOWN_ROW, events.raw_hash, known)
    return item * 2**31 + ((others * 8 + action) & (2**31 - 1))


def placed_events(events: Table, actions: Sequence[str], names: Sequence[str]) -> Table:
    """Events of these actions with `position`, each user's from 0, oldest first; and `tie`."""
    chosen = events.filter(events.action.isin(actions))
    chosen = chosen.mutate(tie=tie(chosen, names, actions))
    in_order = ibis.window(group_by="user_id", order_by=[chosen.event_time, chosen.tie])
    return chosen.mutate(position=ibis.row_number().over(in_order))


def sorted_lists(grouped: Table, first: Any, fields: dict[str, Any], **more: Any) -> Table:
    """One row a group of `grouped`, with one list a field, in the order of `first`.

    Engines collect in any order, so structs are collected and sorted by their first field.
    """
    token = ibis.struct({"sort_key": first, **fields})
    lists = grouped.agg(tokens=token.collect(), **more)
    lists = lists.mutate(tokens=lists.tokens.sort())
    columns = {name: lists.tokens.map(lambda t, name=name: t[name]) for name in fields}
    return lists.mutate(**columns).drop("tokens")


def chunks_of(placed: Table, names: Sequence[str], size: int) -> Table:
    """user_id, chunk from 0, num_events, and a list a name."""
    placed = placed.mutate(chunk=placed.position // size)
    grouped = placed.group_by("user_id", "chunk")
    fields = {name: placed[name] for name in names}
    return sorted_lists(grouped, placed.position, fields, num_events=placed.count())


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


def last_events(asked: Table, chunks: Table, names: Sequence[str], size: int) -> Table:
    """`asked` (with user_id, num_before) and a list `history_<name>` per name.

    The last `size` of the user's events: those before, in chunk -1, and `num_before` of the others.
    """
    last = ibis.ifelse(asked.num_before > 0, (asked.num_before - 1) // size, -1)
    asked = asked.mutate(last_chunk=last)
    asked = asked.mutate(
        in_last=ibis.ifelse(asked.last_chunk >= 0, asked.num_before - asked.last_chunk * size, size)
    )
    late = chunks.select("user_id", "chunk", **{f"late_{name}": chunks[name] for name in names})
    early = chunks.select("user_id", "chunk", **{f"early_{name}": chunks[name] for name in names})
    kept = asked.columns
    joined = asked.left_join(
        late, [asked.user_id == late.user_id, asked.last_chunk == late.chunk]
    ).select(asked, *(f"late_{name}" for name in names))
    joined = joined.left_join(
        early, [joined.user_id == early.user_id, joined.last_chunk - 1 == early.chunk]
    ).select(joined, *(f"early_{name}" for name in names))
    histories: dict[str, ArrayValue] = {}
    for name in names:
        earlier = or_empty(joined[f"early_{name}"])
        latest = or_empty(joined[f"late_{name}"])
        first = ibis.greatest(earlier.length() - (size - joined.in_last), 0)
        histories[f"history_{name}"] = earlier[first:].concat(latest[: joined.in_last])
    columns = [name for name in kept if name not in ("last_chunk", "in_last")]
    return joined.select(*columns, **histories)


def joined_lists(table: Table, names: Sequence[str], first: str, second: str) -> dict[str, Any]:
    """Name -> list `<first><name>` followed by `<second><name>`, absent ones being empty."""
    return {
        name: or_empty(table[first + name]).concat(or_empty(table[second + name])) for name in names
    }


def or_empty(values: ArrayValue) -> ArrayValue:
    """The list, or an empty one in place of null."""
    return ibis.coalesce(values, ibis.literal([], type=values.type()))
