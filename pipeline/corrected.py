"""Times that cannot be: an answer to a request before the request itself.

    events of other actions + when their requests were shown -> the times they count at

A clock that is behind would put a click before the request that it answers, and so into the
request's own history, and out of its labels.
"""

from collections.abc import Collection
from dataclasses import dataclass

import ibis
from ibis.expr.types import Table

__all__ = ["NEVER", "PartEvents", "corrected_times"]

NEVER = ibis.literal(0).cast("boolean")
REQUEST = ("day", "user_id", "request_id")


def corrected_times(events: Table, starts: Table) -> Table:
    """`events`, none earlier than the request it carries the id of; adds `corrected`.

    `starts` has one row a request: day, user_id, request_id and request_time.
    """
    joined = events.left_join(starts.select(*REQUEST, "request_time"), REQUEST)
    joined = joined.select(events, "request_time")
    behind = ibis.coalesce(joined.event_time < joined.request_time, NEVER)
    event_time = ibis.ifelse(behind, joined.request_time, joined.event_time)
    return joined.mutate(corrected=behind, event_time=event_time).drop("request_time")


@dataclass(frozen=True, kw_only=True)
class PartEvents:
    """The events of some users, at the times they count at."""

    others: Table
    shown: Table | None = None
    """what was shown, apart from the others, as it is most of all events"""
    shown_actions: Collection[str] = ()

    def of(self, actions: Collection[str]) -> Table:
        """Those of these actions; reads nothing that has none of them."""
        tables = [self.others] if {*actions} - {*self.shown_actions} else []
        if self.shown is not None and {*actions} & {*self.shown_actions}:
            tables.append(self.shown)
        every = ibis.union(*tables) if len(tables) > 1 else tables[0]
        return every.filter(every.action.isin(list(actions)))
