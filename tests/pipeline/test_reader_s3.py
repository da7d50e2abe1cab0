"""Reading published days from a store gives what reading them from the disk gives."""

import subprocess
import sys
from datetime import date
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.decode import RankingDecoder
from pipeline.errors import (
    CorruptFileError,
    DataError,
    DigestError,
    HalfWrittenDayError,
    MissingDayError,
)
from pipeline.partitions import day_folder
from pipeline.row_groups import RowGroupFiles, RowGroups
from pipeline.storage import S3Path
from tests.pipeline.reader_days import (
    DAYS,
    FEATURES,
    KINDS,
    LINEAGES,
    NUM_ROWS,
    folders,
    reader,
    same,
    steps,
)

pytest_plugins = ["tests.s3"]


@pytest.fixture(scope="module")
def s3_copy(root, s3_server):
    """The module's days, in the store."""
    return s3_server.copy(root, s3_server.folder("reader"))


@pytest.fixture
def s3_root(s3, s3_copy):
    return s3_copy


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_from_s3_are_those_from_the_disk(root, s3_root, kind, workers, shuffle):
    options: Any = {"shuffle": shuffle, "world_size": 2, "max_history": 3}
    for rank in range(2):
        local = reader(root, kind, rank=rank, **options)
        remote = reader(s3_root, kind, rank=rank, workers=workers, prefetch=2, **options)
        assert (remote.num_rows, remote.steps_per_epoch) == (NUM_ROWS, local.steps_per_epoch)
        assert remote.shuffle_memory_bytes() >= local.shuffle_memory_bytes() > 0
        for batch, other in zip(remote.batches(0), local.batches(0), strict=True):
            assert same(batch, other)
            assert remote.describe(batch) == local.describe(other)


@pytest.mark.parametrize("first_step", [0, 3, 8])
def test_resume_from_s3_on_another_world_size(root, s3_root, first_step):
    whole = steps(root, 2, epoch=1)
    resumed = steps(s3_root, 3, epoch=1, first_step=first_step, workers=1)
    assert resumed == whole[first_step:]


def test_a_row_group_costs_one_request(s3, s3_root):
    source = reader(s3_root, "sequences", shuffle=False, lanes=1, days=DAYS[:1])
    s3.requests.clear()
    assert len(list(source.batches(0))) == 3
    # The file's length and its footer; then both columns of a row group, which lie side by side.
    assert [request.partition(" ")[0] for request in s3.requests] == ["HEAD", *["GET"] * 4]


def test_a_manifest_costs_three_requests(s3, s3_root):
    s3.requests.clear()
    RowGroups(folders(s3_root, "sequences"), LINEAGES)
    assert len(s3.requests) == 3 * len(DAYS)


@pytest.fixture
def own_s3_root(s3, s3_folder, own_root):
    """A data set in the store that a test may break, and its last file there."""
    folder, path = own_root
    s3.copy(folder, s3_folder)
    return s3_folder, s3_folder.joinpath(*path.relative_to(folder).parts)


def test_an_object_missing_or_truncated_before_training(s3, own_s3_root):
    root, path = own_s3_root
    content = s3.read(path)
    s3.write(path, content[:-100])
    with pytest.raises(HalfWrittenDayError, match=f"{path}: has {len(content) - 100} bytes"):
        reader(root)
    s3.remove(path)
    with pytest.raises(HalfWrittenDayError, match=f"{path}: is missing"):
        reader(root)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "scribbled", "removed"])
def test_an_object_damaged_while_training_is_named(s3, own_s3_root, damage, workers):
    root, path = own_s3_root
    source = reader(root, workers=workers)
    content = s3.read(path)
    if damage == "removed":
        s3.remove(path)
    elif damage == "truncated":
        s3.write(path, content[:-100])
    else:
        s3.write(path, content[:4] + bytes(2000) + content[2004:])
    with pytest.raises(CorruptFileError, match=f"{path}: cannot be read"):
        list(source.batches(0))


def test_an_object_that_goes_while_it_is_open_is_named(s3, own_s3_root):
    root, path = own_s3_root
    row_groups = RowGroups(folders(root, "requests"), LINEAGES)
    files = RowGroupFiles(row_groups, RankingDecoder(FEATURES, "ctr"))
    files.read(3)
    s3.remove(path)
    with pytest.raises(DataError, match=f"{path}: it is not there any more"):
        files.read(4)
    files.close()


def test_an_object_with_other_row_groups_than_its_manifest_says(s3, own_s3_root, own_root):
    root, path = own_s3_root
    source = reader(root)
    _, local = own_root
    pq.write_table(pq.ParquetFile(local).read(), local, row_group_size=16)
    s3.write(path, local.read_bytes())
    with pytest.raises(DigestError, match=f"{path}: has 34 rows in 3 row groups"):
        list(source.batches(0))


def test_a_day_half_uploaded_or_missing(s3, own_s3_root):
    root, _ = own_s3_root
    with pytest.raises(MissingDayError, match=f"{root}/requests/day=2024-03-04: no such folder"):
        reader(root, days=[*DAYS, date(2024, 3, 4)])
    folder = day_folder(root, "requests", DAYS[2])
    s3.remove(folder / "manifest.json")
    with pytest.raises(HalfWrittenDayError, match=f"{folder}: no manifest"):
        reader(root)


def test_a_store_that_closes_its_doors_while_training(s3, s3_root, monkeypatch):
    source = reader(s3_root)
    batches = source.batches(0)
    next(batches)
    s3.deny(monkeypatch)
    with pytest.raises(DataError, match=r"s3://days/.*\.parquet: access is denied; check the AWS"):
        list(batches)
    with pytest.raises(DataError, match=r"s3://days/.*: access is denied; check the AWS"):
        reader(s3_root)


def test_no_such_bucket(s3):
    root = S3Path("nowhere", "days")
    with pytest.raises(DataError, match=f"{root}/requests/.*: there is no such bucket; check"):
        reader(root)


PROGRAM = """
import sys
from datetime import date
from pipeline.reader import Reader, ReaderSettings, Sequences
from pipeline.schema import FeatureSettings
from pipeline.storage import location_of

features = [FeatureSettings(name="item_id"), FeatureSettings(name="department")]
days = [date(2024, 3, 1), date(2024, 3, 3)]
examples = Sequences(root=location_of(sys.argv[1]), days=days, features=features)
settings = ReaderSettings(batch_size=4, lanes=2, workers=2, prefetch=2)
batches = Reader(examples, settings, shuffle=True).batches(0)
print(len(next(batches).row_ids))
"""


@pytest.mark.integration
def test_a_program_that_ends_while_it_reads_ends_well(s3, s3_root, monkeypatch):
    """With threads that are still inside Arrow, on their way to the store."""
    monkeypatch.setattr(s3, "delay_s", 0.05)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(s3_root)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("4\n", "")
