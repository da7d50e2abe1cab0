"""How far a stage is, for whoever waits for it: a bar on a terminal, lines in a log.

progress.json, written by the stage --read_progress--> progress_of(title)(step, total, note)
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

__all__ = ["progress_of", "read_progress"]

_EVERY_S = 10


def read_progress(path: Path | None) -> dict[str, Any] | None:
    """What a stage wrote last: step, total_steps, note; None if nothing yet."""
    if path is None or not path.exists():
        return None
    return json.loads(path.read_text())


def progress_of(title: str) -> "_Bar | _Lines":
    """What shows steps as they come; to be closed at the end."""
    return _Bar(title) if sys.stderr.isatty() else _Lines(title)


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
            self._next_s = time.monotonic() + _EVERY_S
            print(f"  {self._title}: {step} of {total}, {note}", flush=True)

    def close(self) -> None: ...
