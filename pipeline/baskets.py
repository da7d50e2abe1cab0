"""Baskets: what a user acted on together, the positives of a request.

First of three steps of `requests`; `histories` and `negatives` add the rest. Events of the
positive actions form one basket by (day, user_id, request_id), or by time where request_id is
unknown. A basket that goes over midnight is two: days are built independently.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import ibis
from ibis.backends.duckdb import Backend
from ibis.expr.types import StringValue, Table

from pipeline.engine import computed
from pipeline.hashing import hash_key
from pipeline.schema import UNKNOWN_ROW, FeatureSettings, context_features, item_features

__all__ = ["Baskets", "count_items", "find_baskets"]


@dataclass(frozen=True, kw_only=True)
class Baskets:
    """Requests to be, and the items in them."""

    heads: Table
    """one row a basket: request_key, day, user_id, request_id, request_time, context features"""
    items: Table
    """one row a basket's distinct item: request_key, raw_item, item features as the basket's
    earliest event of the item has them"""


def find_baskets(
    connection: Backend,
    events: Table,
    actions: Sequence[str],
    days: Sequence[date],
    features: Sequence[FeatureSettings],
    seed: int,
) -> Baskets:
    """Baskets of the given days from encoded events."""
    chosen = events.filter(events.action.isin(actions), events.day.isin(list(days)))
    chosen = chosen.mutate(request_id=_request_id(chosen))
    key = hash_key(str(seed), chosen.day.cast("string"), chosen.user_id, chosen.request_id)
    chosen = chosen.mutate(request_key=key)
    order = [chosen.event_time, chosen.tie]
    chosen = chosen.mutate(
        in_basket=ibis.row_number().over(group_by="request_key", order_by=order),
        of_item=ibis.row_number().over(group_by=["request_key", "raw_item"], order_by=order),
    )
    chosen = computed(connection, "basket_events", chosen)
    heads = chosen.filter(chosen.in_basket == 0).select(
        "request_key",
        "day",
        "user_id",
        "request_id",
        *context_features(features),
        request_time="event_time",
    )
    items = chosen.filter(chosen.of_item == 0)
    return Baskets(
        heads=heads, items=items.select("request_key", "raw_item", *item_features(features))
    )


def _request_id(events: Table) -> StringValue:
    """The event's own request_id, or one made of user and time."""
    made = events.user_id.concat("@", events.event_time.strftime("%Y%m%d%H%M%S.%f"))
    return ibis.coalesce(events.request_id, made)


def count_items(items: Table) -> Table:
    """request_key -> known and unknown distinct items. Unknown ones are no candidates."""
    unknown = items.item_id == UNKNOWN_ROW
    return items.group_by("request_key").agg(known=(~unknown).sum(), unknown=unknown.sum())
