"""Old days' files are not read again, unless something about them changed."""

import os
import time

import pytest

from pipeline import source_digests
from pipeline.digests import file_sha256
from pipeline.source_digests import SourceDigests
from tests.pipeline.small_days import run, shop_days


@pytest.fixture
def source_file(tmp_path):
    """Written long enough ago to be remembered."""
    path = tmp_path / "part.parquet"
    path.write_bytes(b"first")
    return path


@pytest.fixture
def reads(monkeypatch):
    """Names of the files whose bytes were read."""
    names = []

    def read(path):
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(source_digests, "file_sha256", read)
    return names


@pytest.fixture
def later(monkeypatch):
    """As if everything had been written an hour ago."""
    now = time.time_ns
    monkeypatch.setattr(source_digests.time, "time_ns", lambda: now() + 3600 * 10**9)


def digest_of(root, path):
    digests = SourceDigests(root)
    found = digests.digest(path)
    digests.save()
    return found


@pytest.mark.usefixtures("later")
def test_an_unchanged_file_is_read_once(tmp_path, source_file, reads):
    assert digest_of(tmp_path, source_file) == digest_of(tmp_path, source_file)
    assert reads == ["part.parquet"]


@pytest.mark.usefixtures("later")
def test_another_content_of_the_same_size_and_time_is_seen(tmp_path, source_file, reads):
    before, times = digest_of(tmp_path, source_file), source_file.stat()
    source_file.write_bytes(b"other")
    os.utime(source_file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert source_file.stat().st_mtime_ns == times.st_mtime_ns
    assert digest_of(tmp_path, source_file) != before
    assert len(reads) == 2


def test_what_was_written_just_now_is_read_again(tmp_path, source_file, reads):
    for _ in range(2):
        digest_of(tmp_path, source_file)
    assert len(reads) == 2


@pytest.mark.usefixtures("later")
def test_a_damaged_memory_is_none(tmp_path, source_file, reads):
    digest_of(tmp_path, source_file)
    (tmp_path / ".source_digests.json").write_text('{"cut sho')
    digest_of(tmp_path, source_file)
    assert len(reads) == 2


@pytest.mark.usefixtures("later")
def test_preparing_again_reads_no_old_day(tmp_path, reads):
    shop_days(tmp_path / "source")
    run(tmp_path / "root", tmp_path / "source")
    assert len(reads) == 6
    run(tmp_path / "root", tmp_path / "source")
    assert len(reads) == 6
