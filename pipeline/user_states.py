"""Users' states: what the next day must know of every user, and nothing more.

    ROOT/history/day=D/   one row a user: user_id, the last events for histories (history_time,
                          history_F), the events of the open subsequence (open_time, open_action,
                          open_F); by the end of day D

With it, day D + 1 is built from its own events alone.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import ibis
import pyarrow as pa
from ibis.expr.types import Table

from pipeline.encoding import with_part
from pipeline.engine import Engine, read_published
from pipeline.histories import last_spans
from pipeline.partitions import Contents, day_folder, publish
from pipeline.schema import FeatureSettings, item_features

__all__ = [
    "next_states",
    "past_events",
    "past_sequences",
    "publish_states",
    "read_states",
    "states_folder",
]

ROW_GROUP_ROWS = 8192
TIMES = pa.list_(pa.timestamp("us", tz="UTC"))
TIMESTAMPS = "array<timestamp(6)>"


def states_folder(root: Path, day: date) -> Path:
    """ROOT/history/day=D."""
    return day_folder(root, "history", day)


def states_schema(features: Sequence[FeatureSettings]) -> pa.Schema:
    """Columns of a day's states."""
    names = item_features(features)
    rows = pa.list_(pa.int64())
    return pa.schema(
        {
            "user_id": pa.string(),
            "history_time": TIMES,
            **{f"history_{name}": rows for name in names},
            "open_time": TIMES,
            "open_action": pa.list_(pa.string()),
            **{f"open_{name}": rows for name in names},
        }
    )


def read_states(
    engine: Engine, root: Path, features: Sequence[FeatureSettings], day: date, num_parts: int
) -> Table:
    """Published states; times are UTC, no zone; `part` divides users as it does events."""
    states = read_published(engine, states_folder(root, day), states_schema(features))
    times = {name: states[name].cast(TIMESTAMPS) for name in ("history_time", "open_time")}
    return with_part(states.mutate(**times), num_parts)


def past_events(states: Table, names: Sequence[str]) -> Table:
    """History events as `histories` continues them: user_id, lists."""
    return states.select(
        "user_id",
        event_time="history_time",
        **{name: states[f"history_{name}"] for name in names},
    )


def past_sequences(states: Table, names: Sequence[str]) -> Table:
    """Open subsequences as `sequences` continues them: user_id, lists."""
    opened = states.filter(states.open_time.length() > 0)
    return opened.select(
        "user_id",
        event_time="open_time",
        action="open_action",
        **{name: opened[f"open_{name}"] for name in names},
    )


def next_states(spans: Table, opened: Table, names: Sequence[str], size: int) -> Table:
    """States after the last day: from all spans of histories, and the open subsequences."""
    lists = last_spans(spans, ["event_time", *names], size)
    lists = lists.rename(history_time="event_time", **{f"history_{name}": name for name in names})
    opened = opened.select(
        open_user="user_id",
        open_time="event_time",
        open_action="action",
        **{f"open_{name}": opened[name] for name in names},
    )
    both = lists.outer_join(opened, lists.user_id == opened.open_user)
    return both.mutate(user_id=ibis.coalesce(both.user_id, both.open_user)).drop("open_user")


def publish_states(
    engine: Engine,
    root: Path,
    features: Sequence[FeatureSettings],
    states: Table,
    contents: Contents,
    before: Callable[[], object],
) -> None:
    """Publish the states as of the last day; they become visible when `before` has returned."""
    assert contents.day is not None
    schema = states_schema(features)
    filled = {
        name: ibis.coalesce(states[name], ibis.literal([], type=states[name].type()))
        for name in schema.names
        if name != "user_id"
    }
    rows = engine.stream(states.mutate(**filled).order_by("user_id"))
    folder = states_folder(root, contents.day)
    publish(folder, contents, schema, _then(rows, before), ROW_GROUP_ROWS)


def _then(rows: Iterator[pa.RecordBatch], done: Callable[[], object]) -> Iterator[pa.RecordBatch]:
    """The rows; a manifest is written only after the last one, so after `done`."""
    yield from rows
    done()
