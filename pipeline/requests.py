"""Requests for ranking: candidates with their labels, and the user's past.

    encoded events -> `shown` + `labels`, or `baskets` + `negatives` -> + `histories`
                   -> ROOT/requests/day=D

Nothing at or after a request's time enters its history, nothing of its own day its vocabulary, and
its candidates' features say nothing of their labels.
"""

from collections.abc import Sequence
from datetime import date
from typing import Literal

import ibis
from ibis.expr.types import IntegerValue, StringValue, Table
from pydantic import Field, model_validator

from pipeline.encoding import known_list, known_row
from pipeline.engine import Engine
from pipeline.errors import ConfigError
from pipeline.hashing import hash_key
from pipeline.held_candidates import HeldCandidates
from pipeline.histories import last_events, last_slices
from pipeline.negatives import NegativeKind
from pipeline.schema import UNKNOWN_ROW, FeatureSettings, context_features, item_features
from pipeline.settings import Settings

__all__ = [
    "RequestSettings",
    "check_candidates",
    "count_requests",
    "counts_by_day",
    "finished_requests",
    "in_contract",
    "in_file_order",
    "num_candidates",
    "own_request_id",
    "request_key",
]


TIME = "event_time"
BOTH = ("history", "candidate")


class RequestSettings(Settings):
    """`[requests]`: what a request is, and what it is ranked against."""

    # events: what happened is the candidates (impressions; clicks), labelled by what followed;
    # sampled: what happened is positive, against items that are drawn;
    # last_event: each user's last event is positive (the public data sets' protocol).
    candidates: Literal["events", "sampled", "last_event"] = "sampled"
    # The actions that make requests.
    actions: tuple[str, ...] = Field(min_length=1)
    # Actions that a history is made of.
    history_actions: tuple[str, ...] = Field(default=("click",), min_length=1)
    # Events of a history at most; the latest are kept.
    max_history: int = Field(default=100, ge=1)
    # Requests with fewer earlier events are not made, only counted.
    min_history: int = Field(default=1, ge=0)
    # sampled, last_event: what drawn items are drawn by.
    negatives: NegativeKind = "uniform"
    # sampled, last_event: items drawn for each positive.
    negatives_per_positive: int = Field(default=1, ge=1)
    # Candidates of a request at most; those beyond are cut by hash and counted.
    max_candidates: int = Field(default=200, ge=2)
    # last_event: how users are divided into training, validation and test users.
    split: Literal["time", "hash"] = "time"
    # last_event: of the users, the latest of them where `split` is "time".
    test_share: float = Field(default=0.3, gt=0, lt=1)
    # last_event: of the users that are no test users.
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    # Of drawn items and of users' division.
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> "RequestSettings":
        if self.candidates != "events" and self.max_candidates < 1 + self.negatives_per_positive:
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
    def candidates_per_event(self) -> int:
        """Candidates that an event of `actions` makes at most."""
        return 1 if self.candidates == "events" else 1 + self.negatives_per_positive

    @property
    def max_positives(self) -> int:
        """Positives of a request at most, where negatives are drawn."""
        return self.max_candidates // (1 + self.negatives_per_positive)


def check_candidates(requests: RequestSettings, features: Sequence[FeatureSettings]) -> None:
    """Raise ConfigError where items have no vocabulary that negatives could be drawn from."""
    if requests.candidates != "events" and features[0].hash_rows is not None:
        raise ConfigError(
            f"features.0.hash_rows: not with requests.candidates = {requests.candidates!r}: "
            "negatives are items that are known, and hashes tell of none; leave hash_rows out, "
            "and set min_count if there are too many items"
        )


def own_request_id(events: Table) -> StringValue:
    """The event's request_id, or one made of user and time."""
    made = events.user_id.concat("@", events.event_time.strftime("%Y%m%d%H%M%S.%f"))
    return ibis.coalesce(events.request_id, made)


def request_key(heads: Table, seed: int) -> StringValue:
    """What names a request and orders a day's requests: a hash."""
    return hash_key(str(seed), heads.day.cast("string"), heads.user_id, heads.request_id)


def finished_requests(
    heads: Table,
    spans: Table,
    day_rows: Table,
    settings: RequestSettings,
    features: Sequence[FeatureSettings],
    tasks: Sequence[str],
) -> Table:
    """`heads` with their histories, what was not known before their day being row 0.

    `heads` have the candidates' lists, num_before, the history events of these days before them,
    and num_past, those of earlier days; `spans` those events. Where spans are numbered, requests
    say where their history and candidates lie, and `HeldSpans` and `HeldCandidates` fill them in.
    """
    names = item_features(features)
    known: dict[str, ibis.Value] = {}
    if "number" in spans.columns:
        found = last_slices(heads, spans, settings.max_history)
        found = found.inner_join(day_rows.drop("as_of"), "day")
        most = found.candidates_start + settings.max_candidates
        known["candidates_end"] = ibis.least(found.candidates_end, most)
    else:
        found = last_events(heads, spans, [*names, TIME], settings.max_history)
        found = found.rename(history_time=f"history_{TIME}")
        found = found.inner_join(day_rows.drop("as_of"), "day")
        known |= _known_lists(found, settings, names, tasks)
    for name in context_features(features):
        known[name] = known_row(found[name], found[f"known_{name}"])
    return found.mutate(**known)


def _known_lists(
    found: Table, settings: RequestSettings, names: Sequence[str], tasks: Sequence[str]
) -> dict[str, ibis.Value]:
    """Lists with what was known, those of candidates as long as they may be."""
    known: dict[str, ibis.Value] = {}
    for name in names:
        for column in (f"{of}_{name}" for of in BOTH):
            known[column] = known_list(found[column], found[f"known_{name}"])
    for column in [*(f"candidate_{name}" for name in names), *(f"label_{t}" for t in tasks)]:
        values = known.get(column, found[column])
        is_short = values.length() <= settings.max_candidates
        known[column] = ibis.ifelse(is_short, values, values[: settings.max_candidates])
    return known


def in_contract(
    requests: Table, tasks: Sequence[str], features: Sequence[FeatureSettings]
) -> Table:
    """Requests in the contract's columns, with day and request_key.

    In place of lists that are still to be filled in, what says where they lie.
    """
    names = item_features(features)
    if "span" in requests.columns:
        lists = ["span", "history_start", "history_end", *(f"known_{name}" for name in names)]
        lists += ["candidates_start", "candidates_end"]
    else:
        lists = ["history_time", *(f"history_{name}" for name in names)]
        lists += [f"candidate_{name}" for name in names]
        lists += [f"label_{task}" for task in tasks]
    return requests.select(
        "day",
        "request_key",
        "request_id",
        "user_id",
        "request_time",
        *lists,
        *context_features(features),
    )


def in_file_order(requests: Table) -> Table:
    """The rows in the order of their files: by hash, so that users are mixed."""
    return requests.order_by(["day", "request_key"])


def num_candidates(requests: Table) -> IntegerValue:
    """How many each has, in lists or held."""
    if "candidates_start" in requests.columns:
        return requests.candidates_end - requests.candidates_start
    return requests.candidate_item_id.length()


def count_requests(
    engine: Engine, requests: Table, tasks: Sequence[str], held: HeldCandidates | None
) -> dict[date, dict[str, int]]:
    """Day -> requests, candidates, history tokens, new candidates, labels.

    An item is new if it was not known when the day began: first seen on it, or too rare before.
    """
    columns = {"candidates": num_candidates(requests)}
    if held:
        columns["history_tokens"] = requests.history_end - requests.history_start
        found = held.counts(engine.stream(requests))
    else:
        columns["history_tokens"] = requests.history_time.length()
        columns |= _in_candidates(requests, tasks)
        found = {}
    measured = requests.select("day", **columns)
    sums = {name: measured[name].sum() for name in columns}
    sums = measured.group_by("day").agg(requests=measured.count(), **sums)
    counts = counts_by_day(engine, sums)
    return {day: {**of_day, **found.get(day, {})} for day, of_day in counts.items()}


def _in_candidates(requests: Table, tasks: Sequence[str]) -> dict[str, IntegerValue]:
    """What `HeldCandidates.counts` says of those it holds."""
    items = requests.candidate_item_id
    columns = {"new_item_candidates": items.filter(lambda row: row == UNKNOWN_ROW).length()}
    for task in tasks:
        label = requests[f"label_{task}"]
        columns[f"label_{task}_applies"] = label.filter(lambda value: value.notnull()).length()
        columns[f"label_{task}_positives"] = label.filter(lambda value: value == 1).length()
    return columns


def counts_by_day(engine: Engine, sums: Table) -> dict[date, dict[str, int]]:
    """A small table with `day` and numbers as plain values, null being 0."""
    return {
        row.pop("day"): {name: int(value or 0) for name, value in row.items()}
        for row in engine.rows_of(sums)
    }
