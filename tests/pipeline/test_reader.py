"""Reading published days: what comes out is what was written, on any world size, from any step."""

import itertools
import weakref
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import pipeline.reader
import pipeline.row_groups
import pipeline.storage
from pipeline.decode import SequenceDecoder
from pipeline.errors import (
    ConfigError,
    CorruptFileError,
    DigestError,
    MissingDayError,
    SchemaError,
    VocabularyError,
)
from pipeline.partitions import Contents, day_folder, publish, read_manifest
from pipeline.read_ahead import worker_of_lane
from pipeline.row_groups import RowGroupFiles, RowGroups
from pipeline.schema import FeatureSettings
from tests.pipeline.reader_days import (
    DAYS,
    FEATURES,
    KINDS,
    LINEAGES,
    NUM_ROWS,
    ROWS_OF_DAY,
    VOCABULARIES,
    candidates,
    folders,
    history,
    labels,
    reader,
    same,
    steps,
)


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
    monkeypatch.setattr(pipeline.storage.pq, "ParquetFile", Recorded)
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


def test_background_thread_gives_the_same_and_leaves_nothing(root, new_threads):
    expected = list(reader(root).batches(epoch=2))
    batches = reader(root, prefetch=3).batches(epoch=2)
    for batch, other in zip(batches, expected, strict=True):
        assert torch.equal(batch.row_ids, other.row_ids)
        assert torch.equal(batch.labels, other.labels)
    stopped = reader(root, prefetch=3).batches(epoch=2)
    next(stopped)
    assert len(new_threads()) == 1
    stopped.close()
    assert not new_threads()


def test_one_open_file_is_enough(root, monkeypatch):
    expected = steps(root, 2)
    monkeypatch.setattr(pipeline.row_groups, "MAX_OPEN_FILES", 1)
    assert steps(root, 2) == expected


def test_a_row_group_is_shared_while_it_is_held_and_forgotten_after(root):
    row_groups = RowGroups(folders(root, "sequences"), LINEAGES)
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
    message = r"requests/day=2024-03-01: feature department .* bbbb, .* prepare again"
    with pytest.raises(VocabularyError, match=message):
        reader(root, vocabularies={**LINEAGES, "department": {"dddd"}})
    with pytest.raises(VocabularyError, match=r"feature brand .* none, "):
        reader(root, vocabularies={"brand": {"eeee"}})


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


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_ahead_changes_no_batch(root, kind, workers):
    options: Any = {"world_size": 2, "rank": 1, "max_history": 3}
    expected = list(reader(root, kind, **options).batches(1, first_step=2))
    ahead = reader(root, kind, workers=workers, prefetch=2, **options).batches(1, first_step=2)
    assert all(same(batch, other) for batch, other in zip(ahead, expected, strict=True))


@pytest.mark.parametrize(
    ("lanes", "workers", "expected"),
    [(1, 1, [0]), (4, 1, [0, 0, 0, 0]), (5, 2, [0, 1, 0, 1, 0]), (3, 4, [0, 1, 2])],
)
def test_lanes_are_shared_out_among_workers(lanes, workers, expected):
    assert [worker_of_lane(index, workers) for index in range(lanes)] == expected


def test_readers_ahead_end_with_the_batches(root, new_threads):
    batches = reader(root, workers=2).batches(0)
    next(batches)
    assert len(new_threads()) == 2
    batches.close()
    assert not new_threads()


@pytest.mark.parametrize("damage", [truncate, scribble])
def test_a_damaged_file_is_named_by_who_reads_ahead(own_root, damage):
    root, path = own_root
    source = reader(root, workers=2)
    damage(path)
    with pytest.raises(CorruptFileError, match=f"{path}: cannot be read"):
        list(source.batches(0))


class Held:
    """Watches the decoded row groups, and the orders of their rows, that live at one time."""

    def __init__(self, monkeypatch):
        self.most_bytes = self.most_arrow_bytes = 0
        self._alive = []
        self._arrow_before = pa.total_allocated_bytes()
        read, permute = RowGroupFiles.read, pipeline.reader.row_permutation
        monkeypatch.setattr(RowGroupFiles, "read", lambda *args: self._watch(read(*args)))
        monkeypatch.setattr(
            pipeline.reader, "row_permutation", lambda *args: self._watch(permute(*args))
        )

    def _watch(self, new):
        if all(reference() is not new for reference in self._alive):
            self._alive.append(weakref.ref(new))
        alive = [thing for reference in self._alive if (thing := reference()) is not None]
        self.most_bytes = max(self.most_bytes, sum(map(num_bytes, alive)))
        arrow_bytes = pa.total_allocated_bytes() - self._arrow_before
        self.most_arrow_bytes = max(self.most_arrow_bytes, arrow_bytes)
        return new


def num_bytes(held):
    if isinstance(held, np.ndarray):
        return held.nbytes
    arrays = [*held.scalars.values()]
    for group in held.lists:
        arrays += [group.offsets, *group.values.values()]
    return sum(array.nbytes for array in arrays)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_shuffling_keeps_within_the_memory_it_states(tmp_path, monkeypatch, kind, workers):
    make, schema = KINDS[kind]
    rows = [make(4 + 15 * (row % 7)) for row in range(16 * 640)]
    batches = pa.Table.from_pylist(rows, schema=schema).to_batches()
    contents = Contents(kind=kind, day=DAYS[0], vocabularies=VOCABULARIES)
    publish(day_folder(tmp_path, kind, DAYS[0]), contents, schema, batches, 640)
    # 4 lanes of 4 row groups each, which all go on to their next in the middle of one step.
    source = reader(tmp_path, kind, days=DAYS[:1], batch_size=36, workers=workers)
    stated_bytes = source.shuffle_memory_bytes()
    held = Held(monkeypatch)
    for _ in source.batches(0):
        pass
    assert held.most_bytes <= stated_bytes
    if not workers:
        # Not more than is needed; and Arrow, which has most of it, kept nothing else.
        assert held.most_bytes > 0.8 * stated_bytes
        assert held.most_arrow_bytes <= stated_bytes


def test_a_rank_of_many_states_less_memory(root):
    alone, one_of_two = (reader(root, world_size=size).shuffle_memory_bytes() for size in (1, 2))
    assert one_of_two < alone
    assert reader(root, days=DAYS[1:2]).shuffle_memory_bytes() == 0
