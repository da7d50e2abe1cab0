"""Reading published days: what comes out is what was written, on any world size, from any step."""

import itertools
import threading
import weakref
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import pipeline.row_groups
from pipeline.decode import SequenceDecoder
from pipeline.errors import (
    ConfigError,
    CorruptFileError,
    DigestError,
    MissingDayError,
    SchemaError,
    VocabularyError,
)
from pipeline.partitions import Contents, day_folder, days_between, publish, read_manifest
from pipeline.reader import Reader, ReaderSettings, Requests, Sequences
from pipeline.row_groups import RowGroupFiles, RowGroups
from pipeline.schema import FeatureSettings, requests_schema, sequences_schema

FEATURES = [
    FeatureSettings(name="item_id"),
    FeatureSettings(name="department"),
    FeatureSettings(name="store_id", role="context"),
]
DAYS = days_between(date(2024, 3, 1), date(2024, 3, 3))
ROWS_OF_DAY = [23, 0, 34]
NUM_ROWS = sum(ROWS_OF_DAY)
VOCABULARIES = {"item_id": "aaaa", "department": "bbbb", "store_id": "cccc"}


def history(row):
    return [1000 * row + position for position in range(row % 5)]


def candidates(row):
    return [1000 * row + 500 + position for position in range(1 + row % 3)]


def labels(row):
    return [None if (row + position) % 4 == 0 else row % 2 for position in range(1 + row % 3)]


def request(row):
    return {
        "request_id": str(row),
        "user_id": "",
        "request_time": 0,
        "history_time": [0] * len(history(row)),
        "history_item_id": history(row),
        "history_department": [value % 7 for value in history(row)],
        "candidate_item_id": candidates(row),
        "candidate_department": [value % 7 for value in candidates(row)],
        "label_ctr": labels(row),
        "store_id": row % 3,
    }


def sequence(row):
    tokens = candidates(row)
    none = [None] * len(tokens)
    return {
        "user_id": "",
        "event_time": none,
        "action": none,
        "item_id": tokens,
        "department": [value % 7 for value in tokens],
    }


KINDS = {
    "requests": (request, requests_schema(FEATURES, ["ctr"])),
    "sequences": (sequence, sequences_schema(FEATURES)),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three days in row groups of 8, the second without rows; row n of the data set is row n."""
    folder = tmp_path_factory.mktemp("data")
    for kind, (make, schema) in KINDS.items():
        write_days(folder, kind, make, schema)
    return folder


def write_days(folder, kind, make, schema):
    row = itertools.count()
    for day, num_rows in zip(DAYS, ROWS_OF_DAY, strict=True):
        rows = [make(next(row)) for _ in range(num_rows)]
        table = pa.Table.from_pylist(rows, schema=schema)
        contents = Contents(kind=kind, day=day, vocabularies=VOCABULARIES)
        publish(day_folder(folder, kind, day), contents, schema, table.to_batches(), 8)


def reader(root, kind="requests", *, shuffle=True, rank=0, world_size=1, **settings):
    of = {
        "root": root,
        "days": settings.pop("days", DAYS),
        "features": settings.pop("features", FEATURES),
        "vocabularies": settings.pop("vocabularies", VOCABULARIES),
    }
    task = settings.pop("task", "ctr")
    examples: Any = Requests(task=task, **of) if kind == "requests" else Sequences(**of)
    options = ReaderSettings(**{"batch_size": 8, "lanes": 4, "prefetch": 0, "seed": 1, **settings})
    return Reader(examples, options, shuffle=shuffle, rank=rank, world_size=world_size)


def counted_rows(batch):
    """Row ids that are not a filler's: fillers come alone, with no weight at all."""
    if len(batch.row_ids) == 1 and batch.num_samples == 0 and batch.row_ids[0] == 0:
        return []
    return batch.row_ids.tolist()


def steps(root, world_size, *, epoch=0, first_step=0, **options):
    """Sorted rows of each step over all ranks; ranks must agree on the number of steps."""
    ranks = [
        reader(root, rank=rank, world_size=world_size, **options).batches(epoch, first_step)
        for rank in range(world_size)
    ]
    return [
        sorted(itertools.chain.from_iterable(map(counted_rows, batches)))
        for batches in zip(*ranks, strict=True)
    ]


def lists(values, offsets):
    return [part.tolist() for part in torch.tensor_split(values, offsets[1:-1])]


def check_request_batch(batch, keep=None):
    rows = batch.row_ids.tolist()
    kept = [history(row)[-keep:] if keep else history(row) for row in rows]
    assert lists(batch.history["item_id"], batch.history_offsets) == kept
    assert torch.equal(batch.history["department"], batch.history["item_id"] % 7)
    shown = [candidates(row) for row in rows]
    assert lists(batch.candidates["item_id"], batch.candidate_offsets) == shown
    assert torch.equal(batch.candidates["department"], batch.candidates["item_id"] % 7)
    assert batch.context["store_id"].tolist() == [row % 3 for row in rows]
    flat = [label for row in rows for label in labels(row)]
    assert batch.weights.tolist() == [float(label is not None) for label in flat]
    assert batch.labels.tolist() == [float(label or 0) for label in flat]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("keep", [None, 2])
def test_requests_hold_what_was_written(root, shuffle, keep):
    source = reader(root, shuffle=shuffle, max_history=keep)
    batches = list(source.batches(epoch=0))
    assert source.num_rows == NUM_ROWS
    assert len(batches) == source.steps_per_epoch == 8
    for batch in batches:
        check_request_batch(batch, keep)
    assert sorted(row for batch in batches for row in batch.row_ids.tolist()) == [*range(NUM_ROWS)]


def test_sequences_hold_what_was_written(root):
    batches = list(reader(root, "sequences", max_history=1).batches(epoch=0))
    for batch in batches:
        tokens = [candidates(row) for row in batch.row_ids.tolist()]
        assert lists(batch.tokens["item_id"], batch.offsets) == tokens
        assert torch.equal(batch.tokens["department"], batch.tokens["item_id"] % 7)
    assert sum(batch.num_samples for batch in batches) == NUM_ROWS


def test_unshuffled_lanes_go_through_the_files_in_order(root):
    batches = reader(root, shuffle=False, lanes=1).batches(epoch=5)
    assert [row for batch in batches for row in batch.row_ids.tolist()] == [*range(NUM_ROWS)]


def test_epochs_and_seeds_shuffle_differently(root):
    orders = {
        tuple(row for batch in reader(root, seed=seed).batches(epoch) for row in batch.row_ids)
        for seed, epoch in [(1, 0), (1, 1), (2, 0)]
    }
    assert len(orders) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_same_rows_at_any_world_size(root, kind):
    alone = steps(root, 1, kind=kind)
    assert sorted(itertools.chain.from_iterable(alone)) == [*range(NUM_ROWS)]
    for world_size in (2, 3, 4):
        assert steps(root, world_size, kind=kind) == alone


@pytest.mark.parametrize("first_step", range(9))
def test_resume_on_another_world_size(root, first_step):
    whole = steps(root, 2, epoch=1)
    assert steps(root, 3, epoch=1, first_step=first_step) == whole[first_step:]


def test_resume_opens_no_file_of_rows_already_seen(root, monkeypatch):
    opened = []

    class Recorded(pq.ParquetFile):
        def __init__(self, path):
            opened.append(path.parent.name)
            super().__init__(path)

    source = reader(root, shuffle=False, lanes=1)
    monkeypatch.setattr(pipeline.row_groups.pq, "ParquetFile", Recorded)
    next(source.batches(epoch=0, first_step=3))
    assert opened == ["day=2024-03-03"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_without_rows_gets_the_shortest_row_as_filler(root, kind):
    days, num_rows = DAYS[:1], ROWS_OF_DAY[0]
    ranks = [
        list(reader(root, kind, rank=rank, world_size=4, days=days, batch_size=4).batches(0))
        for rank in range(4)
    ]
    # 23 rows on 4 lanes: 5, 6, 6, 6.
    assert [len(batches) for batches in ranks] == [6] * 4
    assert sum(len(batch.row_ids) for batches in ranks for batch in batches) == num_rows + 1
    filler = ranks[0][-1]
    assert filler.num_samples == 0
    assert filler.row_ids.tolist() == [0]
    if kind == "requests":
        assert filler.weights.tolist() == [0.0]
        assert filler.candidates["item_id"].tolist() == candidates(0)


def test_days_without_rows_have_no_steps(root):
    source = reader(root, days=DAYS[1:2])
    assert source.steps_per_epoch == 0
    assert list(source.batches(0)) == []


def test_background_thread_gives_the_same_and_leaves_nothing(root):
    before = threading.active_count()
    expected = list(reader(root).batches(epoch=2))
    batches = reader(root, prefetch=3).batches(epoch=2)
    for batch, same in zip(batches, expected, strict=True):
        assert torch.equal(batch.row_ids, same.row_ids)
        assert torch.equal(batch.labels, same.labels)
    stopped = reader(root, prefetch=3).batches(epoch=2)
    next(stopped)
    assert threading.active_count() == before + 1
    stopped.close()
    assert threading.active_count() == before


def test_one_open_file_is_enough(root, monkeypatch):
    expected = steps(root, 2)
    monkeypatch.setattr(pipeline.row_groups, "MAX_OPEN_FILES", 1)
    assert steps(root, 2) == expected


def test_a_row_group_is_shared_while_it_is_held_and_forgotten_after(root):
    row_groups = RowGroups(root, "sequences", DAYS, VOCABULARIES)
    files = RowGroupFiles(row_groups, SequenceDecoder(FEATURES))
    held = files.read(4)
    assert files.read(4) is held
    gone = weakref.ref(held)
    del held
    assert gone() is None
    files.close()


def test_describe_names_days_files_and_rows(root):
    source = reader(root, shuffle=False)
    first = next(source.batches(0))
    names = [
        read_manifest(day_folder(root, "requests", day)).files[0].name for day in (DAYS[0], DAYS[2])
    ]
    assert first.row_ids.tolist() == [0, 1, 14, 15, 28, 29, 42, 43]
    assert source.describe(first) == (
        f"day=2024-03-01/{names[0]} rows 0-1, 14-15; day=2024-03-03/{names[1]} rows 5-6, 19-20"
    )


def test_describe_is_short(root, monkeypatch):
    monkeypatch.setattr(pipeline.row_groups, "MAX_FILES_SHOWN", 1)
    monkeypatch.setattr(pipeline.row_groups, "MAX_RANGES_SHOWN", 1)
    source = reader(root, shuffle=False)
    text = source.describe(next(source.batches(0)))
    assert text.endswith("rows 0-1, and 2 more up to 15; and 1 more files")


@pytest.mark.parametrize(
    "settings", [{"lanes": 8, "batch_size": 12}, {"lanes": 4, "world_size": 5}]
)
def test_lanes_must_fit_batch_and_ranks(root, settings):
    with pytest.raises(ConfigError, match=r"reader\.lanes"):
        reader(root, **settings)


def test_missing_day(root):
    with pytest.raises(MissingDayError, match="2024-03-04"):
        reader(root, days=[*DAYS, date(2024, 3, 4)])


def test_unknown_task_or_feature_shows_at_once(root):
    with pytest.raises(SchemaError, match=r"part-.*\.parquet: no column label_cvr; .* ctr"):
        reader(root, task="cvr")
    brand = FeatureSettings(name="brand")
    with pytest.raises(SchemaError, match=r"part-.*\.parquet: no column history_brand"):
        reader(root, features=[*FEATURES, brand])


def test_another_vocabulary_names_day_feature_and_digests(root):
    message = r"requests of day 2024-03-01: feature department .* bbbb, but dddd .* prepare again"
    with pytest.raises(VocabularyError, match=message):
        reader(root, vocabularies={**VOCABULARIES, "department": "dddd"})
    with pytest.raises(VocabularyError, match=r"feature brand .* none, but eeee"):
        reader(root, vocabularies={"brand": "eeee"})


@pytest.fixture
def own_root(tmp_path):
    """A data set that a test may break, and its last file."""
    write_days(tmp_path, "requests", *KINDS["requests"])
    folder = day_folder(tmp_path, "requests", DAYS[2])
    return tmp_path, folder / read_manifest(folder).files[0].name


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def scribble(path):
    """Zeros over the pages, with the footer and the size as they were."""
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(2000) + content[2004:])


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("damage", [truncate, scribble, lambda path: path.unlink()])
def test_a_file_damaged_while_training_is_named(own_root, damage, prefetch):
    root, path = own_root
    source = reader(root, prefetch=prefetch)
    damage(path)
    with pytest.raises(CorruptFileError, match=f"{path}: cannot be read"):
        list(source.batches(0))


def test_a_file_with_other_row_groups_than_its_manifest_says(own_root):
    root, path = own_root
    source = reader(root)
    pq.write_table(pq.ParquetFile(path).read(), path, row_group_size=16)
    with pytest.raises(DigestError, match=f"{path}: has 34 rows in 3 row groups"):
        list(source.batches(0))
