"""Checks of ready-made sequences and requests: columns by file, then every row by Ibis expression.

    SOURCE/sequences/day=D, SOURCE/requests/day=D -> contract columns + day, file, reason

A column that is missing or of another type is the writer's mistake in all rows: SchemaError. A row
that breaks the contract is set aside under the first of its reasons, in the order written here.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_
from typing import Literal

import ibis
import pyarrow as pa
from ibis.expr.types import ArrayValue, BooleanValue, StringValue, Table, TimestampValue

from pipeline.engine import Engine
from pipeline.errors import SchemaError
from pipeline.schema import FeatureSettings, context_features, item_features
from pipeline.source_files import Footer

__all__ = [
    "ExampleKind",
    "check_types",
    "checked_requests",
    "checked_sequences",
    "example_columns",
    "read_examples",
]

ExampleKind = Literal["sequences", "requests"]
# What ids are: the user's own, or rows of embedding tables.
IdKind = Literal["raw", "rows"]

TIME = "timestamp(6)"
FILE = "source_file"
# A label is judged as it is: cast to a whole number, 0.4 would be a 0.
IBIS_TYPES = {
    "text": "string",
    "string": "string",
    "int64": "int64",
    "time": TIME,
    "label": "float64",
}


def example_columns(
    kind: ExampleKind, features: Sequence[FeatureSettings], tasks: Sequence[str], ids: IdKind
) -> dict[str, str]:
    """Columns that files of ready-made examples must have: name -> what is in it."""
    raw: dict[str, str] = {f.name: "int64" if ids == "rows" else f.dtype for f in features}
    lists = {name: f"list of {raw[name]}" for name in item_features(features)}
    if kind == "sequences":
        return {"user_id": "text", "event_time": "list of time", "action": "list of text"} | lists
    return {
        "request_id": "text",
        "user_id": "text",
        "request_time": "time",
        "history_time": "list of time",
        **{f"history_{name}": wanted for name, wanted in lists.items()},
        **{f"candidate_{name}": wanted for name, wanted in lists.items()},
        **{f"label_{task}": "list of label" for task in tasks},
        **{name: raw[name] for name in context_features(features)},
    }


def check_types(footer: Footer, columns: dict[str, str]) -> None:
    """Raise SchemaError, naming file and column, unless the file has these columns.

    `columns` maps a name to "text", "string", "int64", "time", "label", or "list of" one.
    """
    for name, wanted in columns.items():
        if name not in footer.schema.names:
            raise SchemaError(f"{footer.path}: no column {name!r}, which should be {wanted}")
        dtype = footer.schema.field(name).type
        if not _fits(dtype, wanted):
            raise SchemaError(f"{footer.path}: column {name!r} is {dtype}, should be {wanted}")


def _fits(dtype: pa.DataType, wanted: str) -> bool:
    if wanted.startswith("list of "):
        is_list = pa.types.is_list(dtype) or pa.types.is_large_list(dtype)
        return is_list and _fits(dtype.value_type, wanted.removeprefix("list of "))
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    text = pa.types.is_string(dtype) or pa.types.is_large_string(dtype)
    whole = pa.types.is_integer(dtype)
    fits = {
        "text": text or whole,
        "string": text,
        "int64": whole,
        "time": pa.types.is_timestamp(dtype),
        "label": whole or pa.types.is_floating(dtype),
    }
    return fits[wanted]


def read_examples(engine: Engine, footers: Sequence[Footer], columns: dict[str, str]) -> Table:
    """The files' rows in the contract's types (times without zone), and their day and file."""
    alike: dict[str, list[Footer]] = {}
    for footer in footers:
        alike.setdefault(str(footer.schema), []).append(footer)
    parts: list[Table] = []
    for group in alike.values():
        raw = engine.read_parquet([footer.path for footer in group], filename=FILE)
        typed = {name: raw[name].cast(_ibis_type(wanted)) for name, wanted in columns.items()}
        parts.append(raw.select(**typed, file=raw[FILE].re_extract(r"(day=[0-9-]{10}/[^/]+)$", 1)))
    rows = ibis.union(*parts) if len(parts) > 1 else parts[0]
    return rows.mutate(day=rows.file.substr(4, 10).cast("date"))


def _ibis_type(wanted: str) -> str:
    if wanted.startswith("list of "):
        return f"array<{_ibis_type(wanted.removeprefix('list of '))}>"
    return IBIS_TYPES[wanted]


def checked_sequences(rows: Table, features: Sequence[FeatureSettings], ids: IdKind) -> Table:
    """`rows` with their reason, null for a good sequence."""
    names = item_features(features)
    reason = ibis.cases(
        (_absent(rows.user_id), "null_user_id"),
        (_lengths_differ(rows, ["event_time", "action", *names]), "unequal_lengths"),
        (rows.event_time.length() == 0, "empty"),
        (_any_null(rows, names if ids == "rows" else ["item_id"]), "null_id"),
        (_any_null(rows, ["event_time", "action"]), "null_event"),
        (rows.event_time != rows.event_time.sort(), "time_not_ascending"),
        (_any_from(rows.event_time, _midnight_after(rows)), "future_time"),
        (_any_out_of_range(rows, features, ids, [""]), "row_out_of_range"),
        else_=ibis.null("string"),
    )
    return rows.mutate(reason=reason)


def checked_requests(
    rows: Table, features: Sequence[FeatureSettings], tasks: Sequence[str], ids: IdKind
) -> Table:
    """`rows` with their reason, null for a good request."""
    names, labels = item_features(features), [f"label_{task}" for task in tasks]
    history = [f"history_{name}" for name in names]
    candidates = [f"candidate_{name}" for name in names]
    required = history + candidates if ids == "rows" else ["history_item_id", "candidate_item_id"]
    no_label = _either(
        rows[name].filter(lambda value: value.notnull() & (value != 0) & (value != 1)).length() > 0
        for name in labels
    )
    reason = ibis.cases(
        (_absent(rows.request_id), "null_request_id"),
        (_absent(rows.user_id), "null_user_id"),
        (rows.request_time.isnull(), "null_request_time"),
        (_lengths_differ(rows, ["history_time", *history]), "unequal_lengths"),
        (_lengths_differ(rows, [*labels, *candidates]), "unequal_lengths"),
        (rows[labels[0]].length() == 0, "empty"),
        (_any_null(rows, required), "null_id"),
        (_no_context(rows, features, ids), "null_id"),
        (_any_null(rows, ["history_time"]), "null_event"),
        (rows.history_time != rows.history_time.sort(), "time_not_ascending"),
        (_any_from(rows.history_time, rows.request_time), "history_not_before_request"),
        (no_label, "label_not_0_or_1"),
        (rows.request_time >= _midnight_after(rows), "future_time"),
        (rows.request_time < rows.day.cast(TIME), "late_time"),
        (
            _any_out_of_range(rows, features, ids, ["history_", "candidate_"]),
            "row_out_of_range",
        ),
        else_=ibis.null("string"),
    )
    return rows.mutate(reason=reason)


def _absent(text: StringValue) -> BooleanValue:
    return text.isnull() | (text == "")


def _midnight_after(rows: Table) -> TimestampValue:
    return rows.day.cast(TIME) + ibis.interval(days=1)


def _lengths_differ(rows: Table, names: Sequence[str]) -> BooleanValue:
    """Whether a list is absent, or of another length than the first one."""
    absent = _either(rows[name].isnull() for name in names)
    first = rows[names[0]].length()
    return absent | _either(rows[name].length() != first for name in names[1:])


def _any_null(rows: Table, names: Sequence[str]) -> BooleanValue:
    return _either(rows[name].filter(lambda value: value.isnull()).length() > 0 for name in names)


def _any_from(times: ArrayValue, end: TimestampValue) -> BooleanValue:
    """Whether a time is at or after `end`."""
    return times.filter(lambda time: time >= end).length() > 0


def _no_context(rows: Table, features: Sequence[FeatureSettings], ids: IdKind) -> BooleanValue:
    """Whether a context row is absent; as a raw value it may be, that is row 0."""
    return _either(rows[name].isnull() for name in context_features(features) if ids == "rows")


def _any_out_of_range(
    rows: Table, features: Sequence[FeatureSettings], ids: IdKind, prefixes: Sequence[str]
) -> BooleanValue:
    """Whether a row id lies outside its table, 0 to num_rows - 1."""
    if ids == "raw":
        return ibis.literal(False)
    bad: list[BooleanValue] = []
    for feature in features:
        last = (feature.num_rows or 1) - 1
        if feature.role == "item":
            for prefix in prefixes:
                outside = rows[prefix + feature.name].filter(
                    lambda row, last=last: (row < 0) | (row > last)
                )
                bad.append(outside.length() > 0)
        elif feature.name in rows.columns:
            bad.append(~rows[feature.name].between(0, last))
    return _either(bad)


def _either(conditions: Iterable[BooleanValue]) -> BooleanValue:
    return reduce(or_, conditions, ibis.literal(False))
