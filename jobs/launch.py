"""Submits one stage through the torchx Runner and watches it to its end.

Progress comes from the stage's progress.json, so that any scheduler with a shared file system can
be watched; the stage's own output stays in the scheduler's logs and is shown when it fails.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchx.runner import Runner
from torchx.specs import AppState
from tqdm import tqdm

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
        StageError: the stage failed; the message has the end of its output.
    """
    _put_python_first()
    started_s = time.monotonic()
    app = runner.run_component(
        f"{_COMPONENTS}:{verb}",
        list(arguments),
        scheduler="local_cwd",
        cfg={"log_dir": str(log_folder)},
    )
    try:
        state = _watch(runner, app, title, progress)
    except KeyboardInterrupt:
        runner.cancel(app)
        raise
    if state != AppState.SUCCEEDED:
        raise StageError(f"{title} ended {state.name}. Its last lines:\n{_tail(log_folder)}")
    return time.monotonic() - started_s


def _put_python_first() -> None:
    """Let the scheduler's shell find torchrun beside the Python that runs us."""
    here = str(Path(sys.executable).parent)
    if os.environ["PATH"].split(os.pathsep)[0] != here:
        os.environ["PATH"] = here + os.pathsep + os.environ["PATH"]


def _watch(runner: Runner, app: str, title: str, progress: Path | None) -> AppState:
    show = _bar(title) if sys.stderr.isatty() else _lines(title)
    last = _read(progress)
    while True:
        status = runner.status(app)
        now = _read(progress)
        if now is not None and now != last:
            show(now["step"], now["total_steps"], now["loss"])
            last = now
        if status is not None and status.is_terminal():
            return status.state
        time.sleep(_POLL_S)


def _read(progress: Path | None) -> dict[str, Any] | None:
    if progress is None or not progress.exists():
        return None
    return json.loads(progress.read_text())


def _bar(title: str) -> Callable[[int, int, float], None]:
    bar: tqdm[Any] | None = None

    def show(step: int, total: int, loss: float) -> None:
        nonlocal bar
        bar = bar or tqdm(total=total, desc=f"  {title}", unit="step", dynamic_ncols=True)
        bar.update(step - bar.n)
        bar.set_postfix(loss=f"{loss:.4f}")
        if step == total:
            bar.close()

    return show


def _lines(title: str) -> Callable[[int, int, float], None]:
    next_s = 0.0

    def show(step: int, total: int, loss: float) -> None:
        nonlocal next_s
        if step == total or time.monotonic() >= next_s:
            next_s = time.monotonic() + 10
            print(f"  {title}: step {step} of {total}, loss {loss:.4f}", flush=True)

    return show


def _tail(log_folder: Path) -> str:
    """The last lines that the stage's processes wrote to their error output."""
    logs = sorted(log_folder.rglob("stderr.log"), key=lambda path: path.stat().st_mtime)
    lines = logs[-1].read_text(errors="replace").splitlines() if logs else ["(no output found)"]
    return "\n".join(lines[-_LAST_LINES:])
