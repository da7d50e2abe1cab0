"""What a day of the chain starts from: a config fit for it, and the days before it.

config, ledger, what is published -> DayPlan
"""

from collections.abc import Sequence
from datetime import date, timedelta

from jobs.chain.plan import DayPlan
from jobs.chain.published import published_days, published_on
from jobs.chain.stages import Stages
from jobs.ledger.records import SETTLED
from jobs.settings import JobSettings
from pipeline.errors import ConfigError, WaitingError
from pipeline.partitions import day_folder, find_manifest
from pipeline.source_files import source_folder

__all__ = ["check_brought", "check_daily", "plan_of"]


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


def check_brought(settings: JobSettings, day: date) -> None:
    """Raise WaitingError where a day's data is not there yet."""
    source = source_folder(settings.source.path, day)
    was_there = find_manifest(day_folder(settings.data.root, "events", day))
    allowed = was_there or settings.source.missing_days == "allow"
    if not source.is_dir() and not allowed:
        raise WaitingError(f"{source}: no such day yet; bring it, then run the day again")


def plan_of(stages: Stages, settings: JobSettings, given: Sequence[str], day: date) -> DayPlan:
    """A day's plan on top of what was published before it.

    Raises:
        WaitingError: the day before has not been settled.
    """
    root, ledger = settings.data.root, stages.ledger
    first = settings.days.pretraining[1]
    if day < first:
        raise WaitingError(
            f"{day}: the chain starts on {first}, the last day of days.pretraining; days before "
            "it are in that first run"
        )
    earlier = [other for other in published_days(root) if other < day]
    if day > first:
        yesterday = day - timedelta(days=1)
        record = ledger.day(yesterday)
        if record is None or record.state not in SETTLED:
            state = record.state if record else "not run yet"
            raise WaitingError(
                f"{day}: the day before it, {yesterday}, is {state}; run that first (jobs.backfill "
                f"--from {yesterday} --to {day} runs both)"
            )
        if not earlier:
            raise WaitingError(
                f"{day}: nothing is published to go on from; run {first} first, or again"
            )
    return DayPlan(
        config=stages.config,
        given=tuple(given),
        settings=settings,
        day=day,
        before=published_on(root, earlier[-1]) if earlier and day > first else None,
        rejected=frozenset(d.day for d in ledger.days(first, day) if d.state == "rejected"),
    )
