"""Requests of what was shown: events of the requests' actions are the candidates.

For logs with impressions (candidates are impressions), and for logs of clicks whose conversions are
learned (candidates are clicks). Events form one request by (day, user_id, request_id), or by time
where request_id is unknown; an item shown twice in a request is one candidate.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import ibis
from ibis.expr.types import IntegerValue, Table

from pipeline.corrected import NEVER, PartEvents, corrected_times
from pipeline.engine import Engine
from pipeline.held_candidates import HeldCandidates
from pipeline.histories import tie
from pipeline.labels import KEYS, count_unmatched, find_labels, only_final, with_labels
from pipeline.later import ACTION, LaterEvents
from pipeline.requests import (
    RequestSettings,
    counts_by_day,
    num_candidates,
    own_request_id,
    request_key,
)
from pipeline.schema import FeatureSettings, context_features, item_features
from pipeline.tasks import TaskSettings

__all__ = ["ShownRequests"]

REQUEST = ("day", "user_id", "own_id")


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
    later: LaterEvents
    later_actions: Table
    """those of `later` that can be a label, with `part`"""
    found: list[Mapping[date, Mapping[str, int]]] = field(default_factory=list)
    """day -> counts of its events, of each part so far"""

    def corrected(self, engine: Engine, events: Table) -> PartEvents:
        """The part's `events` with the times they count at, and `corrected`.

        Evaluates the part's requests on the way: table `asked`, one row each, of all days.
        """
        is_shown = events.action.isin(self.settings.actions)
        asked = self._asked(events.filter(is_shown))
        asked = engine.computed("asked", engine.numbered(asked, "number"))
        starts = asked.filter(asked.given_id.notnull())
        starts = starts.select("day", "user_id", request_id="given_id", request_time="first_time")
        others = engine.computed("corrected", corrected_times(events.filter(~is_shown), starts))
        shown = events.filter(is_shown).mutate(corrected=NEVER)
        return PartEvents(others=others, shown=shown, shown_actions=self.settings.actions)

    def heads(
        self, engine: Engine, events: PartEvents, part: IntegerValue, held: HeldCandidates | None
    ) -> Table:
        """Every request with its candidates and labels, in lists or `held`."""
        shown = events.of(self.settings.actions)
        shown = shown.filter(shown.day.isin(list(self.days)))
        asked = engine.table("asked")
        requests = asked.filter(asked.day.isin(list(self.days)))
        candidates = self._candidates(engine, shown, requests)
        later = self.later_actions.filter(self.later_actions.part == part)
        names = {action for task in self.tasks.values() for action in task.label_actions}
        later = later.filter(later.action.isin(names))
        actions = ibis.union(events.of(names).select(*ACTION), later.select(*ACTION))
        actions = engine.computed("actions", actions)
        labels = find_labels(engine, requests, candidates, actions, self.tasks)
        self.found.append(count_unmatched(engine, labels, self.tasks, self.days))
        self.found.append(self._count_corrected(engine, events.others))
        lists = self._lists(engine, with_labels(candidates, labels, self.tasks), held)
        named = requests.mutate(request_id=requests.own_id, request_time=requests.first_time)
        named = named.mutate(request_key=request_key(named, self.settings.seed))
        heads = named.inner_join(lists, "number").left_join(_shown_again(requests, asked), "number")
        heads = heads.mutate(goes_on=heads.goes_on.fill_null(0)).drop("number_right", "number")
        return heads if held else only_final(heads, self.tasks, self.final)

    def made(
        self,
        engine: Engine,  # noqa: ARG002 (as other requests)
        heads: Table,
        held: HeldCandidates | None,  # noqa: ARG002 (same)
    ) -> Table:
        """Every request that has enough of a history."""
        return heads.filter(heads.long_enough)

    def to_count(self, heads: Table) -> Table:
        """What `counts` needs of the heads."""
        columns = ["day", "user_id", "request_id", "given_id", "long_enough", "num_events"]
        return heads.select(*columns, "goes_on", num_candidates=num_candidates(heads))

    def counts(self, heads: Table) -> dict[date, dict[str, int]]:
        """Day -> what was left out of its requests, or was odd; `heads` are all users'."""
        cut = ibis.greatest(heads.num_candidates - self.settings.max_candidates, 0)
        ids = heads.group_by("day", "request_id").agg(users=heads.count())
        several = ids.group_by("day").agg(several=ids.users.sum(where=ids.users > 1))
        heads = heads.inner_join(several, "day")
        sums = heads.group_by("day").agg(
            with_short_history=(~heads.long_enough).sum(),
            cut_candidates=cut.sum(),
            repeated_candidates=(heads.num_events - heads.num_candidates).sum(),
            request_ids_of_several_users=heads.several.max(),
            request_ids_over_midnight=heads.goes_on.sum(),
        )
        counts = [counts_by_day(self.engine, sums), self.later.count_going_on(heads), *self.found]
        return _added_up(self.days, counts)

    def _asked(self, shown: Table) -> Table:
        """The requests. They get numbers, by which candidates are found sooner than by texts."""
        shown = shown.mutate(own_id=own_request_id(shown))
        return shown.group_by(*REQUEST).agg(
            given_id=shown.request_id.min(),
            first_time=shown.event_time.min(),
            last_time=shown.event_time.max(),
            num_events=shown.count(),
            **{name: shown[name].min() for name in context_features(self.features)},
        )

    def _candidates(self, engine: Engine, shown: Table, requests: Table) -> Table:
        """`labels.KEYS`, event_time and the item's features.

        An item that was shown more than once is as its first event said; where data are odd enough
        to say different things at once, the result must not depend on the order they are met in.
        """
        shown = shown.mutate(own_id=own_request_id(shown))
        shown = shown.inner_join(requests.select(*REQUEST, "number"), REQUEST)
        columns = [*KEYS, "event_time", *item_features(self.features)]
        return engine.merged("candidates", shown.select(*columns), KEYS)

    def _lists(self, engine: Engine, labelled: Table, held: HeldCandidates | None) -> Table:
        """One row a request: number, and its candidates in lists, or where they are held."""
        names = item_features(self.features)
        labelled = labelled.mutate(tie=tie(labelled, names))
        labelled = labelled.rename({f"candidate_{name}": name for name in names})
        lists = [*(f"candidate_{name}" for name in names), *(f"label_{t}" for t in self.tasks)]
        return engine.sorted_lists(
            "candidate_lists", labelled, ["number"], ["tie", "raw_item"], lists, held
        )

    def _count_corrected(self, engine: Engine, events: Table) -> dict[date, dict[str, int]]:
        behind = events.filter(events.corrected, events.day.isin(list(self.days)))
        return counts_by_day(engine, behind.group_by("day").agg(corrected_times=behind.count()))


def _shown_again(requests: Table, asked: Table) -> Table:
    """Number and goes_on, which is 1, of requests whose id comes again on the day after."""
    day_after = (requests.day + ibis.interval(days=1)).cast("date")
    requests = requests.mutate(day_after=day_after)
    again = asked.select("user_id", "given_id", day_after="day")
    both = requests.semi_join(again, ["user_id", "given_id", "day_after"])
    return both.select("number", goes_on=ibis.literal(1))


def _added_up(
    days: Sequence[date], counts: Sequence[Mapping[date, Mapping[str, int]]]
) -> dict[date, dict[str, int]]:
    total: dict[date, Counter[str]] = {day: Counter() for day in days}
    for of_days in counts:
        for day in days:
            total[day].update(of_days.get(day, {}))
    return {day: dict(count) for day, count in total.items()}
