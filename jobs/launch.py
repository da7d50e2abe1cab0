"""Submits one stage through the torchx Runner and watches it to its end.

Progress comes from the stage's progress.json, so that any scheduler with a shared file system can
be watched; the stage's own output stays in the scheduler's logs and is shown when it fails.
"""

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchx.runner import Runner
from torchx.schedulers.local_scheduler import SignalException
from torchx.specs import AppState
from tqdm import tqdm

from pipeline import errors
from pipeline.errors import StageError

__all__ = ["run_stage"]

_POLL_S = 0.5
_COMPONENTS = Path(__file__).with_name("components.py")
_LAST_LINES = 40


def run_stage(
    runner: Runner,
    verb: str,
    arguments: Sequence[str],
    *,
    title: str,
    log_folder: Path,
    progress: Path | None = None,
) -> float:
    """Run `jobs.<verb>` on local_cwd to its end; returns its seconds.

    Args:
        runner: the torchx Runner.
        verb: a component of jobs/components.py.
        title: what the stage is called on the screen.
        arguments: of the component: --config FILE, -j NxM, then overrides a.b=value.
        log_folder: where the scheduler keeps the stage's output.
        progress: the stage's progress.json, if it writes one.

    Raises:
        StageError: the stage failed; with the error it ended with.
    """
    started_s = time.monotonic()
    app = runner.run_component(
        f"{_COMPONENTS}:{verb}",
        list(arguments),
        scheduler="local_cwd",
        cfg={"log_dir": str(log_folder)},
    )
    try:
        state = _watch(runner, app, title, progress)
    except (KeyboardInterrupt, SignalException):
        runner.cancel(app)
        raise
    if state != AppState.SUCCEEDED:
        raise StageError(f"{title} ended {state.name}: {_reason(log_folder)}")
    return time.monotonic() - started_s


def _watch(runner: Runner, app: str, title: str, progress: Path | None) -> AppState:
    show = _Bar(title) if sys.stderr.isatty() else _Lines(title)
    last = _read(progress)
    while True:
        status = runner.status(app)
        now = _read(progress)
        if now is not None and now != last:
            show(now["step"], now["total_steps"], now["note"])
            last = now
        if status is not None and status.is_terminal():
            show.close()
            return status.state
        time.sleep(_POLL_S)


def _read(progress: Path | None) -> dict[str, Any] | None:
    if progress is None or not progress.exists():
        return None
    return json.loads(progress.read_text())


class _Bar:
    """A bar on a terminal."""

    def __init__(self, title: str) -> None:
        self._bar: tqdm[Any] = tqdm(desc=f"  {title}", total=0, unit="step", dynamic_ncols=True)

    def __call__(self, step: int, total: int, note: str) -> None:
        self._bar.total, self._bar.n = total, step
        self._bar.set_postfix_str(note)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """A line every ten seconds in a log."""

    def __init__(self, title: str) -> None:
        self._title, self._next_s = title, 0.0

    def __call__(self, step: int, total: int, note: str) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + 10
            print(f"  {self._title}: {step} of {total}, {note}", flush=True)

    def close(self) -> None: ...


def _reason(log_folder: Path) -> str:
    """The error that a rank ended with, or, where there is none, the end of the output."""
    logs = sorted(log_folder.rglob("stderr.log"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return f"it wrote nothing under {log_folder}"
    lines = logs[-1].read_text(errors="replace").splitlines()
    named = "|".join(errors.__all__)
    for line in lines:
        found = re.search(rf"(?:^|[:\s])((?:{named}): .*)", line)
        if found:
            return f"{found.group(1)}\nIts output is in {logs[-1]}"
    return "\n".join([f"the end of {logs[-1]}:", *lines[-_LAST_LINES:]])
