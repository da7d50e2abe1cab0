"""Histories: what a user did strictly before a request, oldest first.

Second of three steps of `requests`. The number of earlier events is a running count over the
user's events and requests together. A user's events lie in blocks of `max_history`, so a history
is the end of one block and the start of the next: two lookups, whatever the user's past is long.
"""

from collections.abc import Sequence

import ibis
from ibis.backends.duckdb import Backend
from ibis.expr.types import ArrayValue, Table

from pipeline.engine import computed

__all__ = ["count_before", "take_histories"]


def count_before(history_events: Table, heads: Table) -> Table:
    """`heads` and `num_before`, the user's history events strictly before `request_time`."""
    events = history_events.select(
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
    counted = both.filter(both.is_event == 0).select("request_key", "num_before")
    return heads.inner_join(counted, "request_key")


def _blocks(history_events: Table, names: Sequence[str], size: int) -> Table:
    """Each user's events in order, `size` to a row: user_id, block, one list per name."""
    events = history_events
    in_order = ibis.window(group_by="user_id", order_by=[events.event_time, events.tie])
    events = events.mutate(position=ibis.row_number().over(in_order))
    events = events.mutate(block=events.position // size)
    token = ibis.struct({name: events[name] for name in ["position", *names]})
    blocks = events.group_by("user_id", "block").agg(tokens=token.collect())
    blocks = blocks.mutate(tokens=blocks.tokens.sort())
    lists = {name: blocks.tokens.map(lambda token, name=name: token[name]) for name in names}
    return blocks.select("user_id", "block", **lists)


def take_histories(
    connection: Backend, history_events: Table, counted: Table, names: Sequence[str], size: int
) -> Table:
    """request_key and a list `history_<name>` per name: the last `size` of `num_before` events.

    `counted` has request_key, user_id and num_before.
    """
    blocks = computed(connection, "blocks", _blocks(history_events, names, size))
    counted = counted.select("request_key", "user_id", "num_before")
    counted = counted.mutate(last_block=(counted.num_before - 1) // size)
    counted = counted.mutate(in_last=counted.num_before - counted.last_block * size)
    earlier = blocks.rename({f"earlier_{name}": name for name in names})
    joined = counted.left_join(
        blocks, [counted.user_id == blocks.user_id, counted.last_block == blocks.block]
    ).select(counted, *names)
    joined = joined.left_join(
        earlier, [joined.user_id == earlier.user_id, joined.last_block - 1 == earlier.block]
    ).select(joined, *(f"earlier_{name}" for name in names))
    histories = {
        f"history_{name}": _or_empty(joined[f"earlier_{name}"][joined.in_last :]).concat(
            _or_empty(joined[name][: joined.in_last])
        )
        for name in names
    }
    return joined.select("request_key", **histories)


def _or_empty(values: ArrayValue) -> ArrayValue:
    return ibis.coalesce(values, ibis.literal([], type=values.type()))
