"""Attention of one layer on one core, as it is and padded: `python -m benchmarks.attention`.

    python -m benchmarks.attention [--core N] [--repeats N] [--json FILE]

Forward and backward over 512 rows (128 where they are long), the least of the repeats, both ways by
turns. `as it is` is `models.jagged_attention`, `padded` PyTorch's fused kernel in buckets of
similar length; `models.rows` chooses between them. The floor counts the pairs that look at each
other, or what comes in and goes out once.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.device import confine
from benchmarks.floor import copy_rate, floor_ms, matmul_rate
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
NAMES = ("width", "candidates", "events", "rows", "as_it_is_ms", "padded_ms", "floor_ms")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    facts = machine()
    confine("cpu", arguments.core)
    print(f"{NUM_HEADS} heads, one core of {facts}; ms forward + backward")
    print("width  candidates  events  rows  as it is  padded  floor")
    results = list[dict[str, Any]]()
    for case in CASES:
        found: dict[str, Any] = dict(
            zip(NAMES, (*case, *measure(*case, arguments.repeats)), strict=True)
        )
        print(
            f"{found['width']:>5}{found['candidates']:>12}{found['events'] or 'mean 7':>8}"
            f"{found['rows']:>6}{found['as_it_is_ms']:>10.1f}{found['padded_ms']:>8.1f}"
            f"{found['floor_ms']:>7.1f}"
        )
        results.append(found)
    if arguments.json:
        written = {"machine": facts, "results": results}
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")


def measure(
    width: int, candidates: int, events: int | None, num_rows: int, repeats: int
) -> tuple[float, float, float]:
    """Milliseconds of both ways, and the floor."""
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
    looks = float((lengths * (lengths + 1) / 2 + candidates * (lengths + 1)).sum())
    return (1000 * min(taken[0]), 1000 * min(taken[1]), _floor_ms(packed, looks))


def _floor_ms(packed: torch.Tensor, looks: float) -> float:
    """Two products forward, four backward; the bytes are 4 thirds of `packed`, then 7."""
    _, _, heads, width = packed.shape
    num_bytes = packed.nbytes * 11 / 3
    return floor_ms(6 * 2 * width * heads * looks, num_bytes, matmul_rate("fp32"), copy_rate())


if __name__ == "__main__":
    main()
