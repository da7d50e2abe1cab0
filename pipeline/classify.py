"""Which rows of a day's files are events, and why the others are not: one Ibis expression.

    source files -> typed columns + reason (null for an event) -> `events` evaluates them
                 -> the copies of an event marked -> `events` counts and publishes

Files whose columns are missing or of an unreadable type are not read at all (`file_problem`). The
order of the reasons is in `source.BUILT_IN_REASONS`: a row has the first one that applies.
"""

import json
from collections.abc import Sequence
from functools import reduce
from operator import or_

import ibis
import pyarrow as pa
from ibis.expr.types import BooleanValue, Table

from pipeline.casting import Kind, is_readable, time_value, typed_value
from pipeline.engine import Engine
from pipeline.errors import ConfigError
from pipeline.schema import FeatureSettings
from pipeline.source import SourceSettings
from pipeline.source_files import Footer

__all__ = [
    "classified_events",
    "event_columns",
    "events_schema",
    "file_problem",
    "with_duplicates_marked",
]

FILE = "source_file"
PREDICATE = "set_aside_as_"
# Of an event; a second one of the day with the same is a duplicate.
IDENTITY = ("user_id", "item_id", "event_time", "action", "request_id")


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
    engine: Engine,
    footers: Sequence[Footer],
    source: SourceSettings,
    features: Sequence[FeatureSettings],
) -> Table:
    """All rows of readable files: event columns, day, file (label) and reason.

    The reasons that need no other row; `with_duplicates_marked` adds the one that does.

    Raises:
        ConfigError: a predicate of `source.set_aside` is no condition on the files' columns.
    """
    alike: dict[str, list[Footer]] = {}
    for footer in footers:
        alike.setdefault(str(footer.schema), []).append(footer)
    parts = [_typed_rows(engine, group, source, features) for group in alike.values()]
    return ibis.union(*parts) if len(parts) > 1 else parts[0]


def _typed_rows(
    engine: Engine,
    footers: Sequence[Footer],
    source: SourceSettings,
    features: Sequence[FeatureSettings],
) -> Table:
    """Rows of files that share one schema; reason is null or one that needs no other row."""
    raw = engine.read_parquet([footer.path for footer in footers], filename=FILE)
    raw = _with_predicates(engine, raw, source, footers[0])
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


def _with_predicates(engine: Engine, raw: Table, source: SourceSettings, example: Footer) -> Table:
    """Add a boolean column for each of the user's own predicates over their raw columns."""
    for reason, predicate in source.set_aside.items():
        try:
            raw = engine.with_condition(raw, PREDICATE + reason, predicate)
        except engine.sql_errors as error:
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


def with_duplicates_marked(
    engine: Engine, rows: Table, features: Sequence[FeatureSettings]
) -> Table:
    """Keep one of several events with equal user, item, time, action and request on a day.

    `rows` are those of `classified_events`, evaluated. Duplicates are rare, and to compare all
    columns of all rows with each other is what costs: rows are told apart by a hash first, and
    only those that share one are compared. Different rows that share a hash are kept.
    """
    good = rows.filter(rows.reason.isnull())
    shared = good.select(_hash=_identity_hash(good)).group_by("_hash").agg(rows=ibis._.count())
    shared = engine.computed("shared_hashes", shared.filter(shared.rows > 1).select("_hash"))
    (found,) = engine.rows_of(shared.agg(hashes=shared.count()))
    if not found["hashes"]:
        return rows
    # Null for the rows that are set aside already, which therefore match nothing.
    good_hash = ibis.ifelse(rows.reason.isnull(), _identity_hash(rows), ibis.null("int64"))
    hashed = rows.mutate(_hash=good_hash)
    compared = _mark_duplicates(hashed.semi_join(shared, "_hash").drop("_hash"), features)
    others = hashed.anti_join(shared, "_hash").drop("_hash")
    return engine.computed("classified", ibis.union(others, compared))


def _identity_hash(rows: Table) -> ibis.expr.types.IntegerValue:
    """The engine's own hash: equal for equal events, nulls included, and mostly for no others."""
    return ibis.struct({name: rows[name] for name in IDENTITY}).hash().cast("int64")


def _mark_duplicates(rows: Table, features: Sequence[FeatureSettings]) -> Table:
    """Which copy is kept is settled by the features' values and the file, never by chance."""
    same = ["day", *IDENTITY]
    others = [name for name in event_columns(features) if name not in same]
    copies = ibis.window(group_by=same, order_by=[*others, "file"])
    reason = ibis.ifelse(ibis.row_number().over(copies) > 0, "duplicate", rows.reason)
    return rows.mutate(reason=reason)
