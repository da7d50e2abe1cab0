"""How a day differs from an earlier one: in rows, in the mix of its values, in its files' columns.

Two profiles, two lists of file schemas -> Comparison -> `data_checks`. Pure functions.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import islice

from pydantic import Field

from pipeline.data_profile import DayProfile, ValueCounts
from pipeline.settings import Settings

__all__ = [
    "ColumnChanges",
    "Comparison",
    "FileSchema",
    "column_changes",
    "compare",
    "divergence",
    "value_drift",
]

# Values of either day that drift is measured over, each day's most frequent; the rest is one.
COMPARED_VALUES = 50


class FileSchema(Settings):
    """Source files of a day that have equal columns: name -> Arrow type, as text."""

    columns: dict[str, str]
    files: tuple[str, ...]


class ColumnChanges(Settings):
    """Columns of the source files that came, went, or changed their type."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    # Name -> type before, type now.
    retyped: dict[str, tuple[str, str]] = Field(default={})


class Comparison(Settings):
    """A day against an earlier one."""

    day: date
    # (rows now - rows then) / rows then.
    rows_change: float
    # Jensen-Shannon divergence in bits, 0 (equal) to 1 (nothing in common); null without events.
    action_drift: float | None
    value_drift: dict[str, float]
    columns: ColumnChanges


def compare(
    day: date,
    then: tuple[DayProfile, Sequence[FileSchema]],
    now: tuple[DayProfile, Sequence[FileSchema]],
) -> Comparison:
    """`now` against `then`, which is of the earlier `day` and has events."""
    (before, files_before), (after, files_after) = then, now
    has_events = after.rows > 0
    return Comparison(
        day=day,
        rows_change=after.rows / before.rows - 1,
        action_drift=value_drift(before.actions, after.actions, before.rows, after.rows)
        if has_events
        else None,
        value_drift={
            name: value_drift(before.features[name], values, before.rows, after.rows)
            for name, values in after.features.items()
            if has_events and name in before.features
        },
        columns=column_changes(files_before, files_after) if files_after else ColumnChanges(),
    )


def value_drift(
    before: ValueCounts, after: ValueCounts, rows_before: int, rows_after: int
) -> float:
    """Divergence over the most frequent values of either day, null, and all others as one.

    A value that the other day's list does not hold counts as absent there.
    """
    frequent = {
        value for counts in (before, after) for value in islice(counts.top, COMPARED_VALUES)
    }
    return divergence(
        _distribution(before, rows_before, frequent), _distribution(after, rows_after, frequent)
    )


def _distribution(counts: ValueCounts, rows: int, values: set[str]) -> dict[str | int, float]:
    """Shares that sum to one; the keys 0 and 1 are null and all other values."""
    shares: dict[str | int, float] = {v: n / rows for v, n in counts.top.items() if v in values}
    shares[0] = counts.nulls / rows
    shares[1] = max(0.0, 1 - math.fsum(shares.values()))
    return shares


def divergence(first: Mapping[str | int, float], second: Mapping[str | int, float]) -> float:
    """Jensen-Shannon divergence in bits of two distributions; a key that is missing has share 0.

    Source: J. Lin, Divergence measures based on the Shannon entropy, 1991.
    """
    middle = {key: (first.get(key, 0) + second.get(key, 0)) / 2 for key in {*first, *second}}
    halves = (
        share * math.log2(share / middle[key])
        for shares in (first, second)
        for key, share in shares.items()
        if share > 0
    )
    return min(1.0, max(0.0, math.fsum(halves) / 2))


def column_changes(before: Sequence[FileSchema], after: Sequence[FileSchema]) -> ColumnChanges:
    """What is different about the columns; several types on one day are named together."""
    old, new = _types(before), _types(after)
    return ColumnChanges(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        retyped={
            name: (old[name], new[name])
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        },
    )


def _types(schemas: Sequence[FileSchema]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for schema in schemas:
        for name, dtype in schema.columns.items():
            found.setdefault(name, set()).add(dtype)
    return {name: " or ".join(sorted(types)) for name, types in found.items()}
