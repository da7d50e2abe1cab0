import math
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from jobs.baselines import POPULARITY, baseline_results, count_in_history, history_baseline
from pipeline.catalogue import catalogue_folder, catalogue_schema
from pipeline.errors import MissingDayError
from pipeline.partitions import Contents, day_folder, publish
from pipeline.schema import TIME, FeatureSettings, requests_schema

FEATURES = [FeatureSettings(name="item_id"), FeatureSettings(name="brand")]
NAMES = ["item_id", "brand"]
DAYS = [date(2024, 5, 1), date(2024, 5, 2)]
LAST = date(2024, 4, 30)


def request(history, candidates, labels):
    """One row; history and candidates are lists of (item, brand)."""
    return {
        "request_id": "r",
        "user_id": "u",
        "request_time": 0,
        "history_time": [0] * len(history),
        "history_item_id": [item for item, _ in history],
        "history_brand": [brand for _, brand in history],
        "candidate_item_id": [item for item, _ in candidates],
        "candidate_brand": [brand for _, brand in candidates],
        "label_buy": labels,
    }


def publish_requests(root, day, rows):
    schema = requests_schema(FEATURES, ["buy"])
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    assert schema.field("request_time").type == TIME
    publish(day_folder(root, "requests", day), Contents(kind="requests", day=day), schema, [batch])


def publish_catalogue(root, counts):
    schema = catalogue_schema(FEATURES)
    rows = [
        {"item_id": item, "brand": 1, "count": count, "recent": 0} for item, count in counts.items()
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    contents = Contents(kind="catalogue", day=LAST)
    publish(catalogue_folder(root, LAST), contents, schema, [batch])


def random_rows(draw, num_rows):
    for _ in range(num_rows):
        history = draw.integers(0, 5, (draw.integers(0, 6), 2)).tolist()
        candidates = draw.integers(0, 5, (draw.integers(1, 4), 2)).tolist()
        labels = [None if chance < 0.2 else int(chance < 0.6) for chance in draw.random(3)]
        yield request(history, candidates, labels[: len(candidates)])


def test_baselines_are_what_a_loop_over_candidates_gives(tmp_path):
    draw = np.random.default_rng(3)
    counts = {1: 7, 2: 40, 3: 7}
    publish_catalogue(tmp_path, counts)
    day_folder(tmp_path, "events", LAST).mkdir(parents=True)
    scores, labels = {POPULARITY: [], "item_id": [], "brand": []}, []
    for day in DAYS:
        rows = list(random_rows(draw, 60))
        publish_requests(tmp_path, day, rows)
        for row in rows:
            for number, label in enumerate(row["label_buy"]):
                if label is None:
                    continue
                labels.append(label)
                scores[POPULARITY].append(counts.get(row["candidate_item_id"][number], 0))
                for name in ("item_id", "brand"):
                    value = row[f"candidate_{name}"][number]
                    scores[name].append(row[f"history_{name}"].count(value) if value else 0)
    results = baseline_results(tmp_path, DAYS, "buy", NAMES, LAST)
    assert list(results) == [POPULARITY, history_baseline("item_id"), history_baseline("brand")]
    for result, expected in zip(results.values(), scores.values(), strict=True):
        assert result.auc == pytest.approx(roc_auc_score(labels, expected), abs=1e-12)
        assert result.auc_error == 0.0
        assert (result.num_samples, result.num_positives) == (len(labels), sum(labels))
        assert math.isnan(result.log_loss)
        assert math.isnan(result.calibration)


def test_a_value_counts_in_its_own_request_only():
    history, history_request = np.array([4, 4, 2, 0]), np.array([0, 0, 1, 1])
    candidate, candidate_request = np.array([4, 4, 2, 0, 9]), np.array([0, 1, 1, 1, 1])
    counts = count_in_history(history, history_request, candidate, candidate_request)
    assert counts.tolist() == [2, 0, 1, 0, 0]


def test_empty_histories_count_nothing():
    none = np.zeros(0, dtype=np.int64)
    assert count_in_history(none, none, np.array([3]), np.array([0])).tolist() == [0]


def test_requests_brought_without_a_catalogue_have_no_popularity(tmp_path):
    publish_requests(tmp_path, DAYS[0], [request([(1, 1)], [(1, 1), (2, 2)], [1, 0])])
    results = baseline_results(tmp_path, DAYS[:1], "buy", NAMES, LAST)
    assert list(results) == [history_baseline("item_id"), history_baseline("brand")]
    assert results[history_baseline("item_id")].auc == 1.0


def test_one_class_has_no_auc(tmp_path):
    publish_requests(tmp_path, DAYS[0], [request([(1, 1)], [(1, 1)], [1])])
    result = baseline_results(tmp_path, DAYS[:1], "buy", NAMES, LAST)[history_baseline("item_id")]
    assert math.isnan(result.auc)
    assert result.num_samples == 1


def test_a_missing_day_is_named(tmp_path):
    publish_requests(tmp_path, DAYS[0], [request([], [(1, 1)], [1])])
    with pytest.raises(MissingDayError, match="day=2024-05-02"):
        baseline_results(tmp_path, DAYS, "buy", NAMES, LAST)
