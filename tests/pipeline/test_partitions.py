from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import partitions
from pipeline.errors import (
    CorruptFileError,
    DataError,
    DigestError,
    HalfWrittenDayError,
    MissingDayError,
)
from pipeline.partitions import (
    Contents,
    day_folder,
    days_between,
    file_paths,
    find_manifest,
    publish,
    read_manifest,
    upload_folder,
    verify_files,
)
from pipeline.storage import S3Path, read_table

pytest_plugins = ["tests.s3"]

SCHEMA = pa.schema([pa.field("number", pa.int64(), nullable=False)])
CONTENTS = Contents(kind="requests", day=date(2024, 5, 1), counts={"requests": 10})


def batches(*sizes):
    start = 0
    for size in sizes:
        yield pa.record_batch({"number": pa.array(range(start, start + size))})
        start += size


def numbers(folder):
    paths = file_paths(folder, read_manifest(folder))
    return [
        number for path in paths for number in read_table([path], ["number"])["number"].to_pylist()
    ]


def test_days_between_has_both_ends():
    days = days_between(date(2024, 2, 28), date(2024, 3, 1))
    assert days == [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]


def test_day_folder(tmp_path):
    day = date(2024, 5, 1)
    assert day_folder(tmp_path, "events", day) == tmp_path / "events/day=2024-05-01"
    assert str(day_folder(S3Path("b", "a"), "events", day)) == "s3://b/a/events/day=2024-05-01"


@pytest.mark.parametrize("sizes", [(10,), (1, 2, 3, 4), (7, 3), (4, 4, 2), (0, 10)])
def test_row_groups_do_not_depend_on_how_rows_arrive(tmp_path, sizes):
    manifest = publish(tmp_path, CONTENTS, SCHEMA, batches(*sizes), row_group_rows=4)
    (entry,) = manifest.files
    assert entry.row_group_rows == (4, 4, 2)
    metadata = pq.read_metadata(tmp_path / entry.name)
    groups = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    assert groups == [4, 4, 2]
    assert numbers(tmp_path) == list(range(10))
    assert read_manifest(tmp_path) == manifest
    assert manifest.counts == {"requests": 10}
    verify_files(tmp_path, manifest)


def test_many_row_groups_are_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.partitions.ROW_GROUPS_PER_FILE", 2)
    manifest = publish(tmp_path, CONTENTS, SCHEMA, batches(10), row_group_rows=2)
    assert [entry.num_rows for entry in manifest.files] == [4, 4, 2]
    assert numbers(tmp_path) == list(range(10))


def test_numbers_are_packed_and_texts_have_dictionaries(tmp_path):
    """In fewer bytes than plain values would take, and the same when they are read."""
    times = pa.array(range(10**15, 10**15 + 4096), pa.timestamp("us", tz="UTC"))
    columns = {
        "text": pa.array(["a", "b"] * 2048),
        "time": times,
        "day": times.cast(pa.date32()),
        "rows": pa.array([[number % 7, None] for number in range(4096)], pa.list_(pa.int64())),
        "times": pa.ListArray.from_arrays(pa.array(range(4097), pa.int32()), times),
        "texts": pa.array([["x"]] * 4096),
        "label": pa.array([[1]] * 4096, pa.list_(pa.int8())),
        "share": pa.array([0.5] * 4096),
    }
    table = pa.table(columns)
    (entry,) = publish(tmp_path, CONTENTS, table.schema, table.to_batches(), 4096).files
    path = tmp_path / entry.name
    assert pq.read_table(path).equals(table)
    group = pq.read_metadata(path).row_group(0)
    found = [group.column(number) for number in range(group.num_columns)]
    used = {column.path_in_schema.partition(".")[0]: set(column.encodings) for column in found}
    packed = {name for name, encodings in used.items() if "DELTA_BINARY_PACKED" in encodings}
    assert packed == {"time", "day", "rows", "times", "label"}
    assert [name for name, encodings in used.items() if "RLE_DICTIONARY" in encodings] == ["text"]


def test_a_day_without_rows_is_published_without_files(tmp_path):
    manifest = publish(tmp_path, CONTENTS, SCHEMA, ())
    assert (manifest.num_rows, manifest.files) == (0, ())
    assert read_manifest(tmp_path) == manifest


def test_equal_content_has_equal_names_and_leaves_no_other_file(tmp_path):
    first = publish(tmp_path, CONTENTS, SCHEMA, batches(3))
    (tmp_path / ".writing-00000").write_text("left by a killed run")
    assert publish(tmp_path, CONTENTS, SCHEMA, batches(3)) == first
    second = publish(tmp_path, CONTENTS, SCHEMA, batches(5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", second.files[0].name]
    assert second.content_digest != first.content_digest


def test_a_build_that_breaks_off_leaves_the_last_one_readable(tmp_path):
    def broken():
        yield from batches(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, CONTENTS, SCHEMA, broken())
    with pytest.raises(HalfWrittenDayError, match="never whole"):
        read_manifest(tmp_path)
    before = publish(tmp_path, CONTENTS, SCHEMA, batches(3))
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, CONTENTS, SCHEMA, broken())
    assert read_manifest(tmp_path) == before
    assert numbers(tmp_path) == [0, 1, 2]


def test_what_is_not_whole_has_its_own_error(tmp_path):
    with pytest.raises(MissingDayError, match="run `prepare`"):
        read_manifest(tmp_path / "day=2024-05-01")
    manifest = publish(tmp_path, CONTENTS, SCHEMA, batches(3))
    path = tmp_path / manifest.files[0].name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(HalfWrittenDayError, match=path.name):
        read_manifest(tmp_path)
    path.unlink()
    with pytest.raises(HalfWrittenDayError, match="is missing"):
        read_manifest(tmp_path)
    assert find_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_changed_bytes_are_found_by_digest(tmp_path):
    manifest = publish(tmp_path, CONTENTS, SCHEMA, batches(3))
    path = tmp_path / manifest.files[0].name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigestError, match=path.name):
        verify_files(tmp_path, read_manifest(tmp_path))


def test_same_build_looks_at_inputs_settings_and_code(tmp_path):
    manifest = publish(tmp_path, CONTENTS, SCHEMA, batches(3))
    assert manifest.same_build(CONTENTS.model_copy(update={"counts": {}}))
    for name in ("input_digest", "config_digest", "code_version"):
        assert not manifest.same_build(CONTENTS.model_copy(update={name: "other"}))


def test_publishing_to_a_store_is_as_to_the_disk(s3, s3_folder, tmp_path):
    local = publish(tmp_path / "day", CONTENTS, SCHEMA, batches(10), row_group_rows=4)
    s3.requests.clear()
    assert publish(s3_folder, CONTENTS, SCHEMA, batches(10), row_group_rows=4) == local
    puts = [request for request in s3.requests if request.startswith("P")]
    names = (local.files[0].name, "manifest.json")
    assert puts == [f"PUT /{(s3_folder / name).arrow_path}" for name in names]
    assert read_manifest(s3_folder) == local
    assert numbers(s3_folder) == list(range(10))
    verify_files(s3_folder, local)
    assert s3.read(s3_folder / "manifest.json") == (tmp_path / "day/manifest.json").read_bytes()


def test_a_folder_in_a_store_is_replaced_in_one_step(s3, s3_folder):
    publish(s3_folder, CONTENTS, SCHEMA, batches(3))
    s3.write(s3_folder / "part-00000-left.parquet", b"left by a killed run")
    second = publish(s3_folder, CONTENTS, SCHEMA, batches(5))
    assert sorted(s3.keys(s3_folder)) == ["manifest.json", second.files[0].name]
    assert numbers(s3_folder) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_done", [0, 1, 3])
@pytest.mark.parametrize("is_new", [True, False])
def test_an_upload_that_breaks_off_is_invisible_and_goes_on(
    s3, s3_folder, tmp_path, monkeypatch, num_done, is_new
):
    upload_file = partitions.upload_file
    before = None if is_new else publish(s3_folder, CONTENTS, SCHEMA, batches(2))
    monkeypatch.setattr(partitions, "ROW_GROUPS_PER_FILE", 1)
    after = publish(tmp_path, CONTENTS, SCHEMA, batches(9), row_group_rows=3)
    done = []

    def killed(source, target):
        if len(done) == num_done:
            raise KeyboardInterrupt
        done.append(target.name)
        upload_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(partitions, "upload_file", killed)
        with pytest.raises(KeyboardInterrupt):
            upload_folder(tmp_path, s3_folder)
    names = [entry.name for entry in after.files]
    assert done == names[:num_done]
    assert find_manifest(s3_folder) == before
    s3.requests.clear()
    assert upload_folder(tmp_path, s3_folder) == read_manifest(s3_folder) == after
    # What had arrived is not sent again.
    puts = [request.rpartition("/")[2] for request in s3.requests if request.startswith("PUT")]
    assert [name for name in puts if name] == [*names[num_done:], "manifest.json"]
    assert sorted(s3.keys(s3_folder)) == ["manifest.json", *names]


def test_what_is_damaged_here_is_not_uploaded(s3, s3_folder, tmp_path):
    manifest = publish(tmp_path, CONTENTS, SCHEMA, batches(3))
    path = tmp_path / manifest.files[0].name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigestError, match=path.name):
        upload_folder(tmp_path, s3_folder)
    assert s3.keys(s3_folder) == {}


def test_what_is_not_whole_in_a_store_has_its_own_error(s3, s3_folder):
    with pytest.raises(MissingDayError, match=f"{s3_folder}: no such folder"):
        read_manifest(s3_folder)
    manifest = publish(s3_folder, CONTENTS, SCHEMA, batches(3))
    path = s3_folder / manifest.files[0].name
    content = bytearray(s3.read(path))
    content[len(content) // 2] ^= 1
    s3.write(path, content)
    with pytest.raises(DigestError, match=f"{path}: sha256 is"):
        verify_files(s3_folder, read_manifest(s3_folder))
    s3.write(path, content[:-1])
    with pytest.raises(HalfWrittenDayError, match=f"{path}: has"):
        read_manifest(s3_folder)
    s3.remove(path)
    with pytest.raises(HalfWrittenDayError, match=f"{path}: is missing"):
        read_manifest(s3_folder)
    s3.write(s3_folder / "manifest.json", b"{}")
    with pytest.raises(CorruptFileError, match=f"{s3_folder}/manifest.json: not a manifest"):
        read_manifest(s3_folder)
    s3.remove(s3_folder / "manifest.json")
    with pytest.raises(HalfWrittenDayError, match=f"{s3_folder}: no manifest"):
        read_manifest(s3_folder)


def test_a_store_that_refuses_is_not_taken_for_an_empty_one(s3, s3_folder, monkeypatch):
    publish(s3_folder, CONTENTS, SCHEMA, batches(3))
    s3.deny(monkeypatch)
    with pytest.raises(DataError, match=f"{s3_folder}/manifest.json: access is denied"):
        find_manifest(s3_folder)
