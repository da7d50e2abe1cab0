"""When disk or memory is short `prepare` says so, leaves nothing half visible, and can go on."""

import errno
import os

import pytest

from benchmarks.memory_limit import measure
from pipeline import partitions
from pipeline.errors import ShortageError
from pipeline.prepare import prepare
from pipeline.shortage import shortages_told
from tests.disk import small_disk_on
from tests.integration.prepare_runs import (
    check_whole,
    published_files,
    run_prepare,
    write_config,
)
from tests.pipeline.dirty_days import preparation, write_log

MEGABYTE = 1_000_000


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, and how to change the disk's size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk_on(folder) as resize:
        yield folder, resize


@pytest.mark.slow
@pytest.mark.integration
def test_a_full_disk_is_told_and_a_rerun_goes_on(small_disk, tmp_path):
    disk, resize = small_disk
    write_log(tmp_path)
    config = write_config(tmp_path)
    root = f"data.root={disk / 'root'}"
    num_whole = [0]
    for size in ("64k", "120k", "200k"):
        resize(size)
        done = run_prepare(config, root)
        assert done.returncode == 1
        assert done.stderr.startswith(f"ShortageError: {disk / 'root'}: no space left on its disk")
        assert "Traceback" not in done.stderr
        num_whole.append(check_whole(disk / "root"))
    assert num_whole == sorted(set(num_whole))
    resize("16m")
    assert run_prepare(config, root).returncode == 0
    assert run_prepare(config).returncode == 0
    assert published_files(disk / "root") == published_files(tmp_path / "root")


@pytest.mark.parametrize("survives", [3, 30])
def test_a_file_that_cannot_be_written(tmp_path, monkeypatch, survives):
    """As on a full disk, in this process: whichever file it is."""
    write_log(tmp_path)
    undisturbed = preparation(tmp_path, root=tmp_path / "undisturbed")
    prepare(undisturbed)
    sync, written = partitions._sync, []

    def full(path):
        written.append(path)
        if len(written) > survives:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        sync(path)

    made = preparation(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(partitions, "_sync", full)
        no_space = pytest.raises(ShortageError, match="no space left on its disk")
        with no_space, shortages_told(made.root):
            prepare(made)
    check_whole(made.root)
    assert not (made.root / ".work").exists()
    prepare(made)
    assert published_files(made.root) == published_files(undisturbed.root)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on its disk"),
        (RuntimeError("IO Error: No space left on device"), "no space left on its disk"),
        (RuntimeError("limit was set by 'max_temp_directory_size'"), "no space left on its disk"),
        (RuntimeError("Out of Memory Error: failed\nmore"), r"memory ran out \(Out of .*failed\);"),
        (MemoryError(), r"raise engine\.memory_limit"),
    ],
)
def test_shortages_by_other_names(tmp_path, error, sentence):
    with pytest.raises(ShortageError, match=sentence), shortages_told(tmp_path):
        raise error


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(PermissionError), shortages_told(tmp_path):
        raise PermissionError(errno.EACCES, "not yours")


@pytest.mark.slow
@pytest.mark.integration
def test_too_little_memory_is_told(tmp_path):
    write_log(tmp_path)
    done = run_prepare(write_config(tmp_path), "engine.memory_limit=2MB", "engine.threads=1")
    assert done.returncode == 1
    assert done.stderr.startswith("ShortageError: memory ran out")
    check_whole(tmp_path / "root")


@pytest.mark.slow
@pytest.mark.integration
def test_a_day_four_times_larger_than_the_memory_limit(tmp_path):
    found = measure(tmp_path, "64MB", num_requests=110_000, num_users=1_000, num_threads=1)
    assert found.num_rows == 110_000
    assert found.num_bytes > 4 * 64 * MEGABYTE
