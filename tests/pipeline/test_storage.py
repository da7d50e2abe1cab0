"""Local paths and a real S3 server behind one interface, and what is said when a store refuses."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.storage import (
    S3Path,
    file_sizes,
    joined,
    location_of,
    open_parquet,
    read_bytes,
    read_table,
    remove_file,
    sha256_of,
    upload_file,
)

pytest_plugins = ["tests.s3"]

TABLE = pa.table({"number": [1, 2, 3], "name": ["a", "b", "c"]})


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://bucket/a/b", S3Path("bucket", "a/b")),
        ("s3://bucket/a/", S3Path("bucket", "a")),
        ("s3://bucket", S3Path("bucket")),
        ("data/days", Path("data/days")),
        (Path("data"), Path("data")),
        (S3Path("bucket", "a"), S3Path("bucket", "a")),
    ],
)
def test_location_of(place, expected):
    assert location_of(place) == expected


@pytest.mark.parametrize("place", ["s3://", "s3:///key", "gs://bucket/key", "http://host/key"])
def test_what_is_no_location(place):
    with pytest.raises(ConfigError, match=f"{place}: expected a local path or s3://bucket/prefix"):
        location_of(place)


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        (S3Path("bucket") / "a", "s3://bucket/a", "a"),
        (S3Path("bucket", "a") / "b" / "c", "s3://bucket/a/b/c", "c"),
        (S3Path("bucket").joinpath("a", "b"), "s3://bucket/a/b", "b"),
        (joined(S3Path("bucket", "a"), "b", "c"), "s3://bucket/a/b/c", "c"),
        (joined(Path("a"), "b"), "a/b", "b"),
        (S3Path("bucket"), "s3://bucket", "bucket"),
    ],
)
def test_names_are_joined_as_in_a_path(path, text, name):
    assert (str(path), path.name) == (text, name)
    assert location_of(text) == path


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    """A folder with one small file, one of several blocks, one of Parquet, and a folder."""
    local = tmp_path / "folder"
    (local / "inner").mkdir(parents=True)
    (local / "inner/hidden").write_bytes(b"not of this folder")
    (local / "small").write_bytes(b"content")
    (local / "large").write_bytes(bytes(range(256)) * 50_000)
    pq.write_table(TABLE, local / "table.parquet", row_group_size=2)
    if request.param == "local":
        return local
    target = request.getfixturevalue("s3_folder")
    return request.getfixturevalue("s3").copy(local, target)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(storage, "BLOCK_BYTES", 1_000_000)


def test_reading_is_the_same_from_both(folder, small_blocks):
    assert read_bytes(folder / "small") == b"content"
    sizes = file_sizes(folder)
    assert sizes == {"small": 7, "large": 12_800_000, "table.parquet": sizes["table.parquet"]}
    assert sha256_of(folder / "large") == hashlib.sha256(bytes(range(256)) * 50_000).hexdigest()
    with open_parquet(folder / "table.parquet") as file:
        assert file.num_row_groups == 2
        assert file.read_row_group(1, columns=["name"]).to_pydict() == {"name": ["c"]}
    paths = [folder / "table.parquet", folder / "table.parquet"]
    assert read_table(paths, ["number"]).to_pydict() == {"number": [1, 2, 3] * 2}


def test_what_is_not_there(folder):
    assert file_sizes(folder / "none") is None
    for read in (read_bytes, sha256_of, open_parquet):
        with pytest.raises(FileNotFoundError):
            read(folder / "none")
    with pytest.raises(pa.ArrowInvalid):
        open_parquet(folder / "small")


def test_a_small_file_goes_up_in_one_request(s3, s3_folder, tmp_path):
    source = tmp_path / "small"
    source.write_bytes(b"first")
    target = s3_folder / "small"
    s3.requests.clear()
    upload_file(source, target)
    assert s3.requests == [f"PUT /{target.arrow_path}"]
    source.write_bytes(b"second")
    upload_file(source, target)
    assert s3.read(target) == b"second"


def test_a_large_file_arrives_whole(s3, s3_folder, tmp_path, small_blocks):
    content = bytes(range(251)) * 60_000
    (tmp_path / "large").write_bytes(content)
    upload_file(tmp_path / "large", s3_folder / "large")
    assert s3.read(s3_folder / "large") == content


def test_removing(s3, s3_folder):
    s3.write(s3_folder / "one", b"1")
    s3.write(s3_folder / "two", b"2")
    remove_file(s3_folder / "one")
    assert file_sizes(s3_folder) == {"two": 1}


def calls(path, local):
    """Everything that asks the store."""
    return {
        "read_bytes": lambda: read_bytes(path),
        "file_sizes": lambda: file_sizes(path),
        "sha256_of": lambda: sha256_of(path),
        "open_parquet": lambda: open_parquet(path),
        "read_table": lambda: read_table([path], ["number"]),
        "upload_file": lambda: upload_file(local, path),
        "remove_file": lambda: remove_file(path),
    }


CALLS = [*calls(None, None)]


@pytest.fixture
def local(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    return tmp_path / "file"


@pytest.mark.parametrize("call", CALLS)
def test_nobody_is_let_in(s3, s3_folder, local, call, monkeypatch):
    path = s3_folder / "file"
    s3.write(path, b"content")
    s3.deny(monkeypatch)
    with pytest.raises(DataError, match=f"^{path}: access is denied; check the AWS credentials"):
        calls(path, local)[call]()


@pytest.mark.parametrize("call", ["file_sizes", "upload_file"])
def test_a_bucket_that_is_not_there(s3, local, call):
    path = S3Path("nowhere", "file")
    with pytest.raises(DataError, match=f"^{path}: there is no such bucket; check its name"):
        calls(path, local)[call]()


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_store_that_does_not_answer(s3, monkeypatch, name):
    # The environment is read when something is opened, and the narrower name comes first.
    assert file_sizes(s3.folder("nothing")) is None
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    path = s3.folder("file")
    with pytest.raises(DataError, match=f"^{path}: the store cannot be reached; check AWS_ENDPO"):
        read_bytes(path)


def test_the_region_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert storage._store().region == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert storage._store().region == "eu-north-1"
    assert storage._store() is storage._store()
