from datetime import date

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.schema import (
    DaySettings,
    FeatureSettings,
    check_features,
    context_features,
    item_features,
    requests_schema,
    sequences_schema,
)

ITEM = FeatureSettings(name="item_id", dtype="int64")
FEATURES = (
    ITEM,
    FeatureSettings(name="store_id", role="context"),
    FeatureSettings(name="department"),
)


def days(**changed):
    ranges = {"pretraining": (1, 10), "ranking": (8, 12), "validation": (13, 14), "test": (15, 16)}
    ranges |= changed
    return DaySettings(
        **{name: (date(2024, 5, a), date(2024, 5, b)) for name, (a, b) in ranges.items()}
    )


def test_training_spans_pretraining_and_ranking():
    assert days().training == (date(2024, 5, 1), date(2024, 5, 12))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"ranking": (12, 8)}, "days.ranking: first day 2024-05-12 is after last day"),
        ({"validation": (12, 14)}, "days.validation starts 2024-05-12"),
        ({"pretraining": (1, 13)}, "nothing of validation may reach training"),
        ({"test": (14, 16)}, "days.test starts 2024-05-14"),
    ],
)
def test_days_out_of_order(changed, sentence):
    with pytest.raises(ValidationError, match=sentence):
        days(**changed)


def test_features_by_role():
    assert item_features(FEATURES) == ["item_id", "department"]
    assert context_features(FEATURES) == ["store_id"]
    check_features(FEATURES)


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        ([], "the first one must"),
        ([FeatureSettings(name="brand")], "the first one must"),
        ([FeatureSettings(name="item_id", role="context")], "the first one must"),
        ([ITEM, FeatureSettings(name="brand"), FeatureSettings(name="brand")], "features.2.name"),
        ([ITEM, FeatureSettings(name="user_id", role="context")], "column of the contract"),
        ([ITEM, FeatureSettings(name="history_length")], "column of the contract"),
        ([ITEM, FeatureSettings(name="position")], "is a name that `prepare` uses itself"),
        ([ITEM, FeatureSettings(name="part", role="context")], "is a name that `prepare` uses"),
        ([ITEM, FeatureSettings(name="open_time")], "is a name that `prepare` uses itself"),
    ],
)
def test_features_that_break_the_contract(features, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_features(features)


@pytest.mark.parametrize("other", [{"num_rows": 9}, {"min_count": 2}])
def test_a_hashed_feature_has_no_vocabulary(other):
    with pytest.raises(ValidationError, match="hash_rows of 'word': a hashed feature has no voc"):
        FeatureSettings(name="word", hash_rows=10, **other)


def test_rows_that_do_not_follow_from_a_vocabulary():
    rows = FeatureSettings(name="item_id", num_rows=7)
    hashed = FeatureSettings(name="item_id", hash_rows=9)
    assert [feature.fixed_rows for feature in (ITEM, rows, hashed)] == [None, 7, 9]
    assert [feature.fixed_digest for feature in (rows, hashed)] == ["rows-7", "hashed-9"]


def test_columns_of_sequences():
    assert sequences_schema(FEATURES).names == [
        "user_id",
        "event_time",
        "action",
        "item_id",
        "department",
    ]


def test_columns_of_requests():
    schema = requests_schema(FEATURES, ["ctr", "cvr"])
    assert schema.names == [
        "request_id",
        "user_id",
        "request_time",
        "history_time",
        "history_item_id",
        "history_department",
        "candidate_item_id",
        "candidate_department",
        "label_ctr",
        "label_cvr",
        "store_id",
    ]
    assert schema.field("label_ctr").type == pa.list_(pa.int8())
    assert schema.field("request_time").type == pa.timestamp("us", tz="UTC")
