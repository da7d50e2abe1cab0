"""The files a user's day consists of, and whether they are all there and whole.

First step of preparing: everything that is wrong with a day's folder or with a file as a file is
found here, before any row is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.digests import file_sha256, texts_digest
from pipeline.errors import CorruptFileError, HalfWrittenDayError, MissingDayError

__all__ = [
    "MISSING",
    "Footer",
    "SourceDay",
    "check_data",
    "days_that_follow",
    "find_day",
    "read_footer",
    "source_folder",
]

MISSING = "missing"
"""the digest of a day that is not there"""

LEFTOVERS = ("_temporary", ".tmp", ".inprogress")


@dataclass(frozen=True, kw_only=True)
class SourceDay:
    """One day as the user wrote it; no files where an absent day is allowed."""

    day: date
    files: tuple[Path, ...]
    digest: str
    """over names, sizes and contents of the files"""


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What a Parquet file says about itself."""

    path: Path
    num_rows: int
    schema: pa.Schema

    @property
    def label(self) -> str:
        """day=YYYY-MM-DD/name, as reports and manifests call the file."""
        return f"{self.path.parent.name}/{self.path.name}"


def source_folder(source: Path, day: date) -> Path:
    """Where the user brings a day."""
    return Path(source) / f"day={day.isoformat()}"


def find_day(
    source: Path,
    day: date,
    *,
    success_marker: str | None,
    allow_missing: bool,
    digest: Callable[[Path], str] = file_sha256,
) -> SourceDay:
    """The day's files, in name order; `digest` gives a file's sha256.

    Raises:
        MissingDayError: no folder, and `allow_missing` is false.
        HalfWrittenDayError: a writer's leftovers, no success marker, or no files at all.
    """
    folder = source_folder(source, day)
    if not folder.is_dir():
        if allow_missing:
            return SourceDay(day=day, files=(), digest=MISSING)
        raise MissingDayError(
            f"{folder}: no such day; bring it, choose other days under [days], or set "
            "source.missing_days = 'allow' if nothing happened on it"
        )
    files = _whole_files(folder, success_marker)
    names = ((path.name, str(path.stat().st_size), digest(path)) for path in files)
    of_all = texts_digest(text for name in names for text in name)
    return SourceDay(day=day, files=files, digest=of_all)


def days_that_follow(
    source: Path, day: date, num_days: int, *, success_marker: str | None, allow_missing: bool
) -> list[date]:
    """Of the `num_days` after `day` those before the log ends.

    It ends before the first day that is still being written, or missing; where days may be
    missing, after the last one that there is.
    """
    folders = {path.name: path for path in Path(source).glob("day=*")}
    last = max(folders, default="")
    found: list[date] = []
    for number in range(1, num_days + 1):
        later = day + timedelta(days=number)
        name = f"day={later.isoformat()}"
        missing = name not in folders
        if missing and not (allow_missing and name < last):
            break
        if not missing and not _is_whole(folders[name], success_marker):
            break
        found.append(later)
    return found


def _is_whole(folder: Path, success_marker: str | None) -> bool:
    try:
        return bool(_whole_files(folder, success_marker))
    except HalfWrittenDayError:
        return False


def _whole_files(folder: Path, success_marker: str | None) -> tuple[Path, ...]:
    entries = sorted(folder.iterdir())
    for entry in entries:
        if any(mark in entry.name for mark in LEFTOVERS):
            raise HalfWrittenDayError(
                f"{entry}: left by a writer that has not finished; wait for it, or write the day "
                "again, then rerun"
            )
    if success_marker is not None and not (folder / success_marker).exists():
        raise HalfWrittenDayError(
            f"{folder}: no {success_marker} (source.success_marker), so not whole yet"
        )
    visible = [entry for entry in entries if not entry.name.startswith(("_", "."))]
    for entry in visible:
        if entry.is_dir():
            raise HalfWrittenDayError(
                f"{entry}: a folder; a day's Parquet files lie in it directly"
            )
    files = tuple(entry for entry in visible if entry.suffix == ".parquet")
    if not files:
        raise HalfWrittenDayError(f"{folder}: holds no *.parquet file")
    return files


def read_footer(path: Path) -> Footer:
    """Number of rows and schema of a Parquet file.

    Raises:
        CorruptFileError: empty, truncated, or no Parquet file.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow.remove_metadata()
            return Footer(path=path, num_rows=file.metadata.num_rows, schema=schema)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptFileError(
            f"{path}: not a whole Parquet file ({reason}); write the day again, then rerun"
        ) from None


def check_data(footer: Footer) -> None:
    """Read all of a file's data, for when the engine failed and did not say where.

    Raises:
        CorruptFileError: the data does not keep what the footer promises.
    """
    try:
        with pq.ParquetFile(footer.path) as file:
            for _ in file.iter_batches():
                pass
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptFileError(
            f"{footer.path}: its data cannot be read ({reason}); write the day again, then rerun"
        ) from None
