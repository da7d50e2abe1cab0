"""How vocabularies grow: a day's new values get the next free rows.

    published vocabulary of the day before + values seen -> GrownVocabulary -> published again

See `vocabulary` for what is published. Rows are numbered by the engine, and digests taken of
Arrow's memory, so that millions of new values a day never become Python objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path

import ibis
import pyarrow as pa
from ibis.expr.types import Table

from pipeline.engine import Engine, read_published
from pipeline.hashing import hash_key, hash_number, mixed_long
from pipeline.manifests import Contents
from pipeline.partitions import day_folder, file_paths, publish
from pipeline.schema import UNKNOWN_ROW, FeatureSettings
from pipeline.vocabulary import (
    ROW_GROUP_ROWS,
    digests_by_day,
    first_digest,
    published_vocabulary,
    value_type,
    vocabulary_folder,
)

__all__ = [
    "GrownVocabulary",
    "grow_vocabulary",
    "hashed_rows",
    "pending_folder",
    "publish_vocabulary",
    "read_vocabulary",
]


@dataclass(frozen=True, kw_only=True)
class GrownVocabulary:
    """A feature's vocabulary while days are being built."""

    feature: FeatureSettings
    values: Table
    """value, row, day; row 0 is not among them"""
    num_rows: Mapping[date, int]
    """rows by the end of a day, row 0 included; days ascend"""
    digests: Mapping[date, str]
    """digest by the end of a day"""
    lineage: Mapping[str, str]
    """day -> digest, of all days that added values"""
    pending: Table | None = None
    """value, count of those not seen often enough by the last day; None where one time is enough"""

    def by(self, day: date) -> tuple[int, str]:
        """Rows and digest by the end of `day`; before the first day there is only row 0."""
        if day in self.digests:
            return self.num_rows[day], self.digests[day]
        assert day < min(self.digests), f"{self.feature.name}: nothing is known of {day}"
        return 1, first_digest(self.feature.name, value_type(self.feature))

    @property
    def last_num_rows(self) -> int:
        """Rows by the end of the last day."""
        return self.num_rows[max(self.num_rows)]

    @property
    def last_digest(self) -> str:
        """Digest by the end of the last day."""
        return self.digests[max(self.digests)]


def pending_folder(root: Path, feature: str, day: date) -> Path:
    """ROOT/pending/<feature>/day=D."""
    return day_folder(root, f"pending/{feature}", day)


def hashed_rows(feature: FeatureSettings, events: Table) -> Table:
    """value, row from 1 of the distinct values of a feature with `hash_rows`."""
    num_rows = (feature.hash_rows or 2) - 1
    values = events.select(value=feature.name).distinct()
    values = values.filter(values.value.notnull())
    number = hash_number(hash_key(feature.name, values.value.cast("string")))
    numbered = values.mutate(number=number)
    return numbered.select("value", row=mixed_long(numbered.number) % num_rows + 1)


def read_vocabulary(
    engine: Engine, root: Path, feature: FeatureSettings, day: date
) -> GrownVocabulary:
    """The published vocabulary of a day, as what nothing was added to."""
    folder, manifest = published_vocabulary(root, feature.name, day)
    values = engine.read_parquet(file_paths(folder, manifest))
    return GrownVocabulary(
        feature=feature,
        values=values.filter(values.row != UNKNOWN_ROW),
        num_rows={day: manifest.num_rows},
        digests={day: manifest.vocabularies[feature.name]},
        lineage=manifest.lineage,
    )


def grow_vocabulary(
    engine: Engine,
    root: Path,
    feature: FeatureSettings,
    before: date | None,
    seen: Table,
    days: Sequence[date],
) -> GrownVocabulary:
    """The vocabulary after the occurrences in `seen` (value, day), which are those of `days`.

    `before` is the day whose published vocabulary it grows from; None to start with.
    """
    known = read_vocabulary(engine, root, feature, before) if before else None
    admitted = _admitted(engine, root, feature, before, seen)
    if known:
        admitted = admitted.anti_join(known.values, "value")
    first_row = known.last_num_rows if known else 1
    new = admitted.filter(admitted.day.notnull())
    order = ibis.window(order_by=[new.day, new.value])
    new = new.mutate(row=ibis.row_number().over(order) + first_row)
    new = engine.computed(f"new_{feature.name}", new.select("value", "row", "day"))
    digest = known.last_digest if known else first_digest(feature.name, value_type(feature))
    changed = dict(digests_by_day(engine.stream(new.order_by("row")), digest))
    counts = engine.rows_of(new.group_by("day").agg(count=new.count()))
    added = {row["day"]: row["count"] for row in counts}
    num_rows, digests = {}, {}
    for day in days:
        first_row += added.get(day, 0)
        num_rows[day] = first_row
        digest = digests[day] = changed.get(day, digest)
    pending = None
    if feature.min_count > 1:
        waiting = admitted.filter(admitted.day.isnull())
        pending = engine.computed(f"pending_{feature.name}", waiting.select("value", "count"))
    return GrownVocabulary(
        feature=feature,
        values=ibis.union(known.values, new) if known else new,
        num_rows={**(known.num_rows if known else {}), **num_rows},
        digests={**(known.digests if known else {}), **digests},
        lineage={**(known.lineage if known else {}), **{str(d): v for d, v in changed.items()}},
        pending=pending,
    )


def _admitted(
    engine: Engine, root: Path, feature: FeatureSettings, before: date | None, seen: Table
) -> Table:
    """value, count, and the day by whose end it was seen often enough (null: not yet)."""
    seen = seen.filter(seen.value.notnull())
    if feature.min_count == 1:
        return seen.group_by("value").agg(count=seen.count(), day=seen.day.min())
    counted = seen.group_by("value", "day").agg(count=seen.count())
    if before:
        folder = pending_folder(root, feature.name, before)
        earlier = read_published(engine, folder, _pending_schema(feature))
        earlier = earlier.select("value", "count", day=ibis.literal(before))
        counted = ibis.union(counted, earlier.select(counted.columns))
    so_far = ibis.window(group_by="value", order_by="day", preceding=None, following=0)
    counted = counted.mutate(total=counted["count"].sum().over(so_far))
    enough = counted.total >= feature.min_count
    return counted.group_by("value").agg(
        count=counted["count"].sum(), day=counted.day.min(where=enough)
    )


def _pending_schema(feature: FeatureSettings) -> pa.Schema:
    return pa.schema({"value": value_type(feature), "count": pa.int64()})


def publish_vocabulary(
    engine: Engine, root: Path, grown: GrownVocabulary, contents: Contents
) -> None:
    """Publish the vocabulary as of its last day, and what is pending."""
    feature, day = grown.feature, contents.day
    assert day is not None
    schema = pa.schema({"value": value_type(feature), "row": pa.int64(), "day": pa.date32()})
    unknown = pa.RecordBatch.from_pylist([{"value": None, "row": UNKNOWN_ROW}], schema=schema)
    rows = engine.stream(grown.values.order_by("row"))
    named = contents.model_copy(
        update={
            "vocabularies": {feature.name: grown.last_digest},
            "lineage": grown.lineage,
        }
    )
    if grown.pending is not None:
        publish(
            pending_folder(root, feature.name, day),
            contents,
            _pending_schema(feature),
            engine.stream(grown.pending.order_by("value")),
            ROW_GROUP_ROWS,
        )
    folder = vocabulary_folder(root, feature.name, day)
    publish(folder, named, schema, chain([unknown], rows), ROW_GROUP_ROWS)
