"""Labels: what became of each candidate within its attribution window.

    candidates + the users' later actions -> for each task the time of the first one that counts

Every action within the window counts, for every candidate of the item that it follows: a purchase
after two clicks makes both positive. Actions are few and candidates many, so actions look for
their candidates, and only what was found is joined back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import ibis
from ibis.expr.types import BooleanValue, Table

from pipeline.engine import Engine
from pipeline.tasks import TaskSettings, in_order, time_to_label

__all__ = ["KEYS", "Labels", "count_unmatched", "find_labels", "only_final", "with_labels"]

# What names a candidate: the number of its request, and its item.
KEYS = ("number", "raw_item")
INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What was found."""

    times: Table
    """KEYS and time_<task>, the first action that counts; one row a candidate with any"""
    unmatched: Mapping[str, Table]
    """task -> of_day, time of actions that follow no candidate"""


def find_labels(
    engine: Engine,
    requests: Table,
    candidates: Table,
    actions: Table,
    tasks: Mapping[str, TaskSettings],
) -> Labels:
    """Match `actions` (user_id, raw_item, action, event_time, request_id, day) with candidates.

    `candidates` has KEYS and event_time; `requests` number, user_id, given_id (the request_id they
    came with, or null), first_time and last_time of their events.
    """
    times: dict[str, Table] = {}
    unmatched: dict[str, Table] = {}
    for name in in_order(tasks):
        task = tasks[name]
        chosen = actions.filter(actions.action.isin(task.label_actions))
        chosen = chosen.select(
            "user_id", "raw_item", time="event_time", of_request="request_id", of_day="day"
        )
        if task.after:
            pairs = _pairs_after(times[task.after], chosen, task)
        else:
            pairs = _pairs(requests, candidates, chosen, task)
        pairs = engine.computed(f"pairs_{name}", pairs)
        # A request has one user and one id.
        first = pairs.group_by(*KEYS).agg(
            time=pairs.time.min(), user_id=pairs.user_id.min(), given_id=pairs.given_id.min()
        )
        is_base = any(other.after == name for other in tasks.values())
        times[name] = engine.computed(f"times_{name}", first) if is_base else first
        found = pairs.select("user_id", "raw_item", "time").distinct()
        unmatched[name] = chosen.anti_join(found, ["user_id", "raw_item", "time"])
    return Labels(times=_side_by_side(times), unmatched=unmatched)


def _pairs(requests: Table, candidates: Table, actions: Table, task: TaskSettings) -> Table:
    """Candidates with each action that counts for them; by way of the user's requests."""
    window = ibis.interval(seconds=task.seconds)
    asked = actions.inner_join(requests, "user_id")
    near = (asked.time >= asked.first_time) & (asked.time < asked.last_time + window)
    asked = asked.filter(near & _same_request(asked, task))
    both = asked.inner_join(candidates.select(*KEYS, from_time="event_time"), list(KEYS))
    follows = both.time >= both.from_time
    if task.same_request:
        # The id ties them together, so a clock that is behind does no harm.
        follows = follows | (both.of_request == both.given_id)
    in_time = both.time < both.from_time + window
    return both.filter(follows & in_time).select(*KEYS, "user_id", "given_id", "time")


def _pairs_after(base: Table, actions: Table, task: TaskSettings) -> Table:
    """Positives of another task with each action that counts for them."""
    base = base.rename(from_time="time")
    both = base.inner_join(actions, ["user_id", "raw_item"])
    in_time = both.time < both.from_time + ibis.interval(seconds=task.seconds)
    both = both.filter(in_time & (both.time >= both.from_time) & _same_request(both, task))
    return both.select(*KEYS, "user_id", "given_id", "time")


def _same_request(both: Table, task: TaskSettings) -> BooleanValue:
    if not task.same_request:
        return ibis.literal(0) == 0
    no_id = both.of_request.isnull() | both.given_id.isnull()
    return no_id | (both.of_request == both.given_id)


def _side_by_side(times: Mapping[str, Table]) -> Table:
    """KEYS and time_<task>: few rows, so that candidates are joined with them once."""
    null = ibis.null("timestamp(6)")
    tables = [
        found.select(
            *KEYS, **{f"time_{task}": found.time if task == name else null for task in times}
        )
        for name, found in times.items()
    ]
    every = ibis.union(*tables) if len(tables) > 1 else tables[0]
    return every.group_by(*KEYS).agg(**{f"time_{t}": every[f"time_{t}"].min() for t in times})


def with_labels(candidates: Table, labels: Labels, tasks: Mapping[str, TaskSettings]) -> Table:
    """`candidates` with label_<task>: 1, 0, or null where the task does not apply."""
    found = [f"time_{name}" for name in tasks]
    joined = candidates.left_join(labels.times, list(KEYS)).select(candidates, *found)
    made: dict[str, ibis.Value] = {}
    for name, task in tasks.items():
        label = joined[f"time_{name}"].notnull().cast(INT8)
        if task.after:
            label = ibis.ifelse(joined[f"time_{task.after}"].notnull(), label, ibis.null(INT8))
        made[f"label_{name}"] = label
    return joined.mutate(**made).drop(*found)


def only_final(
    requests: Table, tasks: Mapping[str, TaskSettings], final: Mapping[str, Sequence[date]]
) -> Table:
    """`requests` with null labels on days that are not final for the task."""
    made: dict[str, ibis.Value] = {}
    for name in tasks:
        labels = requests[f"label_{name}"]
        is_final = requests.day.isin(list(final[name])) if final[name] else ibis.literal(0) == 1
        unknown = labels.map(lambda _: ibis.null(INT8))
        made[f"label_{name}"] = ibis.ifelse(is_final, labels, unknown)
    return requests.mutate(**made)


def count_unmatched(
    engine: Engine, labels: Labels, tasks: Mapping[str, TaskSettings], days: Sequence[date]
) -> dict[date, dict[str, int]]:
    """Day -> task_without_candidate: actions of the day that follow no candidate of the same day.

    Those that may follow one of the day before, as its windows are still open, are not counted.
    """
    counts: dict[date, dict[str, int]] = {day: {} for day in days}
    for name in tasks:
        rows = labels.unmatched[name]
        midnight = rows.of_day.cast("timestamp(6)")
        open_for = time_to_label(tasks, name) // timedelta(seconds=1)
        late = rows.time >= midnight + ibis.interval(seconds=open_for)
        rows = rows.filter(rows.of_day.isin(list(days)), late)
        for row in engine.rows_of(rows.group_by("of_day").agg(n=rows.count())):
            counts[row["of_day"]][f"{name}_without_candidate"] = row["n"]
    return counts
