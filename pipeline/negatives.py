"""Negatives: items that were not in the basket, drawn uniformly or by popularity.

Draw number k of a request is a hash of (seed, request, k) modulo the size of what is drawn from;
the first draws that are neither repeated nor in the basket are taken. So a draw is the same
whatever else is built beside it.
"""

from dataclasses import dataclass
from typing import Literal

import ibis
from ibis.expr.types import IntegerValue, Table

from pipeline.engine import Engine
from pipeline.hashing import hash_number, mixed_long
from pipeline.schema import UNKNOWN_ROW

__all__ = ["NegativeKind", "Pool", "draw_negatives", "make_pool"]

NegativeKind = Literal["uniform", "popularity"]

# Draws beyond the expected number, for repetitions; shortfalls are counted by `requests`.
DRAWS_FACTOR = 2
MORE_DRAWS = 20
# Popular items are drawn again and again; this many draws a wanted negative, then it stays short.
POPULAR_DRAWS = 8


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What is drawn from besides all known items."""

    kind: NegativeKind
    events: Table | None = None
    """for popularity: as_of, number from 0, item_id, one row a history action of the last day
    until `as_of` that had any"""
    sizes: Table | None = None
    """for popularity: as_of, num_events"""


def make_pool(engine: Engine, kind: NegativeKind, recent: Table, day_rows: Table) -> Pool:
    """What is drawn from on the days of `day_rows`.

    `recent` has item_id, day and count, the history actions. Events of one item are alike, so
    their order does not matter.
    """
    if kind == "uniform":
        return Pool(kind=kind)
    active = recent.select(of_day="day").distinct()
    asked = day_rows.select("as_of").distinct()
    last = asked.inner_join(active, active.of_day <= asked.as_of)
    last = last.group_by("as_of").agg(of_day=last.of_day.max())
    counts = recent.inner_join(last, recent.day == last.of_day)
    events, sizes = _numbered_events(counts)
    events = engine.computed("pool", events)
    return Pool(kind=kind, events=events, sizes=engine.computed("pool_sizes", sizes))


def _numbered_events(counts: Table) -> tuple[Table, Table]:
    counts = counts.select("as_of", "item_id", copy=ibis.range(counts["count"]).unnest())
    order = ibis.window(group_by="as_of", order_by=[counts.item_id, counts.copy])
    events = counts.select("as_of", "item_id", number=ibis.row_number().over(order))
    return events, events.group_by("as_of").agg(num_events=events.count())


def draw_negatives(wanted: Table, items: Table, pool: Pool) -> Table:
    """request_key, as_of, item_id: distinct known items, none of the basket's `items`.

    `wanted` has one row a request: request_key, as_of, known (items of the basket with a row),
    num_items (all that are known) and num_negatives.
    """
    wanted = wanted.mutate(seed=hash_number(wanted.request_key))
    draws = _by_popularity(wanted, pool) if pool.kind == "popularity" else _uniform(wanted)
    first = draws.group_by("request_key", "as_of", "item_id").agg(
        number=draws.number.min(), num_negatives=draws.num_negatives.max()
    )
    new = first.anti_join(items, ["request_key", "item_id"])
    place = ibis.row_number().over(group_by="request_key", order_by=new.number)
    new = new.mutate(place=place)
    return new.filter(new.place < new.num_negatives).select("request_key", "as_of", "item_id")


def _uniform(wanted: Table) -> Table:
    draws = _numbered(wanted.mutate(num_draws=_num_draws(wanted), size=wanted.num_items))
    return draws.mutate(item_id=draws.draw + UNKNOWN_ROW + 1)


def _by_popularity(wanted: Table, pool: Pool) -> Table:
    assert pool.events is not None
    assert pool.sizes is not None
    sized = wanted.inner_join(pool.sizes, "as_of")
    num_draws = sized.num_negatives * POPULAR_DRAWS + MORE_DRAWS
    draws = _numbered(sized.mutate(num_draws=num_draws, size=sized.num_events))
    events = pool.events.select("item_id", draw_as_of="as_of", draw_number="number")
    return draws.inner_join(
        events, [draws.as_of == events.draw_as_of, draws.draw == events.draw_number]
    )


def _numbered(wanted: Table) -> Table:
    """One row a draw: number, and draw, from 0 to size - 1."""
    numbers = ibis.range(wanted.num_draws).unnest()
    columns = ["request_key", "as_of", "num_negatives", "size", "seed"]
    draws = wanted.select(*columns, number=numbers)
    # Numbers of one request lie far apart, so that requests do not share runs of draws.
    start = draws.seed + draws.number * 0x9E3779B9
    draws = draws.mutate(start=start)
    return draws.mutate(draw=mixed_long(draws.start) % draws["size"])


def _num_draws(wanted: Table) -> IntegerValue:
    """Enough draws with replacement to see `num_negatives` distinct items outside the basket.

    To see n of the a items outside it takes about num_items * ln(a / (a - n)) draws.
    """
    # Twice the numbers plus one, so that taking all of a leaves more than nothing.
    outside = (wanted.num_items - wanted.known) * 2 + 1
    left = outside - wanted.num_negatives * 2
    expected = (outside / left).ln() * wanted.num_items
    return (expected * DRAWS_FACTOR).ceil().cast("int64") + MORE_DRAWS
