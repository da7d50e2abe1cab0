"""Raw ids of ready-made examples: collected for vocabularies, then replaced by table rows.

checked examples of training days -> occurrences -> vocabularies, catalogue
checked examples -> record batches with rows in place of ids
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import ibis
import pyarrow as pa
import pyarrow.compute as pc
from ibis.expr.types import Table

from pipeline.schema import FeatureSettings, context_features, item_features
from pipeline.vocabulary import Vocabulary

__all__ = ["OCCURRENCE", "encoded_batches", "item_occurrences"]

OCCURRENCE = "occurrence"


def item_occurrences(examples: Table, features: Sequence[FeatureSettings]) -> Table:
    """One row per event of a sequence, or per history event and candidate of a request.

    Columns: day, event_time (a candidate's is its request's), the item features, and action
    (OCCURRENCE: what was done is not known of all of them).
    """
    names = item_features(features)
    if "event_time" in examples.columns:
        return _unnested(examples, names, "", examples.event_time)
    times = examples.candidate_item_id.map(lambda _: examples.request_time)
    return ibis.union(
        _unnested(examples, names, "history_", examples.history_time),
        _unnested(examples, names, "candidate_", times),
    )


def _unnested(
    examples: Table, names: Sequence[str], prefix: str, times: ibis.expr.types.ArrayValue
) -> Table:
    """Take the lists apart side by side."""
    lists = [examples[prefix + name] for name in names]
    events = examples.select("day", event=times.zip(*lists).unnest())
    fields = {name: events.event[f"f{number}"] for number, name in enumerate(names, start=2)}
    return events.select(
        "day", event_time=events.event.f1, **fields, action=ibis.literal(OCCURRENCE)
    )


def encoded_batches(
    batches: Iterable[pa.RecordBatch],
    features: Sequence[FeatureSettings],
    vocabularies: Mapping[str, Vocabulary],
) -> Iterator[pa.RecordBatch]:
    """The batches with rows in place of raw ids, in lists and in context columns."""
    columns: dict[str, Vocabulary] = {}
    for name in item_features(features):
        for prefix in ("", "history_", "candidate_"):
            columns[prefix + name] = vocabularies[name]
    columns |= {name: vocabularies[name] for name in context_features(features)}
    for batch in batches:
        encoded = [
            _encode(batch[name], columns[name]) if name in columns else batch[name]
            for name in batch.schema.names
        ]
        yield pa.RecordBatch.from_arrays(encoded, names=batch.schema.names)


def _encode(column: pa.Array, vocabulary: Vocabulary) -> pa.Array:
    if not pa.types.is_list(column.type):
        return vocabulary.encode(column)
    lengths = pc.list_value_length(column)
    ends = pc.cumulative_sum(lengths)
    offsets = pa.concat_arrays([pa.array([0], ends.type), ends])
    return pa.ListArray.from_arrays(offsets, vocabulary.encode(pc.list_flatten(column)))
