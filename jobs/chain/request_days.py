"""Which days' requests a day of the chain may use: final ones, and of those the ones to trust.

    requests made so far, rejected days -> days to learn from, days to judge models on

A day's labels become final a window later, with a later day, and that is when they are first looked
at: when that day is rejected, the labels may be what was wrong, so they count as rejected, too.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from jobs.settings import JobSettings
from pipeline.partitions import day_folder, days_between, find_manifest
from pipeline.tasks import time_to_label

__all__ = ["RequestDays"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDays:
    """Of one task, as seen on a day of the chain."""

    settings: JobSettings
    task: str
    day: date
    rejected: frozenset[date]

    @property
    def final(self) -> list[date]:
        """Days with requests whose labels cannot change any more, ascending."""
        found: list[date] = []
        for day in days_between(self.settings.days.ranking[0], self.day):
            manifest = find_manifest(day_folder(self.settings.data.root, "requests", day))
            is_final = manifest is not None and self.task in manifest.final_tasks
            # A later day, that has been gone back from, may have made more of them final.
            if is_final and self._final_on(day) <= self.day:
                found.append(day)
        return found

    @property
    def trusted(self) -> list[date]:
        """Final days without the rejected ones: their labels may be wrong."""
        return [day for day in self.final if not self._is_rejected(day)]

    def new(self, learned_until: date | None) -> list[date]:
        """Trusted days after one, without a gap: the latest that follow one another."""
        found: list[date] = []
        for day in self.trusted:
            if learned_until is not None and day <= learned_until:
                continue
            follows = bool(found) and day - found[-1] == timedelta(days=1)
            found = [*found, day] if follows else [day]
        return found

    def _is_rejected(self, day: date) -> bool:
        """Whether the day was, or the one on which its labels, then final, were first looked at."""
        # This day itself is being run again.
        rejected = self.rejected - {self.day}
        return not rejected.isdisjoint({day, self._final_on(day)})

    def _final_on(self, day: date) -> date:
        """The day with which the labels of a day become final."""
        tasks = self.settings.tasks
        has_window = bool(tasks[self.task].label_actions)
        wait = time_to_label(tasks, self.task) if has_window else timedelta()
        return day + timedelta(days=-(-wait // timedelta(days=1)))
