"""Learning rates over a run: linear warm-up, then cosine to a tenth of the peak (paper, 5.1).

Or level after the warm-up, for runs that go on from day to day, where no day is the last.
"""

import math
from typing import Literal

__all__ = ["Schedule", "learning_rate_factor"]

Schedule = Literal["cosine", "constant"]

FINAL_SHARE = 0.1


def learning_rate_factor(
    step: int, *, warmup_steps: int, total_steps: int, schedule: Schedule = "cosine"
) -> float:
    """The share of the peak rate that `step` (from 0) trains with.

    >>> [learning_rate_factor(s, warmup_steps=2, total_steps=4) for s in (0, 1, 2)]
    [0.5, 1.0, 1.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
