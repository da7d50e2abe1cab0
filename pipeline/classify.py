"""Which rows of a day's files are events, and why the others are not: one Ibis expression.

    source files -> typed columns + reason (null for an event) -> `events` counts and publishes

Files whose columns are missing or of an unreadable type are not read at all (`file_problem`). The
order of the reasons is in `source.BUILT_IN_REASONS`: a row has the first one that applies.
"""

import json
from collections.abc import Sequence
from functools import reduce
from operator import or_

import duckdb
import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import BooleanValue, Table

from pipeline.casting import Kind, is_readable, time_value, typed_value
from pipeline.engine import with_condition
from pipeline.errors import ConfigError
from pipeline.schema import FeatureSettings
from pipeline.source import SourceSettings
from pipeline.source_files import Footer

__all__ = ["classified_events", "event_columns", "events_schema", "file_problem"]

FILE = "source_file"
PREDICATE = "set_aside_as_"


def event_columns(features: Sequence[FeatureSettings]) -> dict[str, Kind]:
    """Columns of cleaned events: name -> kind."""
    columns: dict[str, Kind] = {
        "user_id": "string",
        "item_id": "string",
        "event_time": "time",
        "action": "string",
        "request_id": "string",
    }
    for feature in features:
        columns[feature.name] = feature.dtype
    return columns


def events_schema(features: Sequence[FeatureSettings]) -> pa.Schema:
    """Cleaned events as they are stored."""
    types = {"string": pa.string(), "int64": pa.int64(), "time": pa.timestamp("us", tz="UTC")}
    required = ("user_id", "item_id", "event_time", "action")
    return pa.schema(
        [
            pa.field(name, types[kind], nullable=name not in required)
            for name, kind in event_columns(features).items()
        ]
    )


def file_problem(
    footer: Footer, source: SourceSettings, features: Sequence[FeatureSettings]
) -> tuple[str, str] | None:
    """(reason, sentence) if no row of the file can be read as an event, else None."""
    for name, kind in event_columns(features).items():
        theirs = source.column(name)
        if theirs not in footer.schema.names:
            if not _is_optional(name, source):
                found = ", ".join(footer.schema.names)
                return "missing_column", f"no column {theirs!r}; the file has {found}"
        elif name != "action" or source.action is None:
            dtype = footer.schema.field(theirs).type
            if not is_readable(dtype, kind):
                return "wrong_type", f"column {theirs!r} is {dtype}, no {kind}"
    return None


def _is_optional(name: str, source: SourceSettings) -> bool:
    """Columns that a file may lack: a constant action; a request_id nobody said to be there."""
    if name == "action":
        return source.action is not None
    return name == "request_id" and name not in source.columns


def classified_events(
    connection: Backend,
    footers: Sequence[Footer],
    source: SourceSettings,
    features: Sequence[FeatureSettings],
) -> Table:
    """All rows of readable files: event columns, day, file (label) and reason.

    Raises:
        ConfigError: a predicate of `source.set_aside` is no condition on the files' columns.
    """
    alike: dict[str, list[Footer]] = {}
    for footer in footers:
        alike.setdefault(str(footer.schema), []).append(footer)
    parts = [_typed_rows(connection, group, source, features) for group in alike.values()]
    return _mark_duplicates(ibis.union(*parts) if len(parts) > 1 else parts[0], features)


def _typed_rows(
    connection: Backend,
    footers: Sequence[Footer],
    source: SourceSettings,
    features: Sequence[FeatureSettings],
) -> Table:
    """Rows of files that share one schema; reason is null or one that needs no other row."""
    raw = connection.read_parquet(
        [str(footer.path) for footer in footers], filename=FILE, hive_partitioning=False
    )
    raw = _with_predicates(connection, raw, source, footers[0])
    values: dict[str, ibis.Value] = {}
    wrong: list[BooleanValue] = []
    time_is_wrong: BooleanValue = ibis.literal(False)
    for name, kind in event_columns(features).items():
        theirs = source.column(name)
        if name == "action" and source.action is not None:
            values[name] = ibis.literal(source.action)
        elif theirs not in raw.columns:
            values[name] = ibis.null("string")
        elif kind == "time":
            values[name], time_is_wrong = time_value(raw[theirs], source.time_unit)
        else:
            values[name], bad = typed_value(raw[theirs], kind)
            wrong.append(bad)
    flags = {PREDICATE + reason: raw[PREDICATE + reason] for reason in source.set_aside}
    label = raw[FILE].re_extract(r"(day=[0-9-]{10}/[^/]+)$", 1)
    rows = raw.select(
        **values, **flags, file=label, wrong=reduce(or_, wrong), time_is_wrong=time_is_wrong
    )
    rows = rows.mutate(day=rows.file.substr(4, 10).cast("date"))
    return rows.mutate(reason=_reason(rows, source)).select(
        *event_columns(features), "day", "file", "reason"
    )


def _with_predicates(
    connection: Backend, raw: Table, source: SourceSettings, example: Footer
) -> Table:
    """Add a boolean column for each of the user's own predicates over their raw columns."""
    for reason, predicate in source.set_aside.items():
        try:
            raw = with_condition(connection, raw, PREDICATE + reason, predicate)
        except duckdb.Error as error:
            line = str(error).splitlines()[0]
            raise ConfigError(
                f"source.set_aside.{reason}: {json.dumps(predicate)} is no condition on the "
                f"columns of {example.path}: {line}"
            ) from None
    return raw


def _reason(rows: Table, source: SourceSettings) -> ibis.expr.types.StringValue:
    midnight = rows.day.cast("timestamp(6)")
    asked_for = [(rows[PREDICATE + reason], reason) for reason in source.set_aside]
    return ibis.cases(
        *asked_for,
        (rows.wrong, "wrong_type"),
        (rows.user_id.isnull(), "null_user_id"),
        (rows.item_id.isnull(), "null_item_id"),
        (rows.action.isnull(), "null_action"),
        (rows.time_is_wrong, "unparsable_time"),
        (rows.event_time.isnull(), "null_event_time"),
        (rows.event_time >= midnight + ibis.interval(days=1), "future_time"),
        (rows.event_time < midnight, "late_time"),
        else_=ibis.null("string"),
    )


def _mark_duplicates(rows: Table, features: Sequence[FeatureSettings]) -> Table:
    """Keep one of several events with equal user, item, time, action and request on a day.

    Which one is settled by the features' values and the file, never by chance.
    """
    same = ["day", "user_id", "item_id", "event_time", "action", "request_id", "reason"]
    others = [name for name in event_columns(features) if name not in same]
    copies = ibis.window(group_by=same, order_by=[*others, "file"])
    rows = rows.mutate(copy=ibis.row_number().over(copies))
    is_copy = rows.reason.isnull() & (rows.copy > 0)
    return rows.mutate(reason=ibis.ifelse(is_copy, "duplicate", rows.reason)).drop("copy")
