"""Events with table rows for raw values: where vocabularies meet cleaned events.

    events/ -> vocabulary/, catalogue/ -> encoded events -> `sequences`, `requests`

Vocabularies and the catalogue see training days only; everything later is encoded with them.
"""

from collections.abc import Sequence
from pathlib import Path

import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import StringValue, Table

from pipeline.engine import computed, stream
from pipeline.hashing import hash_key
from pipeline.partitions import Contents, Manifest, file_paths, publish, read_manifest
from pipeline.schema import UNKNOWN_ROW, FeatureSettings, item_features
from pipeline.vocabulary import vocabulary_folder

__all__ = [
    "build_catalogue",
    "catalogue_folder",
    "catalogue_schema",
    "encoded_events",
    "read_catalogue",
    "with_rows",
]

ROW_GROUP_ROWS = 131_072


def with_rows(
    connection: Backend, root: Path, features: Sequence[FeatureSettings], table: Table
) -> Table:
    """Replace each feature's raw value by its row; null and unseen values get row 0."""
    for feature in features:
        folder = vocabulary_folder(root, feature.name)
        paths = [str(path) for path in file_paths(folder, read_manifest(folder))]
        vocabulary = connection.read_parquet(paths).select(raw="value", found="row")
        # The row of null is 0, and no raw value is equal to null.
        table = table.left_join(vocabulary, table[feature.name] == vocabulary.raw)
        table = table.drop("raw").mutate(found=table.found.fill_null(UNKNOWN_ROW))
        table = table.drop(feature.name).rename({feature.name: "found"})
    return table


def encoded_events(
    connection: Backend, root: Path, features: Sequence[FeatureSettings], events: Table
) -> Table:
    """Events with rows, evaluated once: the contract's columns, day, raw_item and tie.

    `tie` orders a user's events of one time: by hash, so that their order says nothing (events of
    one basket share a time), and the same on every engine.
    """
    events = events.mutate(raw_item=events.item_id.cast("string"), tie=_tie(events))
    return computed(connection, "encoded", with_rows(connection, root, features, events))


def _tie(events: Table) -> StringValue:
    parts = [events.user_id, events.item_id.cast("string"), events.action]
    return hash_key(*parts, events.request_id.fill_null(""))


def catalogue_folder(root: Path) -> Path:
    """ROOT/catalogue."""
    return Path(root) / "catalogue"


def catalogue_schema(features: Sequence[FeatureSettings]) -> pa.Schema:
    """Each known item's row, the rows of its other features, its number of training events."""
    return pa.schema({name: pa.int64() for name in [*item_features(features), "count"]})


def build_catalogue(
    connection: Backend,
    root: Path,
    features: Sequence[FeatureSettings],
    seen: Table,
    contents: Contents,
) -> Manifest:
    """Publish what training days say of every item with a row: its latest features, its count.

    `seen` has one row per occurrence of an item: rows of the item features, event_time, and tie,
    which settles which of the occurrences at one time is the latest.
    """
    names = item_features(features)
    known = seen.filter(seen.item_id != UNKNOWN_ROW)
    latest = ibis.window(
        group_by="item_id", order_by=[known.event_time.desc(), known.tie, *names[1:]]
    )
    items = known.mutate(
        age=ibis.row_number().over(latest), count=known.count().over(group_by="item_id")
    )
    items = items.filter(items.age == 0).select(*names, "count").order_by("item_id")
    batches = stream(connection, items)
    folder = catalogue_folder(root)
    return publish(folder, contents, catalogue_schema(features), batches, ROW_GROUP_ROWS)


def read_catalogue(connection: Backend, root: Path) -> Table:
    """The published catalogue as an expression."""
    folder = catalogue_folder(root)
    return connection.read_parquet([str(p) for p in file_paths(folder, read_manifest(folder))])
