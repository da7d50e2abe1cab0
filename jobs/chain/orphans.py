"""Processes that a killed driver left at work on this machine: the next one waits for them.

Those that are not at work yet never will be: they find another attempt admitted (`jobs.claims`).
"""

import fcntl
from threading import Event

from jobs.chain.stage_job import Job
from jobs.claims import is_claimed

__all__ = ["wait_for_orphans"]

_POLL_S = 0.5


def wait_for_orphans(job: Job, interrupted: Event) -> None:
    """Return when nobody holds what the job is about to claim.

    Raises:
        KeyboardInterrupt: `interrupted` was set, as signals reach the main thread alone.
    """
    told = False
    while is_claimed(job.claimed) or _is_preparing(job):
        if not told:
            job.say("processes of an earlier run are still at work there; waiting for them")
            told = True
        if interrupted.wait(_POLL_S):
            raise KeyboardInterrupt


def _is_preparing(job: Job) -> bool:
    path = job.settings.data.root / ".lock"
    if job.stage != "prepare" or not path.exists():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
