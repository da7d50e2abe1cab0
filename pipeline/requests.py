"""Requests for ranking: a basket's items against items drawn at random, and the user's past.

    encoded events + catalogue -> `baskets`, `histories`, `negatives` -> ROOT/requests/day=D

The history ends strictly before the request's time. The features of all candidates, positives and
negatives alike, are the catalogue's (an item's latest in the training days): if positives had those
of their own event, a feature that changes over time would tell the label.
"""

from collections.abc import Mapping, Sequence
from datetime import date

import ibis
from ibis.backends.duckdb import Backend
from ibis.expr.types import Table
from pydantic import Field, model_validator

from pipeline.baskets import Baskets, count_items, find_baskets
from pipeline.engine import computed, rows_of
from pipeline.hashing import hash_key
from pipeline.histories import count_before, take_histories
from pipeline.negatives import draw_negatives
from pipeline.schema import UNKNOWN_ROW, FeatureSettings, context_features, item_features
from pipeline.settings import Settings

__all__ = ["RequestSettings", "count_requests", "find_requests", "made_requests"]


class RequestSettings(Settings):
    """`[requests]`: what a request is, and what it is ranked against."""

    # The requests' label column is label_<task>.
    task: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    positive_actions: tuple[str, ...] = Field(min_length=1)
    history_actions: tuple[str, ...] = Field(default=("click",), min_length=1)
    # Events of a history at most; the latest are kept.
    max_history: int = Field(default=100, ge=1)
    # Requests with fewer earlier events are not made, only counted.
    min_history: int = Field(default=1, ge=0)
    negatives_per_positive: int = Field(default=1, ge=1)
    # Positives and negatives of a request together; positives beyond are cut by hash and counted.
    max_candidates: int = Field(default=200, ge=2)
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> "RequestSettings":
        if self.max_candidates < 1 + self.negatives_per_positive:
            raise ValueError(
                f"requests.max_candidates is {self.max_candidates}, too few for one positive and "
                f"requests.negatives_per_positive = {self.negatives_per_positive} negatives"
            )
        if self.min_history > self.max_history:
            raise ValueError(
                f"requests.min_history is {self.min_history}, more than requests.max_history, "
                f"{self.max_history}"
            )
        return self

    @property
    def max_positives(self) -> int:
        """Positives of a request at most."""
        return self.max_candidates // (1 + self.negatives_per_positive)


def find_requests(
    connection: Backend,
    events: Table,
    catalogue: Table,
    num_items: int,
    settings: RequestSettings,
    features: Sequence[FeatureSettings],
    days: Sequence[date],
) -> Table:
    """All baskets of `days`; with history and candidates where `made` is true.

    `events` are encoded and hold the users' whole past; `num_items` is the number of known items.
    """
    baskets = find_baskets(
        connection, events, settings.positive_actions, days, features, settings.seed
    )
    past = events.filter(events.action.isin(settings.history_actions))
    heads = computed(connection, "heads", _measured(baskets, past, num_items, settings))
    made = heads.filter(heads.made)
    candidates = _candidates(baskets.items, made, catalogue, num_items, features)
    lists = _candidate_lists(candidates, settings.task, features)
    names = [*item_features(features), "event_time"]
    histories = take_histories(connection, past, made, names, settings.max_history)
    histories = histories.rename(history_time="history_event_time")
    return (
        heads.left_join(lists, "request_key")
        .drop("request_key_right")
        .left_join(histories, "request_key")
        .drop("request_key_right")
    )


def _measured(baskets: Baskets, past: Table, num_items: int, settings: RequestSettings) -> Table:
    """Heads with the numbers that decide whether and how large a request is made."""
    heads = count_before(past, baskets.heads)
    heads = heads.inner_join(count_items(baskets.items), "request_key")
    num_positives = ibis.least(heads.known, settings.max_positives)
    heads = heads.mutate(
        num_positives=num_positives, made=(heads.known > 0) & _long_enough(heads, settings)
    )
    asked = heads.num_positives * settings.negatives_per_positive
    return heads.mutate(
        num_asked=asked, num_negatives=ibis.least(asked, ibis.greatest(num_items - heads.known, 0))
    )


def _long_enough(heads: Table, settings: RequestSettings) -> ibis.expr.types.BooleanValue:
    return heads.num_before >= settings.min_history


def _candidates(
    items: Table,
    made: Table,
    catalogue: Table,
    num_items: int,
    features: Sequence[FeatureSettings],
) -> Table:
    """request_key, place (a hash), label and item features; one row a candidate.

    The place of a candidate says nothing of its label.
    """
    names = item_features(features)
    columns = ["request_key", "place", *names, "label"]
    known = items.filter(items.item_id != UNKNOWN_ROW)
    known = known.inner_join(made.select("request_key", "num_positives"), "request_key")
    known = known.mutate(
        place=hash_key(known.request_key, known.item_id.cast("string")), label=ibis.literal(1)
    )
    rank = ibis.row_number().over(group_by="request_key", order_by=known.place)
    known = known.mutate(rank=rank)
    bought = known.filter(known.rank < known.num_positives)
    bought = bought.select("request_key", "place", "item_id", "label")
    positives = bought.inner_join(catalogue.select(names), "item_id").select(columns)
    wanted = made.select("request_key", "known", "num_negatives")
    drawn = draw_negatives(wanted, known, num_items)
    drawn = drawn.inner_join(catalogue.select(names), "item_id")
    negatives = drawn.mutate(
        place=hash_key(drawn.request_key, drawn.item_id.cast("string")), label=ibis.literal(0)
    )
    return ibis.union(positives, negatives.select(columns))


def _candidate_lists(candidates: Table, task: str, features: Sequence[FeatureSettings]) -> Table:
    """One row a request: its candidates' features and labels as lists, in hash order."""
    names = item_features(features)
    token = ibis.struct({name: candidates[name] for name in ["place", *names, "label"]})
    lists = candidates.group_by("request_key").agg(
        num_candidates=candidates.count(), tokens=token.collect()
    )
    lists = lists.mutate(tokens=lists.tokens.sort())
    columns = {
        f"candidate_{name}": lists.tokens.map(lambda token, name=name: token[name])
        for name in names
    }
    labels = lists.tokens.map(lambda token: token.label)
    return lists.select("request_key", "num_candidates", **columns, **{f"label_{task}": labels})


def made_requests(
    requests: Table, task: str, features: Sequence[FeatureSettings], days: Sequence[date]
) -> Table:
    """The requests of `days` in the contract's columns, in the order of their files."""
    names = item_features(features)
    made = requests.filter(requests.made, requests.day.isin(list(days)))
    return made.order_by(["day", "request_key"]).select(
        "day",
        "request_id",
        "user_id",
        "request_time",
        "history_time",
        *(f"history_{name}" for name in names),
        *(f"candidate_{name}" for name in names),
        f"label_{task}",
        *context_features(features),
    )


def count_requests(
    connection: Backend, requests: Table, settings: RequestSettings
) -> Mapping[date, dict[str, int]]:
    """Day -> what was made, and what was not and why."""
    made = requests.made
    known = requests.known > 0
    negatives = requests.num_candidates - requests.num_positives
    counts = requests.group_by("day").agg(
        requests=made.sum(),
        candidates=requests.num_candidates.sum(where=made),
        positives=requests.num_positives.sum(where=made),
        history_tokens=ibis.least(requests.num_before, settings.max_history).sum(where=made),
        cut_positives=(requests.known - requests.num_positives).sum(where=made),
        missing_negatives=(requests.num_asked - negatives).sum(where=made),
        unknown_item_positives=requests.unknown.sum(),
        without_known_positives=(~known).sum(),
        with_short_history=(known & ~_long_enough(requests, settings)).sum(),
    )
    return {
        row.pop("day"): {name: int(value or 0) for name, value in row.items()}
        for row in rows_of(connection, counts)
    }
