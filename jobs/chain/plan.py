"""What a day consists of: its stages, with their settings and what they read.

    config, day, what is published -> Job of each stage, made when what it reads is there

The first day of the chain, the last one of the config's days.pretraining, starts cold and learns
from all days up to it; every later day goes on from the published day before it. A job's inputs are
digests of all that it reads, so that work that is done is not done again and work whose inputs
changed is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from embeddings.manifests import read_export
from jobs.chain.inputs import data_digests, final_digest, source_digests
from jobs.chain.published import Published, PublishedRanker, published_days, published_on
from jobs.chain.request_days import RequestDays
from jobs.chain.settings import Submitted
from jobs.chain.stage_job import Job
from jobs.judgements import judgement_path
from jobs.settings import JobSettings
from pipeline.digests import texts_digest
from pipeline.partitions import day_folder, days_between, read_manifest
from pipeline.settings import load_settings

__all__ = ["DayPlan"]


@dataclass(frozen=True, kw_only=True)
class DayPlan:
    """The stages of one day."""

    config: Path
    given: tuple[str, ...]
    """overrides from the command line"""
    settings: JobSettings
    """without any of a stage's own"""
    day: date
    before: Published | None
    """what was published last before this day; None on the first day"""
    rejected: frozenset[date] = frozenset()
    """days that nothing learns from"""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that are ranked."""
        return self.settings.daily.tasks or tuple(self.settings.tasks)

    @property
    def is_first(self) -> bool:
        """Whether the chain starts here."""
        return self.day == self.settings.days.pretraining[1]

    def prepare(self) -> Job:
        """Everything up to the day, as far as it changed."""
        first, last = self.settings.days.training[0], self.day
        closed = self.before.day if self.before else None
        kept = max(first, last - timedelta(days=self.settings.data.keep_states))
        # Whatever becomes of days that are closed, nothing of it is read.
        opened = max(kept, closed + timedelta(days=1)) if closed else kept
        inputs = source_digests(self.settings, days_between(opened, last))
        days = [
            _range("days.pretraining", self.settings.days.pretraining[0], last),
            _range("days.ranking", self.settings.days.ranking[0], last),
            # The same day has the same labels, whether later days are there already or not.
            f'days.until="{last}"',
            *([f'days.closed_until="{closed}"'] if closed else []),
        ]
        return self._job("prepare", "", days, inputs, self.settings.data.root)

    @property
    def brings_something(self) -> bool:
        """Whether the day, prepared, has anything to learn from."""
        day = day_folder(self.settings.data.root, "increments", self.day)
        return self.is_first or read_manifest(day).num_rows > 0

    def test(self, task: str) -> Job | None:
        """The ranker that served on them, on days that have become final since.

        It is of a set from before them, so that neither it nor its tables learned from what users
        did on them. None without such a set, or such days.
        """
        new = self.new_days(task)
        served = self._served_before(new[0]) if new else None
        ranker = served.rankers.get(task) if served else None
        if ranker is None:
            return None
        inputs = self._data(new, "requests", "held_out") | {"ranker": ranker.digest}
        overrides = [
            f'judging.models=["{ranker.day}"]',
            f'judging.days=["{new[0]}", "{new[-1]}"]',
            "judging.kind=all",
            "judging.name=test",
        ]
        return self._judging("test", task, overrides, inputs)

    def pretrain(self) -> Job:
        """Cold on the first day, else on from the published day on this day's increments."""
        return self._job(
            "pretrain",
            "",
            self._pretraining_overrides,
            self._pretraining_inputs(),
            self._at_day(()).pretraining_folder,
        )

    def export(self) -> Job:
        """Of that pretraining, found under the same settings."""
        folder = self._at_day(()).pretraining_folder
        inputs = {"pretraining": final_digest(folder)}
        overrides = self._pretraining_overrides
        return self._job("export", "", overrides, inputs, self._at_day(()).export_folder)

    def rank(self, task: str) -> Job | None:
        """On days that have become final; None where there are none."""
        days = self.new_days(task)
        if not days:
            return None
        ranker = self._ranker(task)
        overrides = [*self._days_up_to_now, f"ranking.task={task}", _range("days.ranking", *days)]
        inputs = self._data(days, "requests") | {"export": self._export_digest()}
        if ranker is not None:
            overrides.append(f"ranking.continue_from={ranker.day}")
            overrides += self.settings.daily.stage("rank").continuing
            inputs["ranker"] = ranker.digest
        settings = self._resolved(overrides)
        folder = settings.ranking_folder(settings.ranking.strategy)
        return self._job("rank", task, overrides, inputs, folder)

    def gate(self, task: str) -> Job:
        """The candidate, and the published ranker, on held-out users' requests."""
        ranker, scored = self._ranker(task), self.scored_days(task)
        settings = self._at_day([f"ranking.task={task}"])
        candidate = settings.ranking_folder(settings.ranking.strategy)
        inputs = self._data(scored, "held_out") | {"candidate": final_digest(candidate)}
        models = [self.day]
        if ranker is not None:
            inputs["ranker"] = ranker.digest
            models.insert(0, ranker.day)
        overrides = [
            f"judging.models=[{_quoted(models)}]",
            f'judging.days=["{scored[0]}", "{scored[-1]}"]',
            "judging.name=gate",
        ]
        if left_out := [day for day in self.left_out_days(task) if day < scored[-1]]:
            overrides.append(f"judging.left_out=[{_quoted(left_out)}]")
        return self._judging("gate", task, overrides, inputs)

    def new_days(self, task: str) -> list[date]:
        """Final days that no published ranker of the task has learned from, without a gap.

        Where rejected days lie between them, the latest that follow one another.
        """
        ranker = self._ranker(task)
        return self._requests_of(task).new(ranker.requests_until if ranker else None)

    def scored_days(self, task: str) -> list[date]:
        """The latest final days on which gates compare models; none that was rejected."""
        return self._requests_of(task).trusted[-self.settings.daily.gates.days :]

    def left_out_days(self, task: str) -> list[date]:
        """Days since the first of those that are not among them, as they were rejected."""
        scored, final = self.scored_days(task), self._requests_of(task).final
        return [day for day in days_between(scored[0], final[-1]) if day not in scored]

    def settings_of(self, task: str) -> JobSettings:
        """Under which the day's folders of a task are found."""
        return self._at_day([f"ranking.task={task}"])

    def _ranker(self, task: str) -> PublishedRanker | None:
        return self.before.rankers.get(task) if self.before is not None else None

    def _served_before(self, day: date) -> Published | None:
        """The newest set from before a day, unless it was cleared away."""
        root = self.settings.data.root
        earlier = [other for other in published_days(root) if other < min(day, self.day)]
        return published_on(root, earlier[-1]) if earlier else None

    def _judging(
        self, stage: Submitted, task: str, overrides: Sequence[str], inputs: dict[str, str]
    ) -> Job:
        settings = self.settings_of(task)
        every = [*self._days_up_to_now, f"ranking.task={task}", *overrides]
        return self._job(stage, task, every, inputs, judgement_path(settings, stage).parent)

    @property
    def _days_up_to_now(self) -> list[str]:
        """Folders are those of the day."""
        day = self.day
        return [_range("days.pretraining", day, day), _range("days.ranking", day, day)]

    @property
    def _pretraining_overrides(self) -> list[str]:
        if self.is_first:
            first = self.settings.days.pretraining[0]
            return [_range("days.pretraining", first, self.day), self._days_up_to_now[1]]
        assert self.before is not None
        return [
            *self._days_up_to_now,
            "pretraining.data=increments",
            f"pretraining.continue_from={self.before.day}",
            # Sums of squares of many days leave the tables too slow for today: docs/freshness.md.
            "pretraining.carry_optimizer=false",
            *self.settings.daily.stage("pretrain").continuing,
        ]

    def _pretraining_inputs(self) -> dict[str, str]:
        root = self.settings.data.root
        if self.is_first:
            days = days_between(self.settings.days.pretraining[0], self.day)
            folders = [day_folder(root, "sequences", day) for day in days]
            folders.append(day_folder(root, "tails", self.day))
            return {"sequences": texts_digest(read_manifest(f).content_digest for f in folders)}
        assert self.before is not None
        increments = read_manifest(day_folder(root, "increments", self.day)).content_digest
        start = day_folder(root, "pretraining", self.before.day)
        return {"increments": increments, f"pretraining {self.before.day}": final_digest(start)}

    def _data(self, days: Sequence[date], *kinds: str) -> dict[str, str]:
        return data_digests(self.settings.data.root, days, *kinds)

    def _requests_of(self, task: str) -> RequestDays:
        return RequestDays(settings=self.settings, task=task, day=self.day, rejected=self.rejected)

    def _export_digest(self) -> str:
        return read_export(self._at_day(()).export_folder).content_digest

    def _at_day(self, overrides: Sequence[str]) -> JobSettings:
        return self._resolved([*self._days_up_to_now, *overrides])

    def _resolved(self, overrides: Sequence[str]) -> JobSettings:
        return load_settings(JobSettings, self.config, [*self.given, *overrides])

    def _job(
        self,
        stage: Submitted,
        task: str,
        overrides: Sequence[str],
        inputs: dict[str, str],
        folder: Path,
    ) -> Job:
        return Job(
            stage=stage,
            task=task,
            day=self.day,
            settings=self._resolved(overrides),
            overrides=(*self.given, *overrides),
            inputs=inputs,
            folder=folder,
        )


def _range(name: str, first: date, *others: date) -> str:
    last = others[-1] if others else first
    return f'{name}=["{first}", "{last}"]'


def _quoted(days: Sequence[date]) -> str:
    return ", ".join(f'"{day}"' for day in days)
