"""Submits stages through the torchx Runner, on any scheduler, and watches them to their end.

Progress comes from the stage's progress.json, so that any scheduler with a shared file system can
be watched; the stage's own output stays in the scheduler's logs, and what it failed with is told.
"""

import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

from torchx.runner import Runner
from torchx.schedulers.local_scheduler import SignalException
from torchx.specs import (
    AppState,
    AppStatus,
    BindMount,
    DeviceMount,
    VolumeMount,
    make_app_handle,
    parse_mounts,
)

from jobs import components
from jobs.reasons import reason_of
from jobs.stage_progress import progress_of, read_progress
from pipeline.errors import ConfigError, StageError, UnansweredError

__all__ = ["Submission", "cancel", "find_job", "mounts_of", "run_stage", "submit", "watch"]

_POLL_S = 0.5
# Slurm's accounting hears of a job some time after its submission.
_UNHEARD_OF_S = 60.0
# A scheduler that does not answer may be about to: jobs go on meanwhile.
_UNANSWERED_S = 600.0
_AGAIN = "run the same command again when it answers"
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
    mounts: Sequence[str] = ()
    """what its containers see of outside, see `mounts_of`"""
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
        role.mounts = mounts_of(asked.mounts)
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
    with _answering(f"{asked.scheduler} did not take {asked.title}", StageError):
        return runner.run(app, asked.scheduler, options)


def mounts_of(texts: Sequence[str]) -> list[BindMount | VolumeMount | DeviceMount]:
    """Mounts as torchx writes them, `type=bind,src=/data,dst=/data`.

    Raises:
        ConfigError: one is not written like that.
    """
    found: list[BindMount | VolumeMount | DeviceMount] = []
    for text in texts:
        try:
            found += parse_mounts(text.split(","))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"daily.mounts: {text!r}: {error}; write type=bind,src=/data,dst=/data, say"
            ) from None
    return found


@contextmanager
def _answering(what: str, kind: type[StageError] = UnansweredError) -> Generator[None]:
    """Raise `kind` in place of what a scheduler fails with: each has errors of its own."""
    try:
        yield
    except SignalException:
        raise
    except Exception as error:
        raise kind(f"{what}: {type(error).__name__}: {error}") from error


def find_job(runner: Runner, scheduler: str, name: str, since: datetime) -> str | None:
    """Handle of what was submitted under a name since then; None if the scheduler has no such job.

    Raises:
        UnansweredError: it does not answer, so nobody can say.
    """
    if scheduler in _FORGETFUL:
        return None
    if scheduler != "slurm":
        with _answering(f"{scheduler} does not say whether it has a job; {_AGAIN}"):
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
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise UnansweredError(
            f"{command[0]}: {said.strip()}; Slurm must say whether it has a job before that is "
            f"submitted again: {_AGAIN}"
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
        UnansweredError: its scheduler has not answered for ten minutes, or could not cancel it.
        KeyboardInterrupt: `interrupted` was set, as signals reach the main thread alone.
    """
    interrupted = interrupted or Event()
    show = progress_of(asked.title)
    last, started_s = read_progress(asked.progress), time.monotonic()
    heard_of_s, asking = started_s, _Asking(runner, handle)
    while True:
        status = asking.status()
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
            cancel(runner, handle)
            raise StageError(f"{asked.title} was cancelled: it took more than {timeout_s:.0f} s")
        if interrupted.wait(_POLL_S):
            raise KeyboardInterrupt


class _Asking:
    """How a job is, asked again and again."""

    def __init__(self, runner: Runner, handle: str) -> None:
        self._runner, self._handle = runner, handle
        self._answered_s, self._is_told = time.monotonic(), False

    def status(self) -> AppStatus | None:
        """What the scheduler says of it; None if it does not know it.

        Where the scheduler does not answer, the job goes on all the same, and so does this.

        Raises:
            UnansweredError: it has not answered for long.
        """
        try:
            with _answering(f"{self._handle}: its scheduler does not say how it is"):
                status = self._answer()
        except UnansweredError as error:
            if time.monotonic() - self._answered_s > _UNANSWERED_S:
                raise UnansweredError(f"{error}; {_AGAIN}") from error
            if not self._is_told:
                print(f"{error}; asking on", flush=True)
            self._is_told = True
            return AppStatus(AppState.RUNNING)
        self._answered_s, self._is_told = time.monotonic(), False
        return status

    def _answer(self) -> AppStatus | None:
        try:
            return self._runner.status(self._handle)
        except AssertionError as error:
            # torchx 0.7 does not know Slurm's "CANCELLED by <uid>".
            if "CANCELLED" in str(error):
                return AppStatus(AppState.CANCELLED)
            raise
        except subprocess.CalledProcessError:
            # Slurm's accounting, which may be away for long.
            return AppStatus(AppState.RUNNING)


def cancel(runner: Runner, handle: str) -> None:
    """Have the scheduler end a job.

    Raises:
        UnansweredError: it does not answer, so the job may go on.
    """
    with _answering(f"{handle} could not be cancelled"):
        runner.cancel(handle)


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
        cancel(runner, handle)
        raise
    if state != AppState.SUCCEEDED:
        raise StageError(f"{asked.title} ended {state.name}: {reason_of(asked.log_folder)}")
    return time.monotonic() - started_s
