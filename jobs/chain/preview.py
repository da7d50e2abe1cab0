"""What days would do, and why: the plan beside the ledger, without doing anything."""

import argparse
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from torchx.runner import get_runner

from jobs.chain.driver import ledger_of, settings_of
from jobs.chain.plan import DayPlan
from jobs.chain.published import published_now
from jobs.chain.schedulers import check_scheduler
from jobs.chain.settings import DailySettings, StageSettings, Submitted
from jobs.chain.stage_job import Job
from jobs.chain.stages import Stages
from jobs.chain.start import SETTLED, check_brought, plan_of
from jobs.ledger.records import StageKey
from pipeline.errors import CheckpointError, DataError, ExportError, WaitingError

__all__ = ["nothing_made", "preview"]


@contextmanager
def nothing_made(arguments: argparse.Namespace) -> Generator[None]:
    """Look at a chain: where there is no ledger's file yet, at an empty one that is nowhere."""
    settings = settings_of(arguments)
    url = settings.daily.ledger or str(settings.data.root / "runs" / "ledger.sqlite")
    if url.startswith("postgres") or Path(url.removeprefix("sqlite:///")).exists():
        yield
        return
    with TemporaryDirectory(prefix="frostrank-") as folder:
        arguments.overrides = [*arguments.overrides, f"daily.ledger={folder}/ledger.sqlite"]
        yield


def preview(arguments: argparse.Namespace, days: Sequence[date]) -> Iterator[str]:
    """A line a stage of the first of some days, and a line for each of the others.

    Raises:
        WaitingError: the first day cannot run yet.
    """
    settings = settings_of(arguments)
    check_scheduler(settings.daily)
    ledger = ledger_of(settings)
    with get_runner() as runner:
        lease = ledger.lease("daily", settings.daily.lease_seconds)  # not taken
        stages = Stages(
            runner=runner, ledger=ledger, lease=lease, config=arguments.config.absolute()
        )
        plan = plan_of(stages, settings, arguments.overrides, days[0])
        yield from _day(plan, stages)
    for before, day in pairwise(days):
        try:
            check_brought(settings, day)
        except WaitingError as error:
            yield f"{day}: would wait: {error}"
        else:
            yield f"{day}: would run all its stages once {before} is settled"


def _day(plan: DayPlan, stages: Stages) -> Iterator[str]:
    """Lines of one day."""
    day, record = plan.day, stages.ledger.day(plan.day)
    is_settled = bool(record and record.state in SETTLED and not stages.changed(plan.prepare()))
    if record and is_settled:
        yield f"{day}: {record.state} already, on the same data: nothing to do"
        if record.state == "rejected":
            return
    else:
        check_brought(plan.settings, day)
    start = "cold, it is the first" if plan.before is None else f"on from {plan.before.day}"
    yield f"{day}: {start}; tasks {', '.join(plan.tasks)}; {_scheduler(plan.settings.daily)}"
    # Another version of the program does not make a published day anew.
    yield from _lines(plan, stages, stages.changed if is_settled else stages.why)


def _scheduler(daily: DailySettings) -> str:
    options = ", ".join(f"{name}={value}" for name, value in daily.scheduler_options.items())
    return f"scheduler {daily.scheduler}{f' ({options})' if options else ''}"


def _lines(plan: DayPlan, stages: Stages, why: Callable[[Job], str]) -> Iterator[str]:
    """What each stage would do; those that read what another would make anew would run, too."""
    would_run: set[str] = set()
    for stage, name, needs, make in _stages(plan):
        before = next((other for other in needs if other in would_run), None)
        what = f"would run after {before}" if before else _what(make, why)
        if what.startswith("would run"):
            would_run.add(name)
            what += f"; {_asked(plan.settings.daily.stage(stage))}"
        yield f"  {name}: {what}"
    yield f"  publish: {_publish(plan, stages, is_new=bool(would_run))}"


def _publish(plan: DayPlan, stages: Stages, *, is_new: bool) -> str:
    if is_new:
        return "would run last, if every gate is passed"
    record = stages.ledger.latest(StageKey(plan.day, "publish"))
    now = published_now(plan.settings.data.root)
    if record and record.state == "succeeded" and now and now.day == plan.day:
        return "done"
    return "would run, if every gate is passed"


def _asked(asked: StageSettings) -> str:
    """What a stage asks of the scheduler, how often it is tried and how long it may take."""
    gpus = f", {asked.gpus} GPUs" if asked.gpus else ""
    retries = f", scheduler_retries {asked.scheduler_retries}" if asked.scheduler_retries else ""
    ranks = f"{asked.nodes}x{asked.processes} processes"
    return (
        f"{ranks}, {asked.cpus} CPUs{gpus}, {asked.memory_mb} MB; "
        f"{asked.attempts} attempts{retries}, up to {asked.timeout} each"
    )


def _what(make: Callable[[], Job | None], why: Callable[[Job], str]) -> str:
    """Of a stage whose inputs stay as they are."""
    try:
        job = make()
    except (CheckpointError, DataError, ExportError) as error:
        return f"would run, as what it reads is not there: {error}"
    if job is None:
        return "nothing to do: no new final days"
    reason = why(job)
    return f"would run: {reason}" if reason else "done"


def _stages(
    plan: DayPlan,
) -> Iterator[tuple[Submitted, str, tuple[str, ...], Callable[[], Job | None]]]:
    """Stage, its name with its task, stages whose results it reads, and its job."""
    yield "prepare", "prepare", (), plan.prepare
    for task in plan.tasks:
        yield "test", f"test ({task})", ("prepare",), lambda task=task: plan.test(task)
    yield "pretrain", "pretrain", ("prepare",), plan.pretrain
    yield "export", "export", ("pretrain",), plan.export
    for task in plan.tasks:
        rank = f"rank ({task})"
        yield "rank", rank, ("prepare", "export"), lambda task=task: plan.rank(task)
        gate = f"gate ({task})"
        yield "gate", gate, ("prepare", rank), lambda task=task: _gate(plan, task)


def _gate(plan: DayPlan, task: str) -> Job | None:
    """None where there is no candidate."""
    return plan.gate(task) if plan.new_days(task) else None
