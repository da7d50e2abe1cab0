"""What an ingest did, row by row accounted for: `SOURCE/ingest.json`, and what the verb prints."""

from datetime import date
from pathlib import Path

from pydantic import Field, ValidationError

from pipeline.settings import Settings

__all__ = ["FileReport", "IngestReport", "find_report", "write_report"]

REPORT_NAME = "ingest.json"


class FileReport(Settings):
    """Rows of one raw file: `num_rows` = those written + those set aside, by reason."""

    num_rows: int
    set_aside: dict[str, int] = Field(default={})


class IngestReport(Settings):
    """One ingest, by file and by day; the digests say what it was made from."""

    format: str
    input_digest: str
    config_digest: str
    code_version: str
    files: dict[str, FileReport]
    # Files that describe items; their rows are not events.
    item_files: dict[str, FileReport] = Field(default={})
    # Rows written although nothing describes their item: its features are null.
    num_undescribed: int = 0
    days: dict[date, int]
    # Days of an earlier ingest that these files do not have.
    removed_days: tuple[date, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.num_rows for file in self.files.values())

    @property
    def num_written(self) -> int:
        """Rows of all days."""
        return sum(self.days.values())

    @property
    def set_aside(self) -> dict[str, int]:
        """Rows of all files that went to no day, by reason."""
        reasons: dict[str, int] = {}
        for file in self.files.values():
            for reason, rows in file.set_aside.items():
                reasons[reason] = reasons.get(reason, 0) + rows
        return reasons

    def same_build(self, other: "IngestReport") -> bool:
        """Whether inputs, settings and code are those of `other`."""
        names = ("input_digest", "config_digest", "code_version")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def find_report(folder: Path) -> IngestReport | None:
    """The report of the ingest that wrote this folder last, None if none was finished."""
    try:
        return IngestReport.model_validate_json((folder / REPORT_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_report(folder: Path, report: IngestReport | None) -> None:
    """Replace the folder's report in one step; None removes it."""
    path = folder / REPORT_NAME
    if report is None:
        path.unlink(missing_ok=True)
        return
    written = folder / f".writing-{REPORT_NAME}"
    written.write_text(report.model_dump_json(indent=1) + "\n")
    written.replace(path)
