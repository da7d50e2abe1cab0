"""Single figures of the data report, for its page and charts; None where there is none."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.data_report import EventsReport, RequestsReport

__all__ = [
    "Reports",
    "Requests",
    "action_drift",
    "action_share",
    "feature_names",
    "main_actions",
    "null_share",
    "task_names",
    "value_drift",
]

Reports = Sequence[EventsReport]
Requests = Mapping[str, RequestsReport]

# Actions that are shown; the others are in the JSON.
SHOWN_ACTIONS = 4


def main_actions(events: Reports) -> list[str]:
    """The most frequent ones over all days, most frequent first."""
    counts: Counter[str] = Counter()
    for report in events:
        counts.update(report.events.actions.top)
    return [name for name, _ in counts.most_common(SHOWN_ACTIONS)]


def feature_names(events: Reports) -> list[str]:
    """Those of any day, in the config's order."""
    return list(dict.fromkeys(name for report in events for name in report.events.features))


def task_names(requests: Requests) -> list[str]:
    """Those with labels on any day."""
    return sorted({task for report in requests.values() for task in report.label_rates})


def action_drift(report: EventsReport) -> float | None:
    """Since the earlier day; None on the first."""
    return report.earlier.action_drift if report.earlier else None


def value_drift(report: EventsReport, name: str) -> float | None:
    """Of one feature since the earlier day; None on the first."""
    return report.earlier.value_drift.get(name) if report.earlier else None


def action_share(report: EventsReport, name: str) -> float | None:
    """Of the day's events; None on a day without."""
    rows = report.events.rows
    return report.events.actions.top.get(name, 0) / rows if rows else None


def null_share(report: EventsReport, name: str) -> float | None:
    """Of the day's events; None on a day without."""
    counts = report.events.features.get(name)
    return counts.nulls / report.events.rows if counts and report.events.rows else None
