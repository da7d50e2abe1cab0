"""Submits stages through the torchx Runner, on any scheduler, and watches them to their end.

Progress comes from the stage's progress.json, so that any scheduler with a shared file system can
be watched; the stage's own output stays in the scheduler's logs, and what it failed with is told.
"""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

from torchx.runner import Runner
from torchx.schedulers.local_scheduler import SignalException
from torchx.specs import AppState, AppStatus, make_app_handle

from jobs import components
from jobs.reasons import reason_of
from jobs.stage_progress import progress_of, read_progress
from pipeline.errors import StageError

__all__ = ["Submission", "find_job", "run_stage", "submit", "watch"]

_POLL_S = 0.5
# Slurm's accounting hears of a job some time after its submission.
_UNHEARD_OF_S = 60.0
# Whose jobs only the process knows that submitted them.
_FORGETFUL = ("local_cwd",)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One stage for a scheduler."""

    verb: str
    """a component of jobs/components.py"""
    config: Path
    name: str = ""
    """its own alone: a driver that comes after this one finds it by that, see `find_job`"""
    overrides: Sequence[str] = ()
    title: str
    """what the stage is called on the screen"""
    log_folder: Path
    """where the scheduler keeps the stage's output, if it is on this machine"""
    progress: Path | None = None
    """the stage's progress.json, if it writes one"""
    nodes: int = 1
    processes: int = 1
    resume: bool = False
    image: str = "frostrank"
    scheduler: str = "local_cwd"
    options: Mapping[str, Any] = field(default_factory=dict)
    """of the scheduler"""
    cpus: int = 2
    gpus: int = 0
    memory_mb: int = 4096
    scheduler_retries: int = 0


def submit(runner: Runner, asked: Submission) -> str:
    """Hand a stage to its scheduler; returns the handle.

    Raises:
        StageError: it was not taken.
    """
    arguments: dict[str, Any] = {"image": asked.image}
    if asked.verb != "prepare":
        arguments["j"] = f"{asked.nodes}x{asked.processes}"
    if asked.resume:
        arguments["resume"] = True
    app = getattr(components, asked.verb)(str(asked.config), *asked.overrides, **arguments)
    if asked.name:
        app.name = f"{app.name}-{asked.name}"
    for role in app.roles:
        role.max_retries = asked.scheduler_retries
        role.resource.cpu = asked.cpus
        role.resource.gpu = asked.gpus
        role.resource.memMB = asked.memory_mb
    options = dict(asked.options)
    if asked.scheduler == "local_cwd":
        options["log_dir"] = str(asked.log_folder)
    elif asked.scheduler == "slurm":
        # A job starts in this folder and writes its output there.
        asked.log_folder.mkdir(parents=True, exist_ok=True)
        options.setdefault("job_dir", str(asked.log_folder))
        for role in app.roles if asked.name else ():
            # There the roles' names are the jobs' names, and the app's is lost.
            role.name = f"{role.name}-{asked.name}"
    try:
        return runner.run(app, asked.scheduler, options)
    except subprocess.CalledProcessError as error:
        raise StageError(f"{asked.scheduler} did not take {asked.title}: {error}") from None


def find_job(runner: Runner, scheduler: str, name: str, since: datetime) -> str | None:
    """Handle of what was submitted under a name since then; None if the scheduler has no such job.

    Raises:
        StageError: it does not answer, so nobody can say.
    """
    if scheduler in _FORGETFUL:
        return None
    if scheduler != "slurm":
        apps = runner.list(scheduler)
        return next((app.app_handle for app in apps if name in app.app_id), None)
    # torchx lists Slurm's jobs without their names. The queue knows new ones first, the accounting
    # also those that ended long ago; a day starts there in the cluster's time zone.
    day = (since - timedelta(days=1)).strftime("%Y-%m-%d")
    jobs = [
        *_listed("squeue", "--me", "--states=all", "--noheader", "--format=%A|%j"),
        *_listed("sacct", "-X", "-n", "-P", f"--starttime={day}", "--format=JobIDRaw,JobName"),
    ]
    parts = (line.partition("|") for line in jobs)
    numbers = [int(number) for number, _, job in parts if name in job]
    # A job of several nodes is known by the first of its parts.
    return make_app_handle("slurm", runner.name(), str(min(numbers))) if numbers else None


def _listed(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise StageError(
            f"{command[0]}: {error.stderr.strip()}; Slurm must say whether it has a job before "
            "that is submitted again: run the same command again when it answers"
        ) from None
    return done.stdout.splitlines()


def watch(
    runner: Runner,
    handle: str,
    asked: Submission,
    *,
    timeout_s: float | None = None,
    interrupted: Event | None = None,
) -> AppState:
    """Wait for a stage's end and show how it gets on; UNKNOWN if the scheduler does not know it.

    Raises:
        StageError: it took longer than `timeout_s`, and was cancelled.
        KeyboardInterrupt: `interrupted` was set, as signals reach the main thread alone.
    """
    interrupted = interrupted or Event()
    show = progress_of(asked.title)
    last, started_s = read_progress(asked.progress), time.monotonic()
    heard_of_s = started_s
    while True:
        status = _status(runner, handle)
        now = read_progress(asked.progress)
        if now is not None and now != last:
            show(now["step"], now["total_steps"], now["note"])
            last = now
        if status is not None and status.state != AppState.UNKNOWN:
            heard_of_s = time.monotonic()
        is_lost = time.monotonic() - heard_of_s > _UNHEARD_OF_S
        if status is None or status.is_terminal() or is_lost:
            show.close()
            return status.state if status else AppState.UNKNOWN
        if timeout_s is not None and time.monotonic() - started_s > timeout_s:
            runner.cancel(handle)
            raise StageError(f"{asked.title} was cancelled: it took more than {timeout_s:.0f} s")
        if interrupted.wait(_POLL_S):
            raise KeyboardInterrupt


def _status(runner: Runner, handle: str) -> AppStatus | None:
    """What the scheduler says of a job; None if it does not know it."""
    try:
        return runner.status(handle)
    except AssertionError as error:
        # torchx 0.7 does not know Slurm's "CANCELLED by <uid>".
        if "CANCELLED" in str(error):
            return AppStatus(AppState.CANCELLED)
        raise
    except subprocess.CalledProcessError:
        # Slurm's accounting does not answer; the job goes on all the same.
        return AppStatus(AppState.RUNNING)


def run_stage(runner: Runner, asked: Submission) -> float:
    """Run a stage to its end; returns its seconds.

    Raises:
        StageError: the stage failed; with the error it ended with.
    """
    started_s = time.monotonic()
    handle = submit(runner, asked)
    try:
        state = watch(runner, handle, asked)
    except (KeyboardInterrupt, SignalException):
        runner.cancel(handle)
        raise
    if state != AppState.SUCCEEDED:
        raise StageError(f"{asked.title} ended {state.name}: {reason_of(asked.log_folder)}")
    return time.monotonic() - started_s
