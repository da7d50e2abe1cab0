"""Digests of what stages read: work whose inputs changed is done again, and no other.

days of data, finished runs, files that were brought -> digest
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from jobs.checkpoint_files import content_digest, read_manifest
from jobs.runs import RunFolder
from jobs.settings import JobSettings
from pipeline.digests import texts_digest
from pipeline.errors import CheckpointError
from pipeline.partitions import day_folder
from pipeline.partitions import read_manifest as read_day
from pipeline.source_files import MISSING, source_folder

__all__ = ["data_digests", "final_digest", "source_digests"]


def data_digests(root: Path, days: Sequence[date], *kinds: str) -> dict[str, str]:
    """`<kind> <day>` -> digest, of what prepare published.

    Raises:
        MissingDayError, HalfWrittenDayError, CorruptFileError: a day is not whole.
    """
    return {
        f"{kind} {day}": read_day(day_folder(root, kind, day)).content_digest
        for kind in kinds
        for day in days
    }


def final_digest(folder: Path) -> str:
    """Of what a finished run ended with.

    Raises:
        CheckpointError: there is none.
    """
    run = RunFolder(folder)
    if not run.is_finished:
        raise CheckpointError(f"{folder}: no finished run there; run that day again")
    try:
        return content_digest(read_manifest(run.final_checkpoint))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{run.final_checkpoint}: damaged or gone ({error}); run that day again"
        ) from None


def source_digests(settings: JobSettings, days: Sequence[date]) -> dict[str, str]:
    """`source <day>` -> digest, of what the user brought, or did not bring yet."""
    path = settings.source.path
    return {f"source {day}": _stat_digest(source_folder(path, day)) for day in days}


def _stat_digest(folder: Path) -> str:
    """Over names, sizes and times of a day's files: prepare itself compares their content."""
    if not folder.is_dir():
        return MISSING
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stats = [(path.name, path.stat()) for path in files]
    return texts_digest(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
