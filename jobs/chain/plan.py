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

from embeddings.export import read_export
from jobs.chain.published import Published, PublishedRanker
from jobs.chain.settings import DailySettings, Submitted
from jobs.checkpoint_files import content_digest, read_manifest
from jobs.judge import judgement_path
from jobs.ledger_records import StageKey
from jobs.monitoring_settings import MonitoringSettings
from jobs.runs import RunFolder
from jobs.settings import JobSettings
from pipeline.digests import texts_digest
from pipeline.errors import CheckpointError, ConfigError
from pipeline.partitions import day_folder, days_between, find_manifest
from pipeline.partitions import read_manifest as read_day
from pipeline.settings import load_settings, settings_digest
from pipeline.tasks import time_to_label

__all__ = ["DayPlan", "Job", "check_daily"]

VERBS: dict[Submitted, str] = {
    "prepare": "prepare",
    "test": "judge",
    "pretrain": "pretrain",
    "export": "export",
    "rank": "rank",
    "gate": "judge",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of a day, ready to be submitted."""

    stage: Submitted
    task: str
    day: date
    settings: JobSettings
    """with the overrides"""
    overrides: tuple[str, ...]
    inputs: dict[str, str]
    """what it reads -> digest"""
    folder: Path
    """where its progress.json is"""

    @property
    def key(self) -> StageKey:
        """As the ledger calls it."""
        return StageKey(self.day, self.stage, self.task)

    @property
    def verb(self) -> str:
        """The component."""
        return VERBS[self.stage]

    @property
    def config_digest(self) -> str:
        """Over the settings, but for those of the chain itself."""
        own = {"daily": DailySettings(), "monitoring": MonitoringSettings()}
        return settings_digest(self.settings.model_copy(update=own))


def check_daily(settings: JobSettings) -> None:
    """Raise ConfigError where a config cannot run day after day."""
    if settings.days.validation:
        raise ConfigError(
            "days.validation: leave it out, and days.test; day after day models are judged on the "
            "next day and on held-out users"
        )
    if not settings.holdout.share:
        raise ConfigError("holdout.share: required above 0; new models are judged on those users")
    if not settings.sequences.increments:
        raise ConfigError("sequences.increments: must be true; later days learn from increments")
    if not settings.ranking.strategy.transfers_tables:
        raise ConfigError("ranking.strategy: NT takes nothing from pretraining; choose ST&SF, say")
    if unknown := [task for task in settings.daily.tasks if task not in settings.tasks]:
        raise ConfigError(f"daily.tasks: {', '.join(unknown)}: none of [tasks]")
    if settings.data.examples or settings.source.kind != "events":
        raise ConfigError("data.examples, source.kind: the daily chain starts from local events")


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
        kept = max(first, last - timedelta(days=self.settings.data.keep_states))
        inputs = {f"source {d}": _stat_digest(self.source(d)) for d in days_between(kept, last)}
        days = [
            _range("days.pretraining", self.settings.days.pretraining[0], last),
            _range("days.ranking", self.settings.days.ranking[0], last),
            # The same day has the same labels, whether later days are there already or not.
            f'days.until="{last}"',
        ]
        return self._job("prepare", "", days, inputs, self.settings.data.root)

    def source(self, day: date) -> Path:
        """Where the user brings a day."""
        return Path(self.settings.source.path) / f"day={day.isoformat()}"

    def test(self, task: str) -> Job | None:
        """The published ranker on days that have become final since it was trained."""
        ranker = self._ranker(task)
        new = self.new_days(task)
        if ranker is None or not new:
            return None
        inputs = self._requests(new, "requests", "held_out") | {"ranker": ranker.digest}
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
        inputs = {"pretraining": _final_digest(folder)}
        overrides = self._pretraining_overrides
        return self._job("export", "", overrides, inputs, self._at_day(()).export_folder)

    def rank(self, task: str) -> Job | None:
        """On days that have become final; None where there are none."""
        days = self.new_days(task)
        if not days:
            return None
        ranker = self._ranker(task)
        overrides = [*self._days_up_to_now, f"ranking.task={task}", _range("days.ranking", *days)]
        inputs = self._requests(days, "requests") | {"export": self._export_digest()}
        if ranker is not None:
            overrides.append(f"ranking.continue_from={ranker.day}")
            overrides += self.settings.daily.stage("rank").continuing
            inputs["ranker"] = ranker.digest
        settings = self._resolved(overrides)
        folder = settings.ranking_folder(settings.ranking.strategy)
        return self._job("rank", task, overrides, inputs, folder)

    def gate(self, task: str) -> Job:
        """The candidate, and the published ranker, on held-out users' requests."""
        ranker, final = self._ranker(task), self.final_days(task)
        scored = final[-self.settings.daily.gates.days :]
        settings = self._at_day([f"ranking.task={task}"])
        candidate = settings.ranking_folder(settings.ranking.strategy)
        inputs = self._requests(scored, "held_out") | {"candidate": _final_digest(candidate)}
        models = [self.day]
        if ranker is not None:
            inputs["ranker"] = ranker.digest
            models.insert(0, ranker.day)
        named = ", ".join(f'"{day}"' for day in models)
        overrides = [
            f"judging.models=[{named}]",
            f'judging.days=["{scored[0]}", "{scored[-1]}"]',
            "judging.name=gate",
        ]
        return self._judging("gate", task, overrides, inputs)

    def final_days(self, task: str) -> list[date]:
        """Days with requests whose labels cannot change any more, ascending."""
        first = self.settings.days.ranking[0]
        found: list[date] = []
        for day in days_between(first, self.day):
            manifest = find_manifest(day_folder(self.settings.data.root, "requests", day))
            is_final = manifest is not None and task in manifest.final_tasks
            # A later day, that has been gone back from, may have made more of them final.
            if is_final and self._final_on(task, day) <= self.day:
                found.append(day)
        return found

    def new_days(self, task: str) -> list[date]:
        """Final days that no published ranker of the task has learned from, without a gap.

        Where rejected days lie between them, the latest that follow one another.
        """
        ranker = self._ranker(task)
        found: list[date] = []
        for day in self.final_days(task):
            if ranker is not None and day <= ranker.requests_until:
                continue
            if self._is_rejected(task, day):
                continue
            follows = bool(found) and day - found[-1] == timedelta(days=1)
            found = [*found, day] if follows else [day]
        return found

    def _is_rejected(self, task: str, day: date) -> bool:
        """Whether the day was, or the one on which its labels, then final, were first looked at."""
        # This day itself is being run again.
        rejected = self.rejected - {self.day}
        return not rejected.isdisjoint({day, self._final_on(task, day)})

    def _final_on(self, task: str, day: date) -> date:
        """The day with which the labels of a day become final."""
        tasks = self.settings.tasks
        wait = time_to_label(tasks, task) if tasks[task].label_actions else timedelta()
        return day + timedelta(days=-(-wait // timedelta(days=1)))

    def settings_of(self, task: str) -> JobSettings:
        """Under which the day's folders of a task are found."""
        return self._at_day([f"ranking.task={task}"])

    def _ranker(self, task: str) -> PublishedRanker | None:
        return self.before.rankers.get(task) if self.before is not None else None

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
            return {"sequences": texts_digest(read_day(f).content_digest for f in folders)}
        assert self.before is not None
        increments = read_day(day_folder(root, "increments", self.day)).content_digest
        start = day_folder(root, "pretraining", self.before.day)
        return {"increments": increments, f"pretraining {self.before.day}": _final_digest(start)}

    def _requests(self, days: Sequence[date], *kinds: str) -> dict[str, str]:
        root = self.settings.data.root
        return {
            f"{kind} {day}": read_day(day_folder(root, kind, day)).content_digest
            for kind in kinds
            for day in days
        }

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


def _final_digest(folder: Path) -> str:
    """Digest of what a finished run ended with.

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


def _stat_digest(folder: Path) -> str:
    """Over names, sizes and times of a day's files: prepare itself compares their content."""
    if not folder.is_dir():
        return "missing"
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stats = [(path.name, path.stat()) for path in files]
    return texts_digest(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
