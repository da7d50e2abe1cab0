"""Histories that are filled in while requests are written, against the ones the engine joins."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from pipeline import day_chain
from pipeline.duckdb_engine import DuckDBEngine
from pipeline.engine import EngineSettings, open_engine
from pipeline.held_spans import HeldSpans
from pipeline.holdout import HoldoutSettings
from pipeline.manifests import MANIFEST_NAME
from pipeline.partitions import read_manifest
from pipeline.prepare import prepare
from pipeline.spark_engine import SparkEngine
from tests.pipeline.dirty_days import preparation, write_log

START = datetime(2024, 5, 1, tzinfo=UTC).replace(tzinfo=None)
TIMES = pa.list_(pa.timestamp("us"))


def moments(numbers):
    return [START + timedelta(minutes=number) for number in numbers]


def batch_of_spans(lists):
    """Number -> item rows; the brand is the item's last digit, and the time the item's minute."""
    columns = {
        "number": pa.array(list(lists), pa.int64()),
        "event_time": pa.array([moments(items) for items in lists.values()], TIMES),
        "item_id": pa.array(list(lists.values()), pa.list_(pa.int64())),
        "brand": pa.array([[i % 10 for i in items] for items in lists.values()]),
    }
    columns["brand"] = columns["brand"].cast(pa.list_(pa.int64()))
    return pa.RecordBatch.from_pydict(columns)


def batch_of_requests(rows):
    """Rows of (id, span, history_start, history_end, known items, known brands)."""
    names = ["request_id", "span", "history_start", "history_end", "known_item_id", "known_brand"]
    return pa.RecordBatch.from_pydict(dict(zip(names, zip(*rows, strict=True), strict=True)))


def filled(spans, *requests):
    held = HeldSpans(["item_id", "brand"])
    for lists in spans:
        held.add([batch_of_spans(lists)])
    batches = [batch_of_requests(rows) for rows in requests]
    return [row for batch in held.filled(batches) for row in batch.to_pylist()]


def test_histories_are_slices_of_the_spans_of_all_parts():
    parts = [{4: [11, 12, 13], 0: [21, 22]}, {7: [31, 32, 33, 34]}]
    requests = [("a", 7, 1, 4, 99, 99), ("b", 0, 0, 1, 99, 99)]
    first, second, third = filled(parts, requests, [("c", 4, 2, 3, 99, 99)])
    assert first == {
        "request_id": "a",
        "history_time": moments([32, 33, 34]),
        "history_item_id": [32, 33, 34],
        "history_brand": [2, 3, 4],
    }
    assert (second["request_id"], second["history_item_id"]) == ("b", [21])
    assert (third["request_id"], third["history_brand"]) == ("c", [3])


def test_what_was_not_known_when_the_day_began_is_row_0():
    """By request, as a block may have several days; no list of a span is changed by that."""
    span = {0: [11, 12, 13]}
    requests = [("a", 0, 0, 3, 12, 3), ("b", 0, 0, 3, 13, 99), ("c", 0, 0, 3, 99, 99)]
    found = filled([span], requests)
    assert [row["history_item_id"] for row in found] == [[11, 0, 0], [11, 12, 0], [11, 12, 13]]
    assert [row["history_brand"] for row in found] == [[1, 2, 0], [1, 2, 3], [1, 2, 3]]
    alike = filled([span], [("a", 0, 1, 3, 13, 99), ("b", 0, 0, 3, 13, 99)])
    assert [row["history_item_id"] for row in alike] == [[12, 0], [11, 12, 0]]


@pytest.mark.parametrize("parts", [[], [{}], [{5: [11]}]])
def test_an_empty_history_needs_no_span(parts):
    requests = [("a", 0, 0, 0, 99, 99), ("b", 9, 0, 0, 99, 99)]
    for row in filled(parts, requests):
        assert row["history_time"] == row["history_item_id"] == row["history_brand"] == []


def test_no_requests():
    empty = batch_of_requests([("a", 0, 0, 0, 9, 9)])[:0]
    held = HeldSpans(["item_id", "brand"])
    (batch,) = held.filled([empty])
    assert batch.num_rows == 0
    assert batch.schema.field("history_time").type == TIMES


def test_how_much_may_be_held(tmp_path):
    with open_engine(tmp_path, EngineSettings(memory_limit="1GB")) as engine:
        assert engine.can_hold(49_000_000)
        assert not engine.can_hold(51_000_000)
    # Spark's driver does not hold what is its executors' to hold.
    assert not SparkEngine.can_hold(SparkEngine.__new__(SparkEngine), 1)


def published(root):
    """Folder -> names of its files, which carry digests of their content."""
    folders = [path.parent for path in root.glob(f"*/**/{MANIFEST_NAME}")]
    return {str(folder.relative_to(root)): read_manifest(folder).files for folder in folders}


@pytest.mark.parametrize(
    ("events_per_block", "changed"), [(10**9, {}), (1, {"holdout": HoldoutSettings(share=0.3)})]
)
def test_days_are_the_same_whether_or_not_spans_are_held(
    tmp_path, monkeypatch, events_per_block, changed
):
    """All days at once, and each from the state that the day before left."""
    write_log(tmp_path)
    monkeypatch.setattr(day_chain, "EVENTS_PER_BLOCK", events_per_block)
    made, asked = [], []
    for can in (True, False):
        monkeypatch.setattr(DuckDBEngine, "can_hold", lambda _, n, can=can: asked.append(n) or can)
        days = preparation(tmp_path, root=tmp_path / str(can), **changed)
        prepare(days)
        made.append(published(days.root))
    assert made[0] == made[1]
    of_requests = [files for folder, files in made[0].items() if folder.startswith("requests/")]
    assert len(of_requests) == len(days.request_days)
    assert all(of_requests)
    assert min(asked) > 0
