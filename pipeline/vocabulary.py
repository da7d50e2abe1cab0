"""Vocabularies: which raw value of a feature has which row of its embedding table.

    ROOT/vocabulary/<feature>/day=D/   as of the end of day D, one row a table row: value, row, day

Rows are append-only: a value gets the next free row on the first day by whose end it was seen
`min_count` times (values of one day in their own order), and keeps it. Row 0 is "unknown": null,
or not seen often enough yet. So the vocabulary of a day is the beginning of that of any later day,
and ids of old days stay valid. A digest per day names the values up to then, the same however
many days were built at once and on whatever engine.

    ROOT/pending/<feature>/day=D/      values seen, but not often enough yet: value, count

A feature with `hash_rows` has no vocabulary: its row is a hash of the value.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.day_streams import split_by_day
from pipeline.digests import texts_digest
from pipeline.errors import MissingDayError, VocabularyError
from pipeline.partitions import (
    Manifest,
    day_folder,
    file_paths,
    read_manifest,
)
from pipeline.schema import UNKNOWN_ROW, FeatureSettings
from pipeline.storage import L, Location, read_table

__all__ = [
    "ROW_GROUP_ROWS",
    "Vocabulary",
    "digests_by_day",
    "first_digest",
    "load_vocabulary",
    "published_vocabulary",
    "rows_known_by",
    "table_capacity",
    "table_sizes",
    "value_type",
    "vocabulary_folder",
    "vocabulary_lineage",
]

ROW_GROUP_ROWS = 131_072
# The smallest table with room for growth.
FIRST_STEP = 64


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


def vocabulary_folder(root: L, feature: str, day: date) -> L:
    """ROOT/vocabulary/<feature>/day=D."""
    return day_folder(root, f"vocabulary/{feature}", day)


def load_vocabulary(root: Location, feature: str, day: date) -> Vocabulary:
    """Read a feature's vocabulary of a day and check its digest.

    Raises:
        VocabularyError: it was not built yet, or its content is not what its manifest says.
    """
    folder, manifest = published_vocabulary(root, feature, day)
    table = read_table(file_paths(folder, manifest), columns=["value", "day"]).slice(1)
    digest = manifest.vocabularies[feature]
    start = first_digest(feature, table.schema.field("value").type)
    *_, found = [start, *(found for _, found in digests_by_day(table.to_batches(), start))]
    if found != digest:
        raise VocabularyError(f"{folder}: values do not match the digest {digest}; run prepare")
    values = table["value"].combine_chunks()
    return Vocabulary(feature=feature, num_rows=len(values) + 1, digest=digest, values=values)


def table_sizes(
    root: Location, features: Sequence[FeatureSettings], day: date
) -> dict[str, tuple[int, str]]:
    """Feature -> (rows of its table, digest of its vocabulary) by the end of `day`.

    Where a feature declares `num_rows` or `hash_rows` there is no vocabulary.

    Raises:
        VocabularyError: a vocabulary was not built yet.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for feature in features:
        if feature.fixed_rows is not None:
            sizes[feature.name] = (feature.fixed_rows, feature.fixed_digest)
        else:
            _, manifest = published_vocabulary(root, feature.name, day)
            sizes[feature.name] = (manifest.num_rows, manifest.vocabularies[feature.name])
    return sizes


def rows_known_by(root: Location, feature: FeatureSettings, day: date, known_by: date) -> int:
    """Rows of the vocabulary of `day` that it had by the end of `known_by` already.

    Raises:
        VocabularyError: it was not built yet.
    """
    if feature.fixed_rows is not None:
        return feature.fixed_rows
    folder, manifest = published_vocabulary(root, feature.name, day)
    number = 0
    for path in file_paths(folder, manifest):
        days = read_table([path], columns=["day"])["day"]
        # Row 0 stands for what is unknown and has no day.
        known = pc.fill_null(pc.less_equal(days, pa.scalar(known_by)), fill_value=True)
        number += pc.sum(known).as_py() or 0
    return number


def table_capacity(num_rows: int, headroom: float) -> int:
    """Rows of a table for a vocabulary of `num_rows`: the next of steps 1 + headroom apart."""
    if not headroom:
        return num_rows
    step = FIRST_STEP
    while step < num_rows:
        step = math.ceil(step * (1 + headroom))
    return step


def vocabulary_lineage(root: Location, feature: FeatureSettings, day: date) -> frozenset[str]:
    """Digests of all earlier states of the vocabulary of `day`, and its own: rows hold for it."""
    if feature.fixed_rows is not None:
        return frozenset([feature.fixed_digest])
    _, manifest = published_vocabulary(root, feature.name, day)
    # Before the first value there was row 0.
    empty = first_digest(feature.name, value_type(feature))
    return frozenset(manifest.lineage.values()) | {empty, manifest.vocabularies[feature.name]}


def published_vocabulary(root: L, feature: str, day: date) -> tuple[L, Manifest]:
    """Folder and manifest of a published vocabulary; raises VocabularyError if it is not there."""
    folder = vocabulary_folder(root, feature, day)
    try:
        return folder, read_manifest(folder)
    except MissingDayError:
        raise VocabularyError(f"{folder}: no vocabulary of {feature!r}; run prepare") from None


def value_type(feature: FeatureSettings) -> pa.DataType:
    """Arrow type of a feature's raw values."""
    return pa.int64() if feature.dtype == "int64" else pa.string()


def first_digest(feature: str, dtype: pa.DataType) -> str:
    """The digest of a vocabulary without any value."""
    return texts_digest([feature, str(dtype)])


def digests_by_day(batches: Iterable[pa.RecordBatch], before: str) -> Iterator[tuple[date, str]]:
    """Each day's digest: over the digest before it and the day's new values in row order.

    `batches` have value and day, in row order. Values are digested as they lie in memory.
    """
    for day, pieces in split_by_day(batches):
        lengths, data = hashlib.sha256(), hashlib.sha256()
        for piece in pieces:
            values = piece["value"]
            if pa.types.is_integer(values.type):
                data.update(values.to_numpy())
            else:
                ends, content = _text_bytes(values.cast(pa.string()))
                lengths.update(np.diff(ends).tobytes())
                data.update(content)
        before = texts_digest([before, lengths.hexdigest(), data.hexdigest()])
        yield day, before


def _text_bytes(values: pa.StringArray) -> tuple[NDArray[np.int32], memoryview]:
    """Offsets (N+1,) and the UTF-8 bytes between the first and the last of them."""
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return ends, memoryview(data or b"")[ends[0] : ends[-1]]
