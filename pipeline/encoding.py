"""Events with table rows for raw values: where vocabularies meet cleaned events.

    events/ + vocabularies -> encoded events -> `sequences`, `requests`, catalogue, user states

A value has its row from the day on by whose end the vocabulary has it. What ranks a request may
know only what was known before its day: `known_by` gives the rows that existed then, and any row
from there on counts as unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import ibis
import pyarrow as pa
from ibis.expr.types import ArrayValue, IntegerValue, Table

from pipeline.engine import Engine
from pipeline.schema import UNKNOWN_ROW, FeatureSettings

__all__ = [
    "Known",
    "day_table",
    "encoded_events",
    "known_list",
    "known_row",
    "with_part",
    "with_rows",
]


def with_rows(
    features: Sequence[FeatureSettings], values: Mapping[str, Table], table: Table
) -> Table:
    """Replace each feature's raw value by its row; null and unseen values get row 0.

    `values` has value and row for each feature, and `day` where rows hold from a day on only:
    then they are compared with the table's own `day`.
    """
    for feature in features:
        known = values[feature.name]
        since = {"since": known.day} if "day" in known.columns else {}
        known = known.select(raw="value", found="row", **since)
        # The row of null is 0, and no raw value is equal to null.
        table = table.left_join(known, table[feature.name] == known.raw)
        found = table.found
        if since:
            found = ibis.ifelse(table.since <= table.day, found, UNKNOWN_ROW)
        table = table.mutate(found=found.fill_null(UNKNOWN_ROW)).drop("raw", *since)
        table = table.drop(feature.name).rename({feature.name: "found"})
    return table


def encoded_events(
    engine: Engine,
    features: Sequence[FeatureSettings],
    values: Mapping[str, Table],
    events: Table,
) -> Table:
    """Events with rows, evaluated once: the contract's columns, day, part, raw_item."""
    encoded = with_rows(features, values, events.mutate(raw_item=events.item_id))
    return engine.computed("encoded", encoded)


def with_part(users: Table, num_parts: int) -> Table:
    """`users` (anything with user_id) and `part`: users divided by hash, 0 to num_parts - 1."""
    part = users.user_id.hash().abs() % num_parts if num_parts > 1 else ibis.literal(0)
    return users.mutate(part=part.cast("int32"))


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was known when a day began."""

    as_of: date
    """the day by whose end it was known"""
    num_rows: Mapping[str, int]
    """feature -> rows of its table"""
    digests: Mapping[str, str]
    """feature -> digest of its vocabulary"""


def day_table(
    engine: Engine, features: Sequence[FeatureSettings], known: Mapping[date, Known]
) -> Table:
    """One row a day: day, as_of, and for each feature F known_F, its rows when the day began."""
    columns: dict[str, pa.Array] = {
        "day": pa.array(list(known), pa.date32()),
        "as_of": pa.array([of_day.as_of for of_day in known.values()], pa.date32()),
    }
    for feature in features:
        rows = [of_day.num_rows[feature.name] for of_day in known.values()]
        columns[f"known_{feature.name}"] = pa.array(rows, pa.int64())
    return engine.in_memory(pa.table(columns))


def known_row(row: IntegerValue, num_known: IntegerValue) -> IntegerValue:
    """The row, or 0 where it did not exist yet."""
    return ibis.ifelse(row < num_known, row, UNKNOWN_ROW)


def known_list(rows: ArrayValue, num_known: IntegerValue) -> ArrayValue:
    """The rows, 0 for each that did not exist yet; most lists have none of those."""
    replaced = rows.map(lambda row: known_row(row, num_known))
    return ibis.ifelse(rows.maxs() < num_known, rows, replaced)
