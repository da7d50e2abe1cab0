"""A day that is settled: why it is run again, if it is.

    how it was settled, attempts before that, what its files are now -> words, or none

A published day is not run again: those that serve have learned from it, and its data is closed. A
rejected one is, once its files are others, or the day that it goes on from was made anew.
"""

from collections.abc import Callable
from datetime import date, timedelta
from functools import partial

from jobs.chain.inputs import source_digests
from jobs.chain.plan import DayPlan
from jobs.chain.published import published_days, published_now
from jobs.chain.stage_job import Job
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import DayRecord, Record, StageKey
from jobs.runs import differences
from jobs.settings import JobSettings
from pipeline.errors import RejectedError, WaitingError
from pipeline.partitions import days_between
from pipeline.source_files import MISSING

__all__ = ["changed_days", "holds_the_same", "published_already", "rejection_of", "serves"]


def published_already(settings: JobSettings, ledger: Ledger, day: date) -> str:
    """What is to be said of a day that is published; empty if it is not."""
    settled = ledger.settled(day)
    if settled is None or settled.state != "published":
        return ""
    if day not in changed_days(settings, ledger, day):
        return f"{day}: published already"
    if any(other < day for other in published_days(settings.data.root)):
        how = f"go back first (jobs.publish --rollback --to a day before {day})"
    else:
        how = f"start over: remove {settings.data.root / 'published'} and {ledger.name}"
    return (
        f"{day}: published already; its files were changed since, which is not taken in: what "
        f"serves has learned from them as they were. To make it again, {how}"
    )


def rejection_of(
    plan: DayPlan, ledger: Ledger, *, accept: bool = False
) -> tuple[DayRecord | None, str]:
    """A rejection that stands unless the day holds something else now, and why it may.

    None where there is none, where it is accepted, or where the day serves all the same.

    Raises:
        RejectedError: it stands.
        WaitingError: a later day is published, which went on without this one.
    """
    settled, why = ledger.settled(plan.day), ""
    if accept or serves(plan):
        settled = None
    if settled is not None:
        why = _why_it_may_differ(plan, ledger, settled)
        if not why:
            raise RejectedError(
                f"{plan.day}: rejected before: {settled.note}; mend its data, or run it with "
                "--accept to publish it all the same"
            )
    now = published_now(plan.settings.data.root)
    if now is not None and now.day > plan.day:
        raise WaitingError(
            f"{plan.day}: {now.day} is published already, and closed all days before it; go back "
            f"first (jobs.publish --rollback --to a day before {plan.day}), then run all days again"
        )
    return settled, why


def serves(plan: DayPlan) -> bool:
    """Whether the day's set is out: a driver that is killed right then does not record it."""
    now = published_now(plan.settings.data.root)
    return now is not None and now.day == plan.day


def _why_it_may_differ(plan: DayPlan, ledger: Ledger, settled: DayRecord) -> str:
    """What a rejected day would start from that it did not then; empty if nothing."""
    if plan.before is not None and plan.before.at > settled.at:
        return f"{plan.before.day}, which it goes on from, was published since"
    job = plan.prepare()
    before = ledger.latest(job.key, begun_by=settled.at)
    if before is None:
        return "never prepared"
    # Which earlier days are open depends on what is published.
    both = before.inputs.keys() & job.inputs.keys()
    now = {name: job.inputs[name] for name in sorted(both)}
    then = {name: before.inputs[name] for name in now}
    return "; ".join(differences({"inputs": then}, {"inputs": now}))


def holds_the_same(plan: DayPlan, ledger: Ledger, settled: DayRecord) -> bool:
    """Whether the stages after prepare would read what they read before the day was settled.

    Of those that had begun; new times of the same files change nothing of that.
    """
    makers: list[tuple[StageKey, Callable[[], Job | None]]] = [
        (StageKey(plan.day, "pretrain"), plan.pretrain),
        *((StageKey(plan.day, "test", t), partial(plan.test, t)) for t in plan.tasks),
        *((StageKey(plan.day, "rank", t), partial(plan.rank, t)) for t in plan.tasks),
    ]
    begun = [(ledger.latest(key, begun_by=settled.at), make) for key, make in makers]
    return any(before for before, _ in begun) and all(
        _reads_the_same(before, make()) for before, make in begun if before
    )


def _reads_the_same(before: Record, job: Job | None) -> bool:
    return job is not None and before.inputs == job.inputs


def changed_days(settings: JobSettings, ledger: Ledger, last: date) -> list[date]:
    """Closed days up to the last of them whose files are others than those that were prepared.

    Only as many days are looked at as can be built again; files that were removed do not count.
    """
    first = max(settings.days.training[0], last - timedelta(days=settings.data.keep_states - 1))
    prepared: dict[str, str] = {}
    for record in ledger.records(first, last):
        if record.key.stage == "prepare" and record.state == "succeeded":
            prepared |= {name: d for name, d in record.inputs.items() if d != MISSING}
    return [
        day
        for day in days_between(first, last)
        for name, digest in source_digests(settings, [day]).items()
        if digest not in (MISSING, prepared.get(name, digest))
    ]
