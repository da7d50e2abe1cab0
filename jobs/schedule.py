"""Learning rates over a run: linear warm-up, then cosine to a tenth of the peak (paper, 5.1)."""

import math

__all__ = ["learning_rate_factor"]

FINAL_SHARE = 0.1


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """The share of the peak rate that `step` (from 0) trains with.

    >>> [learning_rate_factor(s, warmup_steps=2, total_steps=4) for s in (0, 1, 2)]
    [0.5, 1.0, 1.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
