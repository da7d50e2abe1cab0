"""The folder that ingest writes days into: its own, for one process at a time."""

import fcntl
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from pipeline.errors import DataError
from pipeline.partitions import remove_folder

__all__ = ["remove_other_days", "working_folder"]

# The second is what the demo's data had before it was an ingest.
MARKS = (".ingest", ".complete-journey")


@contextmanager
def working_folder(folder: Path) -> Generator[Path]:
    """A place for intermediate files inside `folder`, which is marked as ingest's own.

    Raises:
        DataError: it holds days that somebody else wrote, or another ingest is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any((folder / mark).exists() for mark in MARKS):
        if any(folder.glob("day=*")):
            raise DataError(
                f"{folder}: holds days that ingest did not write; choose another source.path"
            )
        (folder / MARKS[0]).write_text("The days here are written, and removed, by ingest.\n")
    work = folder / ".work"
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another ingest is writing it; wait for it") from None
        # What a killed run left behind.
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def remove_other_days(folder: Path, days: Collection[date]) -> tuple[date, ...]:
    """Remove, and return, the days that an earlier ingest wrote and this one has not."""
    kept = {f"day={day.isoformat()}" for day in days}
    removed: list[date] = []
    for path in sorted(folder.glob("day=*")):
        if path.name not in kept:
            remove_folder(path)
            removed.append(date.fromisoformat(path.name.removeprefix("day=")))
    return tuple(removed)
