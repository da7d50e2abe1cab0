"""Decoding against plain Python lists; what is wrong with a table is named."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.decode import RankingDecoder, SequenceDecoder
from pipeline.errors import SchemaError
from pipeline.jagged import Pick
from pipeline.schema import FeatureSettings, requests_schema, sequences_schema

FEATURES = [
    FeatureSettings(name="item_id"),
    FeatureSettings(name="department"),
    FeatureSettings(name="store_id", role="context"),
]
HISTORIES = [[1, 2, 3], [], [4, 5], [6]]
CANDIDATES = [[10, 11], [12], [13, 14, 15], [16]]
LABELS = [[0, 1], [None], [1, None, 0], [1]]
EMPTY = {"user_id": "", "event_time": [], "action": [], "request_time": 0, "history_time": []}


def tens(lists):
    return [[10 * value for value in values] for values in lists]


def requests():
    schema = requests_schema(FEATURES, ["ctr", "cvr"])
    columns = {
        "history_item_id": HISTORIES,
        "history_department": tens(HISTORIES),
        "candidate_item_id": CANDIDATES,
        "candidate_department": tens(CANDIDATES),
        "label_ctr": LABELS,
        "label_cvr": [[None] * len(labels) for labels in LABELS],
        "store_id": [7, 8, 9, 0],
        "request_id": ["a", "b", "c", "d"],
    }
    return pa.table({n: columns.get(n, [EMPTY.get(n)] * 4) for n in schema.names}, schema=schema)


def sequences():
    schema = sequences_schema(FEATURES)
    columns = {"item_id": HISTORIES, "department": tens(HISTORIES)}
    return pa.table({n: columns.get(n, [EMPTY.get(n)] * 4) for n in schema.names}, schema=schema)


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


def lists(values, offsets):
    return [part.tolist() for part in torch.tensor_split(values, offsets[1:-1])]


def pick(decoder, table, indices):
    return Pick(decoder.decode(table, first_row=100), np.array(indices))


def test_sequences_in_any_order():
    decoder = SequenceDecoder(FEATURES)
    batch = decoder.batch([pick(decoder, sequences(), [3, 0, 2])])
    assert list(batch.tokens) == ["item_id", "department"]
    assert lists(batch.tokens["item_id"], batch.offsets) == [[6], [1, 2, 3], [4, 5]]
    assert lists(batch.tokens["department"], batch.offsets) == [[60], [10, 20, 30], [40, 50]]
    assert batch.row_ids.tolist() == [103, 100, 102]
    assert batch.weights.tolist() == [1, 1, 1]
    dtypes = {t.dtype for t in (*batch.tokens.values(), batch.offsets, batch.row_ids)}
    assert dtypes == {torch.int64}
    assert batch.weights.dtype == torch.float32


def test_requests_with_labels_of_one_task():
    decoder = RankingDecoder(FEATURES, "ctr")
    batch = decoder.batch([pick(decoder, requests(), [2, 1, 0])])
    assert lists(batch.history["item_id"], batch.history_offsets) == [[4, 5], [], [1, 2, 3]]
    assert lists(batch.history["department"], batch.history_offsets) == [[40, 50], [], [10, 20, 30]]
    candidates = lists(batch.candidates["item_id"], batch.candidate_offsets)
    assert candidates == [[13, 14, 15], [12], [10, 11]]
    assert batch.context["store_id"].tolist() == [9, 8, 7]
    assert batch.labels.tolist() == [1, 0, 0, 0, 0, 1]
    assert batch.weights.tolist() == [1, 0, 1, 0, 1, 1]
    assert batch.labels.dtype == batch.weights.dtype == torch.float32
    assert batch.num_samples == 4


def test_a_task_that_applies_to_nothing_has_no_samples():
    decoder = RankingDecoder(FEATURES, "cvr")
    batch = decoder.batch([pick(decoder, requests(), [0, 1])])
    assert batch.num_samples == 0
    assert batch.labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize("keep", [1, 2, 3, 50])
def test_histories_keep_their_last_tokens(keep):
    decoder = RankingDecoder(FEATURES, "ctr", max_history=keep)
    batch = decoder.batch([pick(decoder, requests(), [0, 1, 2, 3])])
    expected = [history[-keep:] for history in HISTORIES]
    assert lists(batch.history["item_id"], batch.history_offsets) == expected
    assert lists(batch.candidates["item_id"], batch.candidate_offsets) == CANDIDATES


def test_picks_follow_each_other():
    decoder = RankingDecoder(FEATURES, "ctr", max_history=2)
    table = requests()
    first, second = pick(decoder, table, [3, 0]), pick(decoder, table.slice(1, 3), [1])
    batch = decoder.batch([first, second])
    assert lists(batch.history["item_id"], batch.history_offsets) == [[6], [2, 3], [4, 5]]
    assert lists(batch.candidates["department"], batch.candidate_offsets) == tens(
        [[16], [10, 11], [13, 14, 15]]
    )
    assert batch.context["store_id"].tolist() == [0, 7, 9]
    assert batch.labels.tolist() == [1, 0, 1, 1, 0, 0]
    assert batch.row_ids.tolist() == [103, 100, 101]


def test_filler_counts_nothing():
    ranking, sequence = RankingDecoder(FEATURES, "ctr"), SequenceDecoder(FEATURES)
    request = ranking.batch([pick(ranking, requests(), [0])], filler=True)
    assert request.weights.tolist() == [0, 0]
    assert request.labels.tolist() == [0, 0]
    assert request.num_samples == 0
    filler = sequence.batch([pick(sequence, sequences(), [0])], filler=True)
    assert filler.num_samples == 0
    assert filler.row_ids.tolist() == [100]


def test_several_chunks_and_other_kinds_of_lists():
    table = pa.concat_tables([requests().slice(1, 2), requests()])
    table = replaced(
        table, "history_item_id", table["history_item_id"].cast(pa.large_list(pa.int64()))
    )
    decoder = RankingDecoder(FEATURES, "ctr")
    batch = decoder.batch([pick(decoder, table, range(6))])
    expected = [[], [4, 5], *HISTORIES]
    assert lists(batch.history["item_id"], batch.history_offsets) == expected


def test_only_the_columns_of_the_task_are_asked_for():
    assert list(RankingDecoder(FEATURES, "ctr").columns) == [
        "history_item_id",
        "history_department",
        "candidate_item_id",
        "candidate_department",
        "label_ctr",
        "store_id",
    ]
    assert list(SequenceDecoder(FEATURES).columns) == ["item_id", "department"]


def test_unknown_task_lists_the_tasks_there_are():
    decoder = RankingDecoder(FEATURES, "cart")
    with pytest.raises(SchemaError, match=r"f\.parquet: no column label_cart; .* ctr, cvr"):
        decoder.decode(requests(), where="f.parquet")


def nulls_in_values():
    return pa.array([[1, None, 3], [], [4, 5], [6]], pa.list_(pa.int64()))


BROKEN = {
    "missing": (lambda t: t.drop(["store_id"]), "no column store_id; there are request_id"),
    "type": (
        lambda t: replaced(t, "store_id", pa.array(["x"] * 4)),
        "column store_id is string, but must be int64",
    ),
    "list type": (
        lambda t: replaced(t, "history_item_id", pa.array([1, 2, 3, 4])),
        "column history_item_id is int64, but must be list",
    ),
    "values": (
        lambda t: replaced(t, "candidate_item_id", pa.array([["x"]] * 4)),
        r"column candidate_item_id is list<item: string>, but must be list<item: int64>",
    ),
    "null value": (
        lambda t: replaced(t, "history_item_id", nulls_in_values()),
        "column history_item_id has 1 nulls among its values",
    ),
    "null list": (
        lambda t: replaced(t, "label_ctr", pa.array([None] * 4, pa.list_(pa.int8()))),
        "column label_ctr has 4 nulls",
    ),
    "null scalar": (
        lambda t: replaced(t, "store_id", pa.array([1, 2, None, 4], pa.int64())),
        "column store_id has 1 nulls",
    ),
    "lengths": (
        lambda t: replaced(t, "history_department", pa.array([[1], [2, 3], [4], [5]])),
        "lists of history_department and history_item_id differ in length",
    ),
    "label lengths": (
        lambda t: replaced(t, "label_ctr", pa.array([[1]] * 4, pa.list_(pa.int8()))),
        "lists of label_ctr and candidate_item_id differ in length",
    ),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_wrong_with_a_table_is_named(change, message):
    decoder = RankingDecoder(FEATURES, "ctr")
    with pytest.raises(SchemaError, match=f"day/f.parquet: {message}"):
        decoder.decode(change(requests()), where="day/f.parquet")
