"""Attention of one layer on one core, as it is and padded: `python -m benchmarks.attention`.

    python -m benchmarks.attention [--core N] [--repeats N]

Forward and backward over 512 rows (128 where they are long), the least of the repeats, both ways by
turns. `as it is` is `models.jagged_attention`, `padded` PyTorch's fused kernel in buckets of
similar length; `models.rows` chooses between them.
"""

import argparse
import os
import time

import numpy as np
import torch

from jobs.facts import machine
from models.attention import attend
from models.rows import Rows

NUM_HEADS = 4
# Head width, candidates a row, events a row (None: geometric with mean 7, at most 50), rows.
CASES = (
    (8, 0, None, 512),
    (8, 2, None, 512),
    (8, 10, None, 512),
    (16, 2, None, 512),
    (64, 2, None, 512),
    (16, 0, 50, 512),
    (16, 0, 100, 128),
    (16, 0, 200, 128),
    (64, 0, 200, 128),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    facts = machine()
    os.sched_setaffinity(0, {arguments.core})
    torch.set_num_threads(1)
    print(f"{NUM_HEADS} heads, one core of {facts}; ms forward + backward")
    print(f"{'width':>6}{'candidates':>12}{'events':>8}{'rows':>6}{'as it is':>10}{'padded':>9}")
    for case in CASES:
        as_it_is, padded = measure(*case, arguments.repeats)
        width, candidates, events, num_rows = case
        print(
            f"{width:>6}{candidates:>12}{events or 'mean 7':>8}{num_rows:>6}{as_it_is:>10.1f}"
            f"{padded:>9.1f}"
        )


def measure(
    width: int, candidates: int, events: int | None, num_rows: int, repeats: int
) -> tuple[float, float]:
    """Milliseconds of both ways."""
    drawn = np.minimum(np.random.default_rng(0).geometric(1 / 7, num_rows), 50)
    lengths = torch.from_numpy(drawn) if events is None else torch.full((num_rows,), events)
    history = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    own = torch.arange(num_rows + 1) * candidates if candidates else None
    tokens = int(history[-1]) + num_rows * candidates
    packed = torch.randn(tokens, 3, NUM_HEADS, width, requires_grad=True)
    gradient = torch.randn(tokens, NUM_HEADS, width)
    ways = [Rows.build(history, own, pad=pad) for pad in (False, True)]
    taken: list[list[float]] = [[], []]
    for _ in range(repeats):
        for rows, seconds in zip(ways, taken, strict=True):
            started = time.perf_counter()
            torch.autograd.grad(attend(packed, rows), packed, gradient)
            seconds.append(time.perf_counter() - started)
    return 1000 * min(taken[0]), 1000 * min(taken[1])


if __name__ == "__main__":
    main()
