"""What jobs.daily, jobs.backfill and jobs.publish share: the lease, the ledger, exit codes.

0  published, or nothing to do        3  rejected by a gate or by its data; what was published stays
1  failed; the same command goes on   4  waiting for data, or for the day before
2  a setting is wrong                75  another driver is at work
"""

import argparse
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from torchx.runner import get_runner
from torchx.schedulers.local_scheduler import SignalException

from jobs.chain.day import Day
from jobs.chain.inputs import source_digests
from jobs.chain.published import published_now
from jobs.chain.schedulers import check_scheduler
from jobs.chain.settled import published_already, rejection_of
from jobs.chain.stages import Stages
from jobs.chain.start import check_daily, plan_of
from jobs.ledger.ledger import Ledger, open_ledger
from jobs.ledger.records import SETTLED, StageKey
from jobs.monitoring.push import publish_serving
from jobs.settings import JobSettings
from pipeline.engine import open_engine
from pipeline.errors import (
    ConfigError,
    DataError,
    FrostrankError,
    LeaseHeldError,
    RejectedError,
    WaitingError,
)
from pipeline.events import clean_events
from pipeline.partitions import days_between
from pipeline.settings import load_settings
from pipeline.shortage import shortages_told

__all__ = [
    "YESTERDAY",
    "day_of",
    "day_text",
    "ended_by",
    "ledger_of",
    "ledger_url",
    "run_days",
    "settings_of",
    "unsettled_days",
]

_EXIT_CODES: dict[type[FrostrankError], int] = {
    ConfigError: 2,
    RejectedError: 3,
    WaitingError: 4,
    LeaseHeldError: 75,
}
_INTERRUPTED = 130

YESTERDAY = "yesterday"


def day_of(text: str) -> date:
    """YYYY-MM-DD, or "yesterday" in UTC: the newest day that can be whole."""
    if text == YESTERDAY:
        return datetime.now(UTC).date() - timedelta(days=1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no day; write 2024-01-31 or yesterday"
        ) from None


def day_text(text: str) -> str:
    """The text itself, where `day_of` understands it."""
    day_of(text)
    return text


def unsettled_days(settings: JobSettings, ledger: Ledger, last: date) -> list[date]:
    """The days up to `last` that are neither published nor rejected; `last` if all are.

    One that its data stopped is among them again once that was mended.
    """
    first = settings.days.pretraining[1]
    found = [d.day for d in ledger.days(first, last) if d.state in SETTLED]
    if found and _is_mended(ledger, settings, found[-1]):
        found.pop()
    after = found[-1] + timedelta(days=1) if found else first
    return days_between(min(after, last), last)


def _is_mended(ledger: Ledger, settings: JobSettings, day: date) -> bool:
    """Whether the files of a day that was rejected by its data are others since."""
    prepared = ledger.latest(StageKey(day, "prepare"))
    if prepared is None or prepared.state != "rejected":
        return False
    days = [date.fromisoformat(name.removeprefix("source ")) for name in prepared.inputs]
    return source_digests(settings, days) != prepared.inputs


def settings_of(arguments: argparse.Namespace) -> JobSettings:
    """The config with its overrides, fit for running day after day."""
    settings = load_settings(JobSettings, arguments.config, arguments.overrides)
    check_daily(settings)
    return settings


def ledger_url(settings: JobSettings) -> str | Path:
    """ROOT/runs/ledger.sqlite, unless the config names another one."""
    return settings.daily.ledger or settings.data.root / "runs" / "ledger.sqlite"


def ledger_of(settings: JobSettings) -> Ledger:
    """The chain's, made where there is none yet."""
    return open_ledger(ledger_url(settings))


def ended_by(main: Callable[[], None]) -> None:
    """Run a command; exit with the code that means what it ended with, after one clear line."""
    # The way out by Ctrl-C is the way out by a scheduler's TERM, also where a shell that started
    # this in the background has SIGINT ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except FrostrankError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        codes = (code for kind, code in _EXIT_CODES.items() if isinstance(error, kind))
        sys.exit(next(codes, 1))
    except (KeyboardInterrupt, SignalException):
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(_INTERRUPTED)


@contextmanager
def _driving(arguments: argparse.Namespace, settings: JobSettings) -> Generator[Stages]:
    """Alone at work on the chain.

    Raises:
        LeaseHeldError: another driver is.
    """
    ledger = ledger_of(settings)
    with ledger.lease("daily", settings.daily.lease_seconds) as lease, get_runner() as runner:
        yield Stages(runner=runner, ledger=ledger, lease=lease, config=arguments.config.absolute())


def run_days(
    arguments: argparse.Namespace,
    days: Sequence[date],
    *,
    accept: bool = False,
    cleaned_together: int = 1,
) -> None:
    """Run days one after the other, as each goes on from the one before.

    Args:
        arguments: of the command line.
        days: ascending, without a gap.
        accept: publish them whatever the gates of models say.
        cleaned_together: the events of so many days are cleaned in one go.

    Raises:
        FrostrankError: a day was not published; those after it were not run, unless a gate
            rejected it, which does not keep the next day from running.
    """
    settings = settings_of(arguments)
    check_scheduler(settings.daily)
    rejected: RejectedError | None = None
    with shortages_told(settings.data.root), _driving(arguments, settings) as stages:
        if serving := published_now(settings.data.root):
            # Also to a gateway that was down, or is new.
            publish_serving(settings.monitoring, serving.day)
        for number, day in enumerate(days):
            if cleaned_together > 1 and number % cleaned_together == 0:
                _clean_ahead(settings, days[number : number + cleaned_together])
            stages.settle_others(day, settings)
            try:
                _run_day(stages, settings, arguments, day, accept=accept)
            except RejectedError as error:
                rejected = error
                if day != days[-1]:
                    print(f"RejectedError: {error}; going on with the next day", flush=True)
    if rejected is not None:
        raise rejected


def _clean_ahead(settings: JobSettings, days: Sequence[date]) -> None:
    """Clean the events of some days at once; what is wrong with a day is left for it to say."""
    made, now = settings.preparation, published_now(settings.data.root)
    try:
        with open_engine(made.root, settings.engine) as engine:
            how = replace(made.cleaning, closed_until=now.day if now else None)
            clean_events(engine, made.root, how, days)
    except DataError as error:
        print(f"cleaning {days[0]} to {days[-1]} ahead of their turn stopped: {error}", flush=True)


def _run_day(
    stages: Stages,
    settings: JobSettings,
    arguments: argparse.Namespace,
    day: date,
    *,
    accept: bool,
) -> None:
    ledger = stages.ledger
    if said := published_already(settings, ledger, day):
        print(said, flush=True)
        return
    plan = plan_of(stages, settings, arguments.overrides, day)
    rejection, why = rejection_of(plan, ledger, accept=accept)
    if rejection is not None:
        print(f"{day}: {rejection.state} before, but {why}", flush=True)
    Day(plan=plan, stages=stages, accept=accept, rejection=rejection).run()
