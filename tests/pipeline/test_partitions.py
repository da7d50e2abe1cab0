from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorruptFileError, DigestError, HalfWrittenDayError, MissingDayError
from pipeline.partitions import (
    Contents,
    day_folder,
    days_between,
    file_paths,
    find_manifest,
    publish,
    read_manifest,
    verify_files,
)

SCHEMA = pa.schema([pa.field("number", pa.int64(), nullable=False)])
CONTENTS = Contents(kind="requests", day=date(2024, 5, 1), counts={"requests": 10})


def batches(*sizes):
    start = 0
    for size in sizes:
        yield pa.record_batch({"number": pa.array(range(start, start + size))})
        start += size


def numbers(folder):
    paths = file_paths(folder, read_manifest(folder))
    return [number for path in paths for number in pq.read_table(path)["number"].to_pylist()]


def test_days_between_has_both_ends():
    days = days_between(date(2024, 2, 28), date(2024, 3, 1))
    assert days == [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]


def test_day_folder(tmp_path):
    assert day_folder(tmp_path, "events", date(2024, 5, 1)) == tmp_path / "events/day=2024-05-01"


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
