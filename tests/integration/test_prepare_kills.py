"""Killed at any moment, `prepare` leaves only whole folders, and a rerun makes what is missing.

    python -m tests.integration.test_prepare_kills FOLDER NUM_KILLS [SEED]

does the same as often as one likes.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.integration.prepare_runs import (
    check_whole,
    command,
    published_files,
    run_prepare,
    write_config,
)
from tests.pipeline.dirty_days import write_log

NUM_KILLS = 4


class Killer:
    """Runs `prepare` on a log of which two versions alternate, and kills it.

    The other version has other events on its second day, so what was published of later days is
    replaced, not only added to.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.random = Random(seed)
        self.config = write_config(folder)
        for number in (0, 1):
            write_log(folder / f"version-{number}", seed=number)
        self.use_version(0)
        self.work_seconds = self._whole_run(folder / "undisturbed")
        self.wanted = published_files(folder / "undisturbed")

    def use_version(self, number: int) -> None:
        """Of the log's second day."""
        day = "day=2024-01-02"
        shutil.copytree(
            self.folder / "version-0/events", self.folder / "events", dirs_exist_ok=True
        )
        other = self.folder / f"version-{number}/events"
        shutil.copytree(other / day, self.folder / "events" / day, dirs_exist_ok=True)

    def kill_once(self) -> bool:
        """Run and kill; whether it was still at work."""
        self.use_version(self.random.randrange(2))
        with self._running(self.root) as process:
            was_at_work = _outlasts(process, self.random.random() * self.work_seconds)
            process.kill()
        assert was_at_work or process.returncode == 0
        check_whole(self.root)
        return was_at_work

    def finish(self) -> None:
        """Let it run to its end, and compare with what was never disturbed."""
        self.use_version(0)
        done = run_prepare(self.config)
        assert done.returncode == 0, done.stderr
        assert not (self.root / ".work").exists()
        assert published_files(self.root) == self.wanted

    def _whole_run(self, root: Path) -> float:
        with self._running(root) as process:
            started = time.monotonic()
            assert process.wait() == 0
        return time.monotonic() - started

    @contextmanager
    def _running(self, root: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A run that has begun to work; what is imported before takes longer than the work."""
        arguments = command(self.config, f"data.root={root}")
        left = _made_at(root / ".work")
        with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
            try:
                while _made_at(root / ".work") in (None, left) and process.poll() is None:
                    time.sleep(0.01)
                yield process
            finally:
                process.kill()


def _outlasts(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _made_at(folder: Path) -> int | None:
    """Which one it is, for a killed run leaves one behind."""
    try:
        return folder.stat().st_ctime_ns
    except FileNotFoundError:
        return None


def kill_often(folder: Path, num_kills: int, seed: int = 0) -> dict[str, int]:
    """Kill that many runs that were at work; now and then let one finish, and start anew."""
    killer = Killer(folder, seed)
    counts = {"killed": 0, "too_late": 0, "finished": 0}
    while counts["killed"] < num_kills:
        at_work = killer.kill_once()
        counts["killed" if at_work else "too_late"] += 1
        if counts["killed"] % 10 == 5 and at_work:
            killer.finish()
            counts["finished"] += 1
            if killer.random.random() < 0.5:
                shutil.rmtree(killer.root)
    killer.finish()
    return counts


@pytest.mark.slow
@pytest.mark.integration
def test_killed_at_random_moments_it_ends_as_if_never_disturbed(tmp_path):
    counts = kill_often(tmp_path, NUM_KILLS)
    assert counts["killed"] == NUM_KILLS


if __name__ == "__main__":
    print(kill_often(Path(sys.argv[1]), int(sys.argv[2]), *map(int, sys.argv[3:])))
