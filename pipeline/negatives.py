"""Negatives: items that were not in the basket, drawn uniformly from the catalogue.

Third of three steps of `requests`. Draw number k of a request is a hash of (seed, request, k)
modulo the number of known items; the first draws that are neither repeated nor in the basket are
taken. So a draw is the same whatever else is built beside it.
"""

import ibis
from ibis.expr.types import IntegerValue, Table

from pipeline.hashing import hash_key, hash_number
from pipeline.schema import UNKNOWN_ROW

__all__ = ["draw_negatives"]

# Draws beyond the expected number, for repetitions; shortfalls are counted by `requests`.
DRAWS_FACTOR = 2
MORE_DRAWS = 20


def draw_negatives(wanted: Table, items: Table, num_items: int) -> Table:
    """request_key, item_id (a row from 1 to `num_items`): distinct, none of the basket's items.

    `wanted` has one row a request: request_key, known (items of the basket with a row) and
    num_negatives; `items` all items of the baskets.
    """
    numbers = ibis.range(_num_draws(wanted, num_items)).unnest()
    draws = wanted.select("request_key", "num_negatives", number=numbers)
    draws = draws.mutate(draw=hash_key(draws.request_key, draws.number.cast("string")))
    draws = draws.mutate(item_id=hash_number(draws.draw) % num_items + UNKNOWN_ROW + 1)
    first = draws.group_by("request_key", "item_id").agg(
        number=draws.number.min(), num_negatives=draws.num_negatives.max()
    )
    new = first.anti_join(items, ["request_key", "item_id"])
    place = ibis.row_number().over(group_by="request_key", order_by=new.number)
    new = new.mutate(place=place)
    return new.filter(new.place < new.num_negatives).select("request_key", "item_id")


def _num_draws(wanted: Table, num_items: int) -> IntegerValue:
    """Enough draws with replacement to see `num_negatives` distinct items outside the basket.

    To see n of the a items outside it takes about num_items * ln(a / (a - n)) draws.
    """
    # Twice the numbers plus one, so that taking all of a leaves more than nothing.
    outside = (num_items - wanted.known) * 2 + 1
    left = outside - wanted.num_negatives * 2
    expected = (outside / left).ln() * num_items
    return (expected * DRAWS_FACTOR).ceil().cast("int64") + MORE_DRAWS
