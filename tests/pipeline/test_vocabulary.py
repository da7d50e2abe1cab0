import itertools
from datetime import date

import pyarrow as pa
import pytest

from pipeline.engine import open_engine
from pipeline.errors import HalfWrittenDayError, VocabularyError
from pipeline.partitions import Contents, read_manifest
from pipeline.schema import FeatureSettings
from pipeline.vocabulary import (
    load_vocabulary,
    table_capacity,
    table_sizes,
    vocabulary_folder,
    vocabulary_lineage,
)
from pipeline.vocabulary_growth import (
    grow_vocabulary,
    hashed_rows,
    pending_folder,
    publish_vocabulary,
    read_vocabulary,
)
from tests.pipeline.reference_events import hashed_row

FEATURE = FeatureSettings(name="brand")
RARE = FeatureSettings(name="brand", min_count=2)
NUMBERS = FeatureSettings(name="item_id", dtype="int64")
# Values of day 1, of day 2 and so on.
LOG = (["z", None], ["b", "a", "b"], [], ["a", "new"], ["z", "new", "y", None])


def may(day):
    return date(2024, 5, day)


LAST = may(len(LOG))


@pytest.fixture
def engine(tmp_path):
    with open_engine(tmp_path) as engine:
        yield engine


def seen(engine, feature, log, days):
    dtype = pa.int64() if feature.dtype == "int64" else pa.string()
    rows = [(value, may(day)) for day in days for value in log[day - 1]]
    values, dates = ([row[number] for row in rows] for number in (0, 1))
    return engine.in_memory(
        pa.table({"value": pa.array(values, dtype), "day": pa.array(dates, pa.date32())})
    )


def grow(engine, root, feature, log, blocks):
    """Grow and publish a vocabulary, block of days after block; returns what it ends as."""
    before = None
    for days in blocks:
        occurrences = seen(engine, feature, log, days)
        grown = grow_vocabulary(
            engine, root, feature, before, occurrences, [may(day) for day in days]
        )
        before = may(days[-1])
        publish_vocabulary(engine, root, grown, Contents(kind="vocabulary", day=before))
    return grown


def test_rows_follow_first_day_then_value(engine, tmp_path):
    grow(engine, tmp_path, FEATURE, LOG, [[1, 2, 3, 4, 5]])
    vocabulary = load_vocabulary(tmp_path, "brand", LAST)
    assert vocabulary.values.to_pylist() == ["z", "a", "b", "new", "y"]
    assert vocabulary.num_rows == 6
    assert table_sizes(tmp_path, [FEATURE], LAST) == {"brand": (6, vocabulary.digest)}


@pytest.mark.parametrize("feature", [FEATURE, RARE])
def test_a_value_gets_its_row_on_the_day_it_was_seen_often_enough(engine, tmp_path, feature):
    grown = grow(engine, tmp_path, feature, LOG, [[1, 2, 3, 4, 5]])
    found = {row["value"]: (row["row"], row["day"].day) for row in engine.rows_of(grown.values)}
    if feature.min_count == 1:
        assert found == {"z": (1, 1), "a": (2, 2), "b": (3, 2), "new": (4, 4), "y": (5, 5)}
    else:
        assert found == {"b": (1, 2), "a": (2, 4), "new": (3, 5), "z": (4, 5)}
        assert engine.rows_of(grown.pending) == [{"value": "y", "count": 1}]
    rows = [grown.by(may(day))[0] for day in range(1, 6)]
    assert rows == ([2, 4, 4, 5, 6] if feature.min_count == 1 else [1, 2, 2, 3, 5])


@pytest.mark.parametrize("feature", [FEATURE, RARE, NUMBERS])
@pytest.mark.parametrize(
    "blocks", [[[1], [2], [3], [4], [5]], [[1, 2, 3], [4, 5]], [[1], [2, 3, 4, 5]]]
)
def test_however_days_are_divided_the_rows_and_digests_are_the_same(
    engine, tmp_path, feature, blocks
):
    names = {"z": 70, "b": 8, "a": 9, "new": 1000, "y": 3, None: None}
    log = LOG if feature.dtype == "string" else [[names[v] for v in values] for values in LOG]
    whole = grow(engine, tmp_path / "whole", feature, log, [[1, 2, 3, 4, 5]])
    parts = grow(engine, tmp_path / "parts", feature, log, blocks)
    assert parts.last_digest == whole.last_digest
    assert [parts.by(may(day)) for day in blocks[-1]] == [whole.by(may(day)) for day in blocks[-1]]
    manifests = []
    for root in (tmp_path / "whole", tmp_path / "parts"):
        manifests.append(read_manifest(vocabulary_folder(root, feature.name, LAST)))
        if feature.min_count > 1:
            pending = read_manifest(pending_folder(root, feature.name, LAST))
            manifests[-1] = (manifests[-1], pending.content_digest)
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("feature", [FEATURE, RARE])
def test_an_older_vocabulary_is_the_beginning_of_a_newer_one(engine, tmp_path, feature):
    grow(engine, tmp_path, feature, LOG, [[1], [2], [3], [4], [5]])
    vocabularies = [load_vocabulary(tmp_path, "brand", may(day)) for day in range(1, 6)]
    lineages = [vocabulary_lineage(tmp_path, feature, may(day)) for day in range(1, 6)]
    for older, newer in itertools.pairwise(vocabularies):
        assert newer.values.to_pylist()[: len(older.values)] == older.values.to_pylist()
    for number, lineage in enumerate(lineages):
        assert {vocabulary.digest for vocabulary in vocabularies[: number + 1]} <= lineage
        later = {vocabulary.digest for vocabulary in vocabularies[number + 1 :]}
        assert not (later - {vocabularies[number].digest}) & lineage
    # Nothing was new on day 3.
    assert vocabularies[2].digest == vocabularies[1].digest
    assert len({vocabulary.digest for vocabulary in vocabularies}) > 2


def test_a_published_vocabulary_is_read_as_it_was(engine, tmp_path):
    grown = grow(engine, tmp_path, RARE, LOG, [[1, 2, 3], [4, 5]])
    again = read_vocabulary(engine, tmp_path, RARE, LAST)
    assert sorted(map(str, engine.rows_of(again.values))) == sorted(
        map(str, engine.rows_of(grown.values))
    )
    assert again.last_digest == grown.last_digest
    assert again.by(may(5)) == grown.by(may(5))


def test_encode_gives_row_0_to_null_and_unseen(engine, tmp_path):
    grow(engine, tmp_path, FEATURE, LOG, [[1, 2, 3, 4, 5]])
    vocabulary = load_vocabulary(tmp_path, "brand", LAST)
    values = ["new", None, "never", "z"]
    assert vocabulary.encode(pa.array(values)).to_pylist() == [4, 0, 0, 1]
    chunks = pa.chunked_array([pa.array(values[:1]), pa.array(values[1:])])
    assert vocabulary.encode(chunks).to_pylist() == [4, 0, 0, 1]


def test_no_value_at_all_leaves_row_0(engine, tmp_path):
    grow(engine, tmp_path, FEATURE, [[None]], [[1]])
    vocabulary = load_vocabulary(tmp_path, "brand", may(1))
    assert vocabulary.num_rows == 1
    assert vocabulary.encode(pa.array(["a", None])).to_pylist() == [0, 0]


@pytest.mark.parametrize("pairs", [[["ab", "c"], ["a", "bc"]], [["a"], ["a", ""]]])
def test_digests_tell_texts_apart(engine, tmp_path, pairs):
    digests = {
        grow(engine, tmp_path / str(number), FEATURE, [values], [[1]]).last_digest
        for number, values in enumerate(pairs)
    }
    assert len(digests) == 2


def test_digests_tell_numbers_order_and_feature_apart(engine, tmp_path):
    other = FeatureSettings(name="other_id", dtype="int64")
    cases = [
        (NUMBERS, [[1], [23]]),
        (NUMBERS, [[12], [3]]),
        (NUMBERS, [[23], [1]]),
        (NUMBERS, [[1, 23], []]),
        (other, [[1], [23]]),
    ]
    digests = {
        grow(engine, tmp_path / str(number), feature, log, [[1, 2]]).last_digest
        for number, (feature, log) in enumerate(cases)
    }
    assert len(digests) == len(cases)


def test_features_whose_ids_are_rows_or_hashes_have_no_vocabulary(tmp_path):
    rows = FeatureSettings(name="item_id", dtype="int64", num_rows=50)
    hashes = FeatureSettings(name="word", hash_rows=1000)
    assert table_sizes(tmp_path, [rows, hashes], LAST) == {
        "item_id": (50, "rows-50"),
        "word": (1000, "hashed-1000"),
    }
    assert vocabulary_lineage(tmp_path, hashes, LAST) == {"hashed-1000"}


@pytest.mark.parametrize(
    ("num_rows", "headroom", "capacity"),
    [(5, 0.0, 5), (5, 0.5, 64), (64, 0.5, 64), (65, 0.5, 96), (97, 0.5, 144), (65, 0.01, 65)],
)
def test_a_table_has_room_for_its_vocabulary_to_grow(num_rows, headroom, capacity):
    assert table_capacity(num_rows, headroom) == capacity


def test_hashed_rows_are_in_range_and_the_same_anywhere(engine):
    feature = FeatureSettings(name="word", hash_rows=20)
    words = [f"word {number}" for number in range(500)]
    events = engine.in_memory(pa.table({"word": [*words, *words[:5], None]}))
    found = {row["value"]: row["row"] for row in engine.rows_of(hashed_rows(feature, events))}
    assert found == {word: hashed_row(feature, word) for word in words}
    # Row 0 is for null alone; all others are used.
    assert set(found.values()) == set(range(1, 20))


def test_absent_or_broken_vocabulary(engine, tmp_path):
    with pytest.raises(VocabularyError, match="'brand'; run prepare"):
        load_vocabulary(tmp_path, "brand", LAST)
    with pytest.raises(VocabularyError, match="'brand'; run prepare"):
        table_sizes(tmp_path, [FEATURE], LAST)
    grow(engine, tmp_path, FEATURE, LOG, [[1, 2, 3, 4, 5]])
    folder = vocabulary_folder(tmp_path, "brand", LAST)
    manifest = read_manifest(folder)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(manifest.vocabularies["brand"], "0" * 16))
    with pytest.raises(VocabularyError, match="do not match the digest 0000000000000000"):
        load_vocabulary(tmp_path, "brand", LAST)
    (folder / manifest.files[0].name).unlink()
    with pytest.raises(HalfWrittenDayError):
        load_vocabulary(tmp_path, "brand", LAST)
