"""Events after the days that are built: what became of the last day's requests.

    events of the days that labels look ahead to -> those that can be a label
                                                 -> requests whose id goes on after midnight

Nearly all of these events are neither, so nothing is done to all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import ibis
from ibis.expr.types import BooleanValue, Table

from pipeline.corrected import REQUEST, corrected_times
from pipeline.encoding import with_part
from pipeline.engine import Engine
from pipeline.requests import counts_by_day
from pipeline.tasks import TaskSettings, time_to_label

__all__ = ["ACTION", "LaterEvents"]

# What matching actions with candidates needs of an event.
ACTION = ("user_id", "raw_item", "action", "event_time", "request_id", "day")


@dataclass(frozen=True, kw_only=True)
class LaterEvents:
    """Cleaned events of the days after `last_day`, as far as labels look."""

    engine: Engine
    events: Table
    """the columns ACTION"""
    last_day: date
    shown_actions: Sequence[str]
    tasks: Mapping[str, TaskSettings]

    @property
    def shown(self) -> Table:
        """Those that make requests."""
        return self.events.filter(self.events.action.isin(self.shown_actions))

    def actions(self, num_parts: int) -> Table:
        """Those that can be a label, at the times they count at, evaluated; with `part`."""
        events = self.engine.computed("later_chosen", self.events.filter(self._can_label()))
        is_shown = events.action.isin(self.shown_actions)
        others = events.filter(~is_shown)
        starts = self.shown.semi_join(others, REQUEST)
        starts = starts.group_by(*REQUEST).agg(request_time=starts.event_time.min())
        others = corrected_times(others, starts).select(*ACTION)
        every = ibis.union(events.filter(is_shown).select(*ACTION), others)
        return self.engine.computed("later_actions", with_part(every, num_parts))

    def count_going_on(self, heads: Table) -> dict[date, dict[str, int]]:
        """Day -> request_ids_over_midnight: heads of the last day whose id comes again."""
        next_end = _midnight_after(self.last_day + timedelta(days=1))
        shown = self.shown.filter(self.events.event_time < next_end)
        heads = heads.filter(heads.day == self.last_day)
        again = shown.select("user_id", given_id="request_id")
        # Next to none of them; one text is compared in half the time of two.
        again = again.semi_join(heads, "given_id")
        heads = heads.semi_join(again, ["user_id", "given_id"])
        sums = heads.group_by("day").agg(request_ids_over_midnight=heads.count())
        return counts_by_day(self.engine, sums)

    def _can_label(self) -> BooleanValue:
        """Whether an event is in time for a candidate of the last day; corrected, it is later."""
        can_label = ibis.literal(0) == 1
        end = _midnight_after(self.last_day)
        for name, task in self.tasks.items():
            in_time = self.events.event_time < end + time_to_label(self.tasks, name)
            can_label = can_label | (self.events.action.isin(task.label_actions) & in_time)
        return can_label


def _midnight_after(day: date) -> datetime:
    return datetime.combine(day, time()) + timedelta(days=1)
