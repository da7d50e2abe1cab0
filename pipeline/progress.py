"""How far a long piece of work has come, told to whoever shows it (a bar, a line in a log)."""

from collections.abc import Callable
from itertools import count

__all__ = ["Progress", "no_progress", "ticker"]

# Stage, steps done, steps in all.
Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """Show nothing."""
    del stage, done, total


def ticker(progress: Progress, stage: str, total: int) -> Callable[[], None]:
    """A function that reports one more step of `stage` as done each time it is called."""
    steps = count(1)
    return lambda: progress(stage, next(steps), total)
