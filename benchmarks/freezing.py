"""What freezing the tables saves a ranking step: `python -m benchmarks.freezing`.

    python -m benchmarks.freezing [--architecture L4H32A4] [--items N] [--requests 512]
                                  [--turns N] [--core N]

Models with trained tables, with frozen tables spread over the processes and with frozen tables
that every process holds whole take some steps each, by turns, in the same processes on the same
batches (`benchmarks.synthetic`): first in one process, then in two with a core each. What the
machine does meanwhile strikes all of them alike, which `benchmarks.training`, a case after the
other, cannot promise.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from benchmarks.bare_loop import step_seconds
from benchmarks.step import build_model
from benchmarks.synthetic import Case, draw
from jobs.distributed import World, join_world
from jobs.facts import machine
from jobs.sections import TrainingSettings
from models.architecture import Architecture

KINDS = {
    "trained": {},
    "frozen": {"frozen": True},
    "frozen, whole": {"frozen": True, "replicated": True},
}
NUM_BATCHES = 8
# Of a turn; the first only bring the model back into the caches.
STEPS, WARM_UP = 10, 2


def main() -> None:
    """Measure and print; started by itself in each process that measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="L4H32A4")
    parser.add_argument("--items", type=int, default=5_000_000, help="rows of the largest table")
    parser.add_argument("--requests", type=int, default=512, help="a batch's, in each process")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--core", type=int, default=0, help="the first core that measures")
    parser.add_argument("--here", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        _measure(Case(**json.loads(arguments.here)), arguments.turns)
        return
    size = f"{arguments.items:,} items, {arguments.requests} requests a batch"
    print(f"{arguments.architecture}, {size}, synthetic; {machine()}")
    for processes in (1, 2):
        case = Case(
            task="ranking",
            architecture=arguments.architecture,
            num_items=arguments.items,
            rows=arguments.requests,
            steps=STEPS,
            core=arguments.core,
            processes=processes,
        )
        _print(processes, _in_processes(case, arguments.turns))


def _print(processes: int, found: dict[str, float]) -> None:
    for kind, milliseconds in found.items():
        times = found["trained"] / milliseconds
        print(f"{processes} x {kind:<16}{milliseconds:>8.1f} ms a step{times:>7.2f} times as quick")


def _in_processes(case: Case, turns: int) -> dict[str, float]:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(case.processes)]
    command = [sys.executable, "-m", *launcher, "-m", "benchmarks.freezing"]
    command += ["--turns", str(turns), "--here", json.dumps(asdict(case))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(case: Case, turns: int) -> None:
    os.sched_setaffinity(0, {case.core + int(os.environ["LOCAL_RANK"])})
    with join_world() as world:
        torch.set_num_threads(1)
        found = _by_turns(case, turns, world)
    if world.is_first:
        print(json.dumps(found))


def _by_turns(case: Case, turns: int, world: World) -> dict[str, float]:
    """Kind -> the median step's milliseconds."""
    rng, architecture = np.random.default_rng(world.rank), Architecture.parse(case.architecture)
    batches: list[Any] = [draw(case, rng) for _ in range(NUM_BATCHES)]
    models = {
        kind: build_model(replace(case, **how), architecture, world.device)
        for kind, how in KINDS.items()
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    settings = TrainingSettings()
    # The first turn compiles.
    for turn in range(1 + turns):
        for kind, (model, forward) in models.items():
            taken = step_seconds(world, model, forward, batches, settings, case.steps)[WARM_UP:]
            seconds[kind] += taken if turn else []
    return {kind: 1000 * statistics.median(taken) for kind, taken in seconds.items()}


if __name__ == "__main__":
    main()
