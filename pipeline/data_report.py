"""The data report: a day's figures, their drift, and what kept the day from being published.

    ROOT/reports/day=D/events.json      written by `data_gate`, before the day is published
    ROOT/reports/day=D/requests.json    written here, before the day's requests are

A report is written for every day that is made, also for one that a threshold of `[checks]` stops;
what was published of that day before stays as it is. `docs/data_report.md` explains the figures.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.data_checks import (
    DataCheckSettings,
    Violation,
    requests_violations,
)
from pipeline.data_drift import Comparison, FileSchema
from pipeline.data_profile import DayProfile
from pipeline.errors import CorruptFileError, DataCheckError
from pipeline.partitions import day_folder
from pipeline.settings import Settings
from pipeline.source_files import Footer

__all__ = [
    "EventsReport",
    "RequestsReport",
    "check_requests",
    "file_schemas",
    "find_events_report",
    "read_report",
    "report_days",
    "report_path",
    "stopped",
    "write_report",
]

FOLDER = "reports"
# Counts of requests, as their manifest has them: label_<task>_applies, label_<task>_positives.
LABEL, APPLIES, POSITIVES = "label_", "_applies", "_positives"


class EventsReport(Settings):
    """One day's events."""

    day: date
    published: bool
    violations: tuple[Violation, ...]
    rows_in: int
    set_aside: dict[str, int]
    events: DayProfile
    source: tuple[FileSchema, ...]
    """empty: `source.missing_days` allowed the day to be missing"""
    earlier: Comparison | None
    """with the latest earlier day that has events and was published"""


class RequestsReport(Settings):
    """One day's requests."""

    day: date
    published: bool
    violations: tuple[Violation, ...]
    counts: dict[str, int]
    label_rates: dict[str, float | None]
    """task -> positives / labels that apply; null where none applies"""
    new_item_share: float | None
    """of the candidates; null where new items were not counted, or nothing was"""
    changes: dict[str, float]
    """count -> relative change since the earlier day's count, where that is not 0"""


R = TypeVar("R", EventsReport, RequestsReport)


def report_path(root: Path, day: date, part: str) -> Path:
    """ROOT/reports/day=D/PART.json; PART is "events" or "requests"."""
    return day_folder(Path(root), FOLDER, day) / f"{part}.json"


def report_days(root: Path) -> list[date]:
    """The days that have a report of any kind, ascending."""
    folders = (Path(root) / FOLDER).glob("day=*")
    return sorted(date.fromisoformat(folder.name.removeprefix("day=")) for folder in folders)


def read_report(path: Path, kind: type[R]) -> R | None:
    """A report, or None where there is no such file.

    Raises:
        CorruptFileError: the file is no report of this version.
    """
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise CorruptFileError(
            f"{path}: not a report of this version: {problem}; remove it and prepare the day again"
        ) from None


def find_events_report(root: Path, day: date) -> EventsReport | None:
    """Like `read_report`, but None also for what is no report of this version."""
    try:
        return read_report(report_path(root, day, "events"), EventsReport)
    except CorruptFileError:
        return None


def write_report(root: Path, part: str, report: EventsReport | RequestsReport) -> None:
    """Replace the day's report in one step."""
    path = report_path(root, report.day, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".writing-{path.name}")
    written.write_text(report.model_dump_json(indent=1) + "\n")
    written.replace(path)


def file_schemas(footers: Sequence[Footer]) -> tuple[FileSchema, ...]:
    """A day's files by the columns they have, in the order of the first of each."""
    alike: dict[str, list[Footer]] = {}
    for footer in footers:
        alike.setdefault(str(footer.schema), []).append(footer)
    return tuple(
        FileSchema(
            columns={field.name: str(field.type) for field in group[0].schema},
            files=tuple(footer.path.name for footer in group),
        )
        for group in alike.values()
    )


def stopped(root: Path, part: str, report: EventsReport | RequestsReport) -> DataCheckError:
    """The error that says why a day is not published."""
    reasons = "; ".join(violation.text for violation in report.violations)
    return DataCheckError(
        f"day {report.day}: its {part} are not published: {reasons}. Mend the data, or change "
        f"these settings if it is right; all figures: {report_path(root, report.day, part)}"
    )


def check_requests(
    root: Path,
    day: date,
    counts: Mapping[str, int],
    earlier_counts: Mapping[str, int] | None,
    checks: DataCheckSettings,
) -> dict[str, Any]:
    """Write the report of a day's requests, from their counts, before they are published.

    `counts` are those of the day's manifest to be: requests, candidates, new_item_candidates (may
    be left out), label_T_applies and label_T_positives of each task T, and whatever else was
    counted; `earlier_counts` are those of the latest earlier day, if there is one.

    Returns:
        The report as JSON values.

    Raises:
        DataCheckError: a threshold is broken; the report is written, with `published` false.
        ConfigError: a check names a task that there is not.
    """
    rates = _label_rates(counts)
    new_items = _new_item_share(counts)
    violations = requests_violations(rates, new_items, checks) if counts.get("requests") else ()
    before = earlier_counts or {}
    report = RequestsReport(
        day=day,
        published=not violations,
        violations=violations,
        counts=dict(counts),
        label_rates=rates,
        new_item_share=new_items,
        changes={name: n / before[name] - 1 for name, n in counts.items() if before.get(name)},
    )
    write_report(root, "requests", report)
    if violations:
        raise stopped(root, "requests", report)
    return report.model_dump(mode="json")


def _label_rates(counts: Mapping[str, int]) -> dict[str, float | None]:
    tasks = [
        name.removeprefix(LABEL).removesuffix(APPLIES)
        for name in counts
        if name.startswith(LABEL) and name.endswith(APPLIES)
    ]
    applies = {task: counts[LABEL + task + APPLIES] for task in tasks}
    return {
        task: counts[LABEL + task + POSITIVES] / number if number else None
        for task, number in applies.items()
    }


def _new_item_share(counts: Mapping[str, int]) -> float | None:
    if "new_item_candidates" not in counts or not counts.get("candidates"):
        return None
    return counts["new_item_candidates"] / counts["candidates"]
