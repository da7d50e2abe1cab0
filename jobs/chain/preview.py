"""What a day would do, and why: the plan beside the ledger, without doing anything."""

import argparse
from collections.abc import Callable, Iterator
from datetime import date

from torchx.runner import get_runner

from jobs.chain.driver import ledger_of, settings_of
from jobs.chain.plan import DayPlan
from jobs.chain.schedulers import check_scheduler
from jobs.chain.stage_job import Job
from jobs.chain.stages import Stages
from jobs.chain.start import SETTLED, plan_of
from pipeline.errors import CheckpointError, DataError, ExportError

__all__ = ["preview"]


def preview(arguments: argparse.Namespace, day: date) -> None:
    """Print a line a stage.

    Raises:
        WaitingError: the day cannot run yet.
    """
    settings = settings_of(arguments)
    check_scheduler(settings.daily)
    ledger = ledger_of(settings)
    with get_runner() as runner:
        lease = ledger.lease("daily", settings.daily.lease_seconds)  # not taken
        stages = Stages(
            runner=runner, ledger=ledger, lease=lease, config=arguments.config.absolute()
        )
        plan = plan_of(stages, settings, arguments.overrides, day)
        record = ledger.day(day)
        is_settled = bool(record and record.state in SETTLED and not stages.changed(plan.prepare()))
        if record and is_settled:
            print(f"{day}: {record.state} already, on the same data: nothing to do")
            if record.state == "rejected":
                return
        start = "cold, it is the first" if plan.before is None else f"on from {plan.before.day}"
        print(f"{day}: {start}; tasks {', '.join(plan.tasks)}")
        # Another version of the program does not make a published day anew.
        for line in _lines(plan, stages.changed if is_settled else stages.why):
            print(line)


def _lines(plan: DayPlan, why: Callable[[Job], str]) -> Iterator[str]:
    """What each stage would do; those that read what another would make anew would run, too."""
    would_run: set[str] = set()
    for name, needs, make in _stages(plan):
        before = next((other for other in needs if other in would_run), None)
        what = f"would run after {before}" if before else _what(make, why)
        if what.startswith("would run"):
            would_run.add(name)
        yield f"  {name}: {what}"


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
) -> Iterator[tuple[str, tuple[str, ...], Callable[[], Job | None]]]:
    """Name, stages whose results it reads, and its job."""
    yield "prepare", (), plan.prepare
    for task in plan.tasks:
        yield f"test ({task})", ("prepare",), lambda task=task: plan.test(task)
    yield "pretrain", ("prepare",), plan.pretrain
    yield "export", ("pretrain",), plan.export
    for task in plan.tasks:
        rank = f"rank ({task})"
        yield rank, ("prepare", "export"), lambda task=task: plan.rank(task)
        yield f"gate ({task})", ("prepare", rank), lambda task=task: _gate(plan, task)


def _gate(plan: DayPlan, task: str) -> Job | None:
    """None where there is no candidate."""
    return plan.gate(task) if plan.new_days(task) else None
