"""What a day would do, and why: the plan beside the ledger, without doing anything."""

import argparse
from collections.abc import Callable, Iterator
from datetime import date

from torchx.runner import get_runner

from jobs.chain.day import plan_of
from jobs.chain.driver import ledger_of, settings_of
from jobs.chain.plan import DayPlan, Job
from jobs.chain.stages import Stages
from pipeline.errors import CheckpointError, DataError, ExportError

__all__ = ["preview"]


def preview(arguments: argparse.Namespace, day: date) -> None:
    """Print a line a stage.

    Raises:
        WaitingError: the day cannot run yet.
    """
    settings = settings_of(arguments)
    ledger = ledger_of(settings)
    with get_runner() as runner:
        lease = ledger.lease("daily", settings.daily.lease_seconds)  # not taken
        stages = Stages(runner=runner, ledger=ledger, lease=lease, config=arguments.config)
        plan = plan_of(stages, settings, arguments.overrides, day)
        start = "cold, it is the first" if plan.before is None else f"on from {plan.before.day}"
        print(f"{day}: {start}; tasks {', '.join(plan.tasks)}")
        for line in _lines(plan, stages):
            print(line)


def _lines(plan: DayPlan, stages: Stages) -> Iterator[str]:
    """A stage that follows one that would run would run, too: what it reads changes."""
    earlier = ""
    for name, make in _stages(plan):
        what, earlier = _line(make, stages, earlier or "")
        yield f"  {name}: {what}"
        earlier = earlier and (earlier if earlier != "runs" else name)


def _line(make: Callable[[], Job | None], stages: Stages, earlier: str) -> tuple[str, str]:
    """What a stage would do, and "runs" if it would run."""
    if earlier:
        return f"would run after {earlier}", earlier
    try:
        job = make()
    except (CheckpointError, DataError, ExportError) as error:
        return f"would run, as what it reads is not there: {error}", "runs"
    if job is None:
        return "nothing to do: no new final days", ""
    why = stages.why(job)
    return (f"would run: {why}", "runs") if why else ("done", "")


def _stages(plan: DayPlan) -> Iterator[tuple[str, Callable[[], Job | None]]]:
    yield "prepare", plan.prepare
    for task in plan.tasks:
        yield f"test ({task})", lambda task=task: plan.test(task)
    yield "pretrain", plan.pretrain
    yield "export", plan.export
    for task in plan.tasks:
        yield f"rank ({task})", lambda task=task: plan.rank(task)
        yield f"gate ({task})", lambda task=task: plan.gate(task)
