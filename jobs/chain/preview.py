"""What days would do, and why: the plan beside the ledger, without doing anything."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import pairwise

from torchx.runner import get_runner

from jobs.chain.plan import DayPlan
from jobs.chain.published import published_now
from jobs.chain.schedulers import check_scheduler
from jobs.chain.settings import DailySettings, StageSettings, Submitted
from jobs.chain.settled import published_already, rejection_of
from jobs.chain.stage_job import Job
from jobs.chain.stages import Stages
from jobs.chain.start import check_brought, plan_of
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import StageKey
from jobs.settings import JobSettings
from pipeline.errors import CheckpointError, DataError, ExportError, RejectedError, WaitingError

__all__ = ["preview"]


def preview(
    arguments: argparse.Namespace,
    settings: JobSettings,
    ledger: Ledger,
    days: Sequence[date],
    *,
    accept: bool = False,
) -> Iterator[str]:
    """A line a stage of the first of some days, and a line for each of the others.

    Raises:
        WaitingError: the first day cannot run yet.
    """
    check_scheduler(settings.daily)
    with get_runner() as runner:
        lease = ledger.lease("daily", settings.daily.lease_seconds)  # not taken
        stages = Stages(
            runner=runner, ledger=ledger, lease=lease, config=arguments.config.absolute()
        )
        yield from _day(stages, settings, arguments.overrides, days[0], accept=accept)
    for before, day in pairwise(days):
        try:
            check_brought(settings, day)
        except WaitingError as error:
            yield f"{day}: would wait: {error}"
        else:
            yield f"{day}: would run all its stages once {before} is settled"


def _day(
    stages: Stages, settings: JobSettings, given: Sequence[str], day: date, *, accept: bool
) -> Iterator[str]:
    """Lines of one day."""
    if published_already(settings, stages.ledger, day):
        yield f"{day}: published already: nothing to do"
        return
    plan = plan_of(stages, settings, given, day)
    try:
        rejection, why = rejection_of(plan, stages.ledger, accept=accept)
    except RejectedError as error:
        yield f"{error}: nothing to do"
        return
    if rejection is not None:
        yield f"{day}: {rejection.state} before, but {why}"
    check_brought(plan.settings, day)
    start = "cold, it is the first" if plan.before is None else f"on from {plan.before.day}"
    yield f"{day}: {start}; tasks {', '.join(plan.tasks)}; {_scheduler(plan.settings.daily)}"
    yield from _lines(plan, stages)


def _scheduler(daily: DailySettings) -> str:
    options = ", ".join(f"{name}={value}" for name, value in daily.scheduler_options.items())
    return f"scheduler {daily.scheduler}{f' ({options})' if options else ''}"


def _lines(plan: DayPlan, stages: Stages) -> Iterator[str]:
    """What each stage would do; those that read what another would make anew would run, too."""
    would_run: set[str] = set()
    for stage, name, needs, make in _stages(plan):
        before = next((other for other in needs if other in would_run), None)
        what = f"would run after {before}" if before else _what(make, stages.why)
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
