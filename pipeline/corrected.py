"""Times that cannot be: an answer to a request before the request itself.

    events of other actions + when their requests were shown -> the times they count at

A clock that is behind would put a click before the request that it answers, and so into the
request's own history, and out of its labels.
"""

import ibis
from ibis.expr.types import Table

__all__ = ["NEVER", "corrected_times"]

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
