"""Requests of what was shown: events of the requests' actions are the candidates.

For logs with impressions (candidates are impressions), and for logs of clicks whose conversions are
learned (candidates are clicks). Events form one request by (day, user_id, request_id), or by time
where request_id is unknown; an item shown twice in a request is one candidate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import ibis
from ibis.expr.types import Table

from pipeline.engine import Engine
from pipeline.histories import sorted_lists, tie
from pipeline.labels import (
    KEYS,
    count_unmatched,
    find_labels,
    only_final,
    with_labels,
)
from pipeline.requests import RequestSettings, counts_by_day, own_request_id, request_key
from pipeline.schema import FeatureSettings, context_features, item_features
from pipeline.tasks import TaskSettings

__all__ = ["ShownRequests", "corrected_times"]

NEVER = ibis.literal(0).cast("boolean")


def corrected_times(
    engine: Engine, name: str, events: Table, shown_actions: Sequence[str]
) -> Table:
    """`events`, those of other actions no earlier than the request they carry the id of.

    A clock that is behind would put an answer to a request before it, into its own history. Adds
    `corrected`.
    """
    is_shown = events.action.isin(shown_actions)
    shown, others = events.filter(is_shown), events.filter(~is_shown)
    starts = shown.group_by("day", "user_id", "request_id").agg(request_time=shown.event_time.min())
    joined = others.left_join(starts, ["day", "user_id", "request_id"])
    joined = joined.select(others, "request_time")
    behind = ibis.coalesce(joined.event_time < joined.request_time, NEVER)
    event_time = ibis.ifelse(behind, joined.request_time, joined.event_time)
    others = joined.mutate(corrected=behind, event_time=event_time).drop("request_time")
    # Most events are what was shown: these are not copied.
    return ibis.union(shown.mutate(corrected=NEVER), engine.computed(name, others))


@dataclass(frozen=True, kw_only=True)
class ShownRequests:
    """Makes requests of some days; users come a part at a time."""

    engine: Engine
    settings: RequestSettings
    tasks: Mapping[str, TaskSettings]
    features: Sequence[FeatureSettings]
    days: Sequence[date]
    final: Mapping[str, Sequence[date]]
    """task -> days whose labels are final"""
    later: Table
    """events after the block's days that labels depend on; columns of encoded events that name an
    event, and part"""
    found: dict[date, dict[str, int]] = field(default_factory=dict)
    """day -> counts of its events, of all parts so far"""

    def heads(self, events: Table, part: int) -> Table:
        """Every request with its candidates and labels in lists; `events` are the part's."""
        shown = events.filter(events.action.isin(self.settings.actions))
        shown = shown.filter(shown.day.isin(list(self.days)))
        requests, candidates = self._candidates(shown)
        later = self.later.filter(self.later.part == part)
        columns = ["user_id", "raw_item", "action", "event_time", "request_id", "day"]
        names = {action for task in self.tasks.values() for action in task.label_actions}
        actions = ibis.union(events.select(columns), later.select(columns))
        actions = self.engine.computed("actions", actions.filter(actions.action.isin(names)))
        labels = find_labels(self.engine, requests, candidates, actions, self.tasks)
        self._add(count_unmatched(self.engine, labels, self.tasks, self.days))
        self._add(self._count_corrected(events))
        lists = self._lists(with_labels(candidates, labels, self.tasks))
        again = self._shown_again(requests, events, later)
        named = requests.select("number", "day", "user_id", request_id="own_id")
        named = named.mutate(request_key=request_key(named, self.settings.seed))
        heads = named.inner_join(lists, "number").left_join(again, "number")
        heads = heads.mutate(goes_on=heads.goes_on.fill_null(0)).drop("number_right", "number")
        return only_final(heads, self.tasks, self.final)

    def made(self, heads: Table) -> Table:
        """Every request that has enough of a history."""
        return heads.filter(heads.long_enough)

    def to_count(self, heads: Table) -> Table:
        """What `counts` needs of the heads."""
        num_candidates = heads.candidate_item_id.length()
        columns = ["day", "user_id", "request_id", "long_enough", "num_events", "goes_on"]
        return heads.select(*columns, num_candidates=num_candidates)

    def counts(self, heads: Table) -> dict[date, dict[str, int]]:
        """Day -> what was left out of its requests, or was odd; `heads` are all users'."""
        several = heads.user_id.count().over(group_by=["day", "request_id"]) > 1
        heads = heads.mutate(several=several.cast("int64"))
        cut = ibis.greatest(heads.num_candidates - self.settings.max_candidates, 0)
        sums = heads.group_by("day").agg(
            with_short_history=(~heads.long_enough).sum(),
            cut_candidates=cut.sum(),
            repeated_candidates=(heads.num_events - heads.num_candidates).sum(),
            request_ids_of_several_users=heads.several.sum(),
            request_ids_over_midnight=heads.goes_on.sum(),
        )
        counts = counts_by_day(self.engine, sums)
        return {day: {**counts.get(day, {}), **self.found.get(day, {})} for day in self.days}

    def _candidates(self, shown: Table) -> tuple[Table, Table]:
        """Requests with their numbers, and their candidates: `labels.KEYS` and the features.

        Requests are named by texts; what is done for every candidate goes by numbers. An item that
        was shown more than once is as its first event said; where data are odd enough to say
        different things at once, the result must not depend on the order they are met in.
        """
        keys = ["day", "user_id", "own_id"]
        shown = shown.mutate(own_id=own_request_id(shown))
        requests = shown.group_by(*keys).agg(
            given_id=shown.request_id.min(),
            first_time=shown.event_time.min(),
            last_time=shown.event_time.max(),
        )
        requests = requests.mutate(number=ibis.row_number())
        requests = self.engine.computed("numbered_requests", requests)
        shown = shown.inner_join(requests.select(*keys, "number"), keys)
        features = [*item_features(self.features), *context_features(self.features)]
        candidates = shown.group_by(*KEYS).agg(
            event_time=shown.event_time.min(),
            num_events=shown.count(),
            raw_hash=shown.raw_hash.min(),
            **{name: shown[name].min() for name in features},
        )
        return requests, self.engine.computed("candidates", candidates)

    def _lists(self, labelled: Table) -> Table:
        """One row a request: number, request_time, context, and its candidates in lists."""
        labelled = self.engine.near(labelled, "number")
        names = item_features(self.features)
        fields = {f"candidate_{name}": labelled[name] for name in names}
        fields |= {f"label_{task}": labelled[f"label_{task}"] for task in self.tasks}
        return sorted_lists(
            labelled.group_by("number"),
            tie(labelled, names),
            fields,
            request_time=labelled.event_time.min(),
            num_events=labelled.num_events.sum(),
            **{name: labelled[name].min() for name in context_features(self.features)},
        )

    def _count_corrected(self, events: Table) -> dict[date, dict[str, int]]:
        behind = events.filter(events.corrected, events.day.isin(list(self.days)))
        return counts_by_day(
            self.engine, behind.group_by("day").agg(corrected_times=behind.count())
        )

    def _add(self, found: Mapping[date, Mapping[str, int]]) -> None:
        for day, counts in found.items():
            of_day = self.found.setdefault(day, {})
            for name, count in counts.items():
                of_day[name] = of_day.get(name, 0) + count

    def _shown_again(self, requests: Table, events: Table, later: Table) -> Table:
        """Number and goes_on, which is 1, of requests whose id comes again on the day after."""
        columns = ["user_id", "request_id", "day", "action"]
        every = ibis.union(events.select(columns), later.select(columns))
        every = every.filter(every.action.isin(self.settings.actions))
        every = every.select(next_user="user_id", next_id="request_id", next_day="day")
        day_after = (requests.day + ibis.interval(days=1)).cast("date")
        asked = requests.select("number", "user_id", "given_id", day_after=day_after)
        both = asked.inner_join(
            every,
            [
                asked.user_id == every.next_user,
                asked.given_id == every.next_id,
                asked.day_after == every.next_day,
            ],
        )
        return both.select("number").distinct().mutate(goes_on=ibis.literal(1))
