"""The data report as one HTML page: what each day holds, how days differ, which were stopped.

    ROOT/reports/day=D/events.json, requests.json -> tables, charts by day -> ROOT/reports/data.html

To be read without a network, like the report of runs, whose style and tables it shares.
"""

from collections.abc import Sequence
from pathlib import Path

from jobs.data_charts import day_charts
from jobs.data_figures import (
    Reports,
    Requests,
    action_drift,
    action_share,
    feature_names,
    main_actions,
    null_share,
    task_names,
    value_drift,
)
from jobs.page import Row, note, paragraph, section, table, write_page
from pipeline.data_report import (
    EventsReport,
    RequestsReport,
    read_report,
    report_days,
    report_path,
)
from pipeline.partitions import day_folder, find_manifest

__all__ = ["write_data_page"]

NOTHING = "-"
TITLE = "Data, day by day"


def write_data_page(root: Path) -> Path:
    """Write ROOT/reports/data.html, replacing what is there in one step, and return its path.

    Raises:
        CorruptFileError: a report is none of this version.
    """
    days = report_days(root)
    found = [read_report(report_path(root, day, "events"), EventsReport) for day in days]
    events = [report for report in found if report is not None]
    asked = [read_report(report_path(root, day, "requests"), RequestsReport) for day in days]
    requests = {str(report.day): report for report in asked if report is not None}
    sections = [
        _overview(root, events, requests),
        section("Over the days", _figures(day_charts(events, requests))),
        section("Events", *_events_table(events)),
        section("Values", _values_table(events)),
        section("Rows set aside", _set_aside_table(events)),
        *([section("Requests", _requests_table(requests))] if requests else []),
        section("Columns that changed", *_columns_table(events)),
    ]
    path = Path(root) / "reports" / "data.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, TITLE, sections)
    return path


def _overview(root: Path, events: Reports, requests: Requests) -> str:
    """How many days passed, and why the others did not."""
    stopped: list[Row] = []
    for kind, reports in (("events", events), ("requests", requests.values())):
        for report in reports:
            if not report.published:
                earlier = find_manifest(day_folder(root, kind, report.day))
                remains = "an earlier version" if earlier else "nothing"
                reasons = "; ".join(violation.text for violation in report.violations)
                stopped.append((f"{report.day} {kind}", reasons, remains))
    passed = sum(report.published for report in events)
    parts = [paragraph(f"Events: {len(events)} days reported, {passed} of them published.")]
    if requests:
        passed = sum(report.published for report in requests.values())
        text = f"Requests: {len(requests)} days reported, {passed} of them published."
        parts.append(paragraph(text))
    if stopped:
        head = ("stopped", "why", "what is published of it")
        parts.append(table([head, *sorted(stopped)], words=True))
    return section("Published and stopped", *parts)


def _figures(charts: Sequence[str]) -> str:
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts)
    return f'<div class="charts">{figures}</div>'


def _events_table(events: Reports) -> list[str]:
    actions = main_actions(events)
    head = ("day", "status", "rows", "users", "items", *actions, "rows change", "action drift")
    rows = [
        (
            str(report.day),
            _status(report),
            f"{report.events.rows:,}",
            f"{report.events.users:,}",
            f"{report.events.items:,}",
            *(_share(action_share(report, name)) for name in actions),
            f"{report.earlier.rows_change:+.1%}" if report.earlier else NOTHING,
            _bits(action_drift(report)),
        )
        for report in events
    ]
    explained = (
        "Rows are those kept. Drift is the Jensen-Shannon divergence from the latest earlier day "
        "that has events and was published: 0 is the same, 1 nothing in common. Actions beyond "
        "the most frequent are in the JSON beside this page."
    )
    return [table([head, *rows]), note(explained)]


def _values_table(events: Reports) -> str:
    features = feature_names(events)
    nulls = (f"{name}: null" for name in features)
    drifts = (f"{name}: drift" for name in features)
    rows = [
        (
            str(report.day),
            *(_share(null_share(report, name)) for name in features),
            *(_bits(value_drift(report, name)) for name in features),
        )
        for report in events
    ]
    return table([("day", *nulls, *drifts), *rows])


def _set_aside_table(events: Reports) -> str:
    reasons = sorted({reason for report in events for reason in report.set_aside})
    rows = [
        (
            str(report.day),
            f"{report.rows_in:,}",
            f"{sum(report.set_aside.values()):,}",
            *(f"{report.set_aside.get(reason, 0):,}" for reason in reasons),
        )
        for report in events
    ]
    return table([("day", "rows in", "set aside", *reasons), *rows])


def _requests_table(requests: Requests) -> str:
    tasks = task_names(requests)
    head = ("day", "status", "requests", "candidates", *(f"{task}: positive" for task in tasks))
    rows = [
        (
            day,
            _status(report),
            f"{report.counts.get('requests', 0):,}",
            f"{report.counts.get('candidates', 0):,}",
            *(_share(report.label_rates.get(task)) for task in tasks),
            _share(report.new_item_share),
        )
        for day, report in requests.items()
    ]
    return table([(*head, "new items"), *rows])


def _columns_table(events: Reports) -> list[str]:
    rows: list[Row] = []
    for report in events:
        if report.earlier is not None:
            day, changes = str(report.day), report.earlier.columns
            rows += [(day, name, "added") for name in changes.added]
            rows += [(day, name, "removed") for name in changes.removed]
            rows += [(day, n, f"{a}, now {b}") for n, (a, b) in changes.retyped.items()]
    if not rows:
        return [paragraph("None: every day's files have the columns of the day before.")]
    return [table([("day", "column", "change"), *rows], words=True)]


def _status(report: EventsReport | RequestsReport) -> str:
    return "published" if report.published else "stopped"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2%}"


def _bits(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
