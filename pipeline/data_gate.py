"""The gate between cleaning events and publishing them: each day's report, and what it stops.

    accounts, profiles, footers -> ROOT/reports/day=D/events.json -> days that are not published

A day is compared with the latest earlier one that has events and passed, so that one bad day does
not condemn the good one after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pipeline.accounts import Account
from pipeline.data_checks import DataCheckSettings, Violation, events_violations
from pipeline.data_drift import compare
from pipeline.data_profile import NO_EVENTS, DayProfile
from pipeline.data_report import (
    EventsReport,
    file_schemas,
    find_events_report,
    stopped,
    write_report,
)
from pipeline.errors import DataError, SetAsideError
from pipeline.source import SourceSettings
from pipeline.source_files import Footer

__all__ = ["EventsGate"]


@dataclass(frozen=True)
class EventsGate:
    """Judges the days of one cleaning, each when all earlier ones have been judged."""

    root: Path
    days: Sequence[date]
    """all days asked for, cleaned now or before"""
    source: SourceSettings
    checks: DataCheckSettings

    def has_passed(self, day: date) -> bool:
        """Whether the day has a report, and was published with it."""
        report = find_events_report(self.root, day)
        return report is not None and report.published

    def stopped_days(
        self,
        footers: Mapping[date, Sequence[Footer]],
        accounts: Mapping[date, Account],
        profiles: Mapping[date, DayProfile],
    ) -> dict[date, DataError]:
        """Write the report of each day of `footers`, and return why some are not published.

        `profiles` lacks the days without events.
        """
        stops: dict[date, DataError] = {}
        for day, files in sorted(footers.items()):
            report = self._report(day, accounts[day], profiles.get(day, NO_EVENTS), files)
            try:
                accounts[day].check_share(self.source, day)
                if not report.published:
                    stops[day] = stopped(self.root, "events", report)
            except SetAsideError as error:
                stops[day] = error
                too_many = self._set_aside(accounts[day], str(error))
                violations = (too_many, *report.violations)
                report = report.model_copy(update={"published": False, "violations": violations})
            write_report(self.root, "events", report)
        return stops

    def _report(
        self, day: date, account: Account, profile: DayProfile, files: Sequence[Footer]
    ) -> EventsReport:
        schemas = file_schemas(files)
        earlier = self._earlier(day)
        comparison = None
        if earlier is not None:
            then = (earlier.events, earlier.source)
            comparison = compare(earlier.day, then, (profile, schemas))
        # A day that may be missing is one without events, not one with too few.
        violations = events_violations(profile, comparison, self.checks) if files else ()
        return EventsReport(
            day=day,
            published=not violations,
            violations=violations,
            rows_in=account.num_rows,
            set_aside=dict(sorted(account.by_reason.items())),
            events=profile,
            source=schemas,
            earlier=comparison,
        )

    def _earlier(self, day: date) -> EventsReport | None:
        """Of the latest earlier day that has events and passed."""
        for other in sorted((other for other in self.days if other < day), reverse=True):
            report = find_events_report(self.root, other)
            if report is not None and report.published and report.events.rows:
                return report
        return None

    def _set_aside(self, account: Account, text: str) -> Violation:
        return Violation(
            check="source.max_set_aside_share",
            figure=account.bad_rows(self.source).total() / account.num_rows,
            threshold=self.source.max_set_aside_share,
            text=text,
        )
