from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine import open_engine
from pipeline.errors import HalfWrittenDayError, VocabularyError
from pipeline.partitions import Contents
from pipeline.schema import FeatureSettings
from pipeline.vocabulary import build_vocabulary, load_vocabulary, table_sizes, vocabulary_folder

FEATURE = FeatureSettings(name="brand")
TEXT = pa.string()
CONTENTS = Contents(kind="vocabulary")


def seen(*pairs, dtype=TEXT):
    """A table of (value, day of May)."""
    values = pa.array([value for value, _ in pairs], dtype)
    days = pa.array([date(2024, 5, day) for _, day in pairs], pa.date32())
    return pa.table({"value": values, "day": days})


def built(root, feature, occurrences, contents):
    pq.write_table(occurrences, root / "seen.parquet")
    with open_engine(root) as connection:
        occurrences = connection.read_parquet(root / "seen.parquet")
        return build_vocabulary(connection, root, feature, occurrences, contents)


OCCURRENCES = (("b", 2), ("a", 2), (None, 1), ("z", 1), ("a", 3), ("b", 2), ("late", 9))


def test_rows_follow_first_day_then_value(tmp_path):
    built(tmp_path, FEATURE, seen(*OCCURRENCES), CONTENTS)
    vocabulary = load_vocabulary(tmp_path, "brand")
    assert vocabulary.values.to_pylist() == ["z", "a", "b", "late"]
    assert vocabulary.num_rows == 5
    assert table_sizes(tmp_path, [FEATURE]) == {"brand": (5, vocabulary.digest)}


def test_encode_gives_row_0_to_null_and_unseen(tmp_path):
    built(tmp_path, FEATURE, seen(*OCCURRENCES), CONTENTS)
    vocabulary = load_vocabulary(tmp_path, "brand")
    values = ["late", None, "never", "z"]
    assert vocabulary.encode(pa.array(values)).to_pylist() == [4, 0, 0, 1]
    chunks = pa.chunked_array([pa.array(values[:1]), pa.array(values[1:])])
    assert vocabulary.encode(chunks).to_pylist() == [4, 0, 0, 1]


def test_rare_values_share_row_0_with_unknown(tmp_path):
    feature = FeatureSettings(name="brand", min_count=2)
    manifest = built(tmp_path, feature, seen(*OCCURRENCES), CONTENTS)
    assert load_vocabulary(tmp_path, "brand").values.to_pylist() == ["a", "b"]
    assert manifest.num_rows == 3


def test_no_value_at_all_leaves_row_0(tmp_path):
    built(tmp_path, FEATURE, seen((None, 1)), CONTENTS)
    vocabulary = load_vocabulary(tmp_path, "brand")
    assert vocabulary.num_rows == 1
    assert vocabulary.encode(pa.array(["a", None])).to_pylist() == [0, 0]


def test_digest_tells_values_order_and_feature_apart(tmp_path):
    feature = FeatureSettings(name="item_id", dtype="int64")
    digests = set()
    for number, pairs in enumerate([((1, 1), (23, 2)), ((12, 1), (3, 2)), ((23, 1), (1, 2))]):
        root = tmp_path / str(number)
        root.mkdir()
        built(root, feature, seen(*pairs, dtype=pa.int64()), CONTENTS)
        digests.add(load_vocabulary(root, "item_id").digest)
    other = FeatureSettings(name="other_id", dtype="int64")
    built(root, other, seen(*pairs, dtype=pa.int64()), CONTENTS)
    digests.add(load_vocabulary(root, "other_id").digest)
    assert len(digests) == 4


def test_sizes_of_features_whose_ids_are_rows(tmp_path):
    feature = FeatureSettings(name="item_id", dtype="int64", num_rows=50)
    assert table_sizes(tmp_path, [feature]) == {"item_id": (50, "rows-50")}


def test_absent_or_broken_vocabulary(tmp_path):
    with pytest.raises(VocabularyError, match="'brand'; run prepare"):
        load_vocabulary(tmp_path, "brand")
    with pytest.raises(VocabularyError, match="'brand'; run prepare"):
        table_sizes(tmp_path, [FEATURE])
    manifest = built(tmp_path, FEATURE, seen(*OCCURRENCES), CONTENTS)
    (vocabulary_folder(tmp_path, "brand") / manifest.files[0].name).unlink()
    with pytest.raises(HalfWrittenDayError):
        load_vocabulary(tmp_path, "brand")
