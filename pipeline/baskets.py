"""Requests of baskets: what a user chose together, against items that are drawn.

For logs without impressions. Events of the requests' actions form one basket by (day, user_id,
request_id), or by time where request_id is unknown. A basket that goes over midnight is two: days
are built independently. Items that were not known when the day began are no candidates: drawn
items are always known ones, so "unknown" alone would give the label away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import ibis
from ibis.expr.types import IntegerValue, StringValue, Table

from pipeline.catalogue import features_on
from pipeline.corrected import PartEvents
from pipeline.encoding import known_row
from pipeline.engine import Engine
from pipeline.hashing import hash_key
from pipeline.held_candidates import HeldCandidates
from pipeline.negatives import Pool, draw_negatives
from pipeline.requests import RequestSettings, counts_by_day, own_request_id, request_key
from pipeline.schema import UNKNOWN_ROW, FeatureSettings, context_features, item_features

__all__ = ["BasketRequests"]

KEYS = ("day", "user_id", "request_id")


@dataclass(frozen=True, kw_only=True)
class BasketRequests:
    """Makes requests of some days; users come a part at a time."""

    engine: Engine
    settings: RequestSettings
    task: str
    features: Sequence[FeatureSettings]
    days: Sequence[date]
    day_rows: Table
    """what was known when a day began, by `encoding.day_table`"""
    versions: Table
    """of the catalogue"""
    pool: Pool

    def corrected(self, engine: Engine, events: Table) -> PartEvents:  # noqa: ARG002 (as others)
        """`events`: no times are known that could contradict theirs."""
        return PartEvents(others=events)

    def heads(
        self,
        engine: Engine,
        events: PartEvents,
        part: IntegerValue,  # noqa: ARG002 (same)
        held: HeldCandidates | None,  # noqa: ARG002 (same)
    ) -> Table:
        """Every basket, with the numbers that decide what is made of it."""
        chosen = events.of(self.settings.actions)
        chosen = chosen.filter(chosen.day.isin(list(self.days)))
        items = engine.computed("basket_items", self._items(chosen))
        is_known = items.item_id != UNKNOWN_ROW
        heads = items.group_by(*KEYS).agg(
            request_time=items.event_time.min(),
            as_of=items.as_of.min(),
            num_items=items.known_item_id.min() - 1,
            known=is_known.sum(),
            unknown=(~is_known).sum(),
            **{name: items[name].min() for name in context_features(self.features)},
        )
        num_positives = ibis.least(heads.known, self.settings.max_positives)
        asked = num_positives * self.settings.negatives_per_positive
        outside = ibis.greatest(heads.num_items - heads.known, 0)
        return heads.mutate(
            request_key=request_key(heads, self.settings.seed),
            num_positives=num_positives,
            num_asked=asked,
            num_negatives=ibis.least(asked, outside),
        )

    def made(self, engine: Engine, heads: Table, held: HeldCandidates | None) -> Table:
        """Baskets with a known item and enough of a history, with their candidates in lists."""
        made = heads.filter(heads.long_enough, heads.known > 0)
        lists = self._candidate_lists(engine, made, held)
        return made.inner_join(lists, "request_key")

    def to_count(self, heads: Table) -> Table:
        """What `counts` needs of the heads."""
        columns = ["day", "known", "unknown", "num_positives", "num_asked", "long_enough"]
        return heads.select(columns)

    def counts(self, heads: Table) -> dict[date, dict[str, int]]:
        """Day -> what was left out of its requests; `heads` are all users'."""
        known = heads.known > 0
        made = known & heads.long_enough
        sums = heads.group_by("day").agg(
            positives=heads.num_positives.sum(where=made),
            cut_positives=(heads.known - heads.num_positives).sum(where=made),
            asked_negatives=heads.num_asked.sum(where=made),
            unknown_item_positives=heads.unknown.sum(),
            without_known_positives=(~known).sum(),
            with_short_history=(known & ~heads.long_enough).sum(),
        )
        return counts_by_day(self.engine, sums)

    def _items(self, chosen: Table) -> Table:
        """One row a basket's distinct item; item_id is 0 where it was not known."""
        chosen = chosen.mutate(request_id=own_request_id(chosen))
        items = chosen.group_by(*KEYS, "raw_item").agg(
            item_id=chosen.item_id.min(),
            event_time=chosen.event_time.min(),
            **{name: chosen[name].min() for name in context_features(self.features)},
        )
        items = items.inner_join(self.day_rows.select("day", "as_of", "known_item_id"), "day")
        return items.mutate(item_id=known_row(items.item_id, items.known_item_id))

    def _candidate_lists(self, engine: Engine, made: Table, held: HeldCandidates | None) -> Table:
        """request_key, and its candidates' features and labels as lists, or `held`, in hash order.

        The features of positives and negatives alike are the catalogue's: if positives had those
        of their own event, a feature that changes over time would tell the label.
        """
        names = item_features(self.features)
        items = engine.table("basket_items")
        items = items.filter(items.item_id != UNKNOWN_ROW)
        items = items.inner_join(made.select("request_key", "num_positives", *KEYS), KEYS)
        items = items.mutate(place=_place(items), label=ibis.literal(1))
        rank = ibis.row_number().over(group_by="request_key", order_by=items.place)
        items = items.mutate(rank=rank)
        columns = ["request_key", "place", "as_of", "item_id", "label"]
        positives = items.filter(items.rank < items.num_positives).select(columns)
        drawn = draw_negatives(made, items, self.pool)
        drawn = drawn.mutate(place=_place(drawn), label=ibis.literal(0)).select(columns)
        candidates = features_on(ibis.union(positives, drawn), self.versions, names)
        lists = {f"candidate_{name}": candidates[name] for name in names}
        lists[f"label_{self.task}"] = candidates.label.cast("int8")
        candidates = candidates.select("request_key", "place", **lists)
        keys, order = ["request_key"], ["place"]
        return engine.sorted_lists("candidate_lists", candidates, keys, order, list(lists), held)


def _place(items: Table) -> StringValue:
    """Where a candidate stands in its request; says nothing of its label."""
    return hash_key(items.request_key, items.item_id.cast("string"))
