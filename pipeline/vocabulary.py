"""Vocabularies: which raw value of a feature has which row of its embedding table.

    ROOT/vocabulary/<feature>/   one row a table row: value (null in row 0), row, count

Built once from the training days (`build_vocabulary`), then read by whoever turns raw values into
rows. Row 0 is "unknown": null, never seen in training, or seen less than `min_count` times. Rows
follow (first day seen, value), so a vocabulary that later grows by days keeps its rows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend
from ibis.expr.types import Table

from pipeline.engine import rows_of, stream
from pipeline.errors import MissingDayError, VocabularyError
from pipeline.partitions import Contents, Manifest, file_paths, publish, read_manifest
from pipeline.schema import UNKNOWN_ROW, FeatureSettings

__all__ = [
    "Vocabulary",
    "build_vocabulary",
    "load_vocabulary",
    "table_sizes",
    "vocabulary_folder",
]

ROW_GROUP_ROWS = 131_072


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The values of one feature; table row i + 1 stands for `values[i]`."""

    feature: str
    num_rows: int
    """rows of the embedding table, row 0 included: len(values) + 1"""
    digest: str
    values: pa.Array

    def encode(self, values: pa.Array | pa.ChunkedArray) -> pa.Int64Array:
        """Rows of raw values (N,); null and unseen values get row 0."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        found = pc.index_in(values.cast(self.values.type), value_set=self.values, skip_nulls=True)
        return pc.fill_null(pc.add(found.cast(pa.int64()), 1), UNKNOWN_ROW)


def vocabulary_folder(root: Path, feature: str) -> Path:
    """ROOT/vocabulary/<feature>."""
    return Path(root) / "vocabulary" / feature


def load_vocabulary(root: Path, feature: str) -> Vocabulary:
    """Read a feature's vocabulary and check its digest.

    Raises:
        VocabularyError: it was not built yet, or its content is not what its manifest says.
    """
    folder, manifest = _published(root, feature)
    values = pq.read_table(file_paths(folder, manifest), columns=["value"])["value"]
    values = values.combine_chunks().slice(1)
    digest = manifest.vocabularies[feature]
    if values_digest(feature, values) != digest:
        raise VocabularyError(f"{folder}: values do not match the digest {digest}; run prepare")
    return Vocabulary(feature=feature, num_rows=len(values) + 1, digest=digest, values=values)


def table_sizes(root: Path, features: Sequence[FeatureSettings]) -> dict[str, tuple[int, str]]:
    """Feature -> (rows of its table, digest of its vocabulary).

    Where a feature declares `num_rows`, its ids are rows already: there is no vocabulary.

    Raises:
        VocabularyError: a vocabulary was not built yet.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for feature in features:
        if feature.num_rows is not None:
            sizes[feature.name] = (feature.num_rows, f"rows-{feature.num_rows}")
        else:
            _, manifest = _published(root, feature.name)
            sizes[feature.name] = (manifest.num_rows, manifest.vocabularies[feature.name])
    return sizes


def _published(root: Path, feature: str) -> tuple[Path, Manifest]:
    folder = vocabulary_folder(root, feature)
    try:
        return folder, read_manifest(folder)
    except MissingDayError:
        raise VocabularyError(f"{folder}: no vocabulary of {feature!r}; run prepare") from None


def build_vocabulary(
    connection: Backend, root: Path, feature: FeatureSettings, seen: Table, contents: Contents
) -> Manifest:
    """Give every value that `seen` holds often enough its row, and publish the vocabulary.

    `seen` has one row per occurrence in the training days: `value`, and the `day` it was seen.
    """
    values = stream(connection, _ordered_values(feature, seen)).read_all().combine_chunks()
    (total,) = rows_of(connection, seen.agg(num_seen=seen.count()))
    schema = _schema(feature)
    unknown = pa.table(
        {
            "value": [None],
            "row": [0],
            "count": [total["num_seen"] - (pc.sum(values["count"]).as_py() or 0)],
        },
        schema=schema,
    )
    table = pa.concat_tables([unknown, values.select(schema.names).cast(schema)])
    digest = values_digest(feature.name, table["value"].combine_chunks().slice(1))
    contents = contents.model_copy(update={"vocabularies": {feature.name: digest}})
    folder = vocabulary_folder(root, feature.name)
    return publish(folder, contents, schema, table.to_batches(), ROW_GROUP_ROWS)


def _schema(feature: FeatureSettings) -> pa.Schema:
    value = pa.int64() if feature.dtype == "int64" else pa.string()
    return pa.schema({"value": value, "row": pa.int64(), "count": pa.int64()})


def _ordered_values(feature: FeatureSettings, seen: Table) -> Table:
    """value, row from 1, count; in row order."""
    counted = (
        seen.filter(seen.value.notnull())
        .group_by("value")
        .agg(count=lambda t: t.count(), first_day=lambda t: t.day.min())
    )
    kept = counted.filter(counted["count"] >= feature.min_count)
    order = ibis.window(order_by=[kept.first_day, kept.value])
    return kept.mutate(row=ibis.row_number().over(order) + 1).order_by("row")


def values_digest(feature: str, values: pa.Array) -> str:
    """Sixteen hex digits over the feature's name and its values in row order."""
    digest = hashlib.sha256(f"{feature}\n{values.type}\n".encode())
    for start in range(0, len(values), ROW_GROUP_ROWS):
        lines = values.slice(start, ROW_GROUP_ROWS).cast(pa.string()).to_pylist()
        digest.update("".join(f"{len(line)}:{line}" for line in lines).encode())
    return digest.hexdigest()[:16]
