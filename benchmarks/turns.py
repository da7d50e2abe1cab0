"""Training steps of several cases by turns, in the same processes, to compare what differs little.

Each takes some steps, then the next one does, over and over: what the machine does meanwhile
strikes all of them alike, which `benchmarks.training`, a case after the other, cannot promise.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bare_loop import step_seconds
from benchmarks.device import confine, peak_memory_bytes
from benchmarks.measured import Measured
from benchmarks.processes import answer_of
from benchmarks.step import build_model
from benchmarks.synthetic import Case, draw_all
from jobs.distributed import World, join_world
from jobs.facts import machine
from jobs.sections import TrainingSettings

__all__ = ["by_turns", "facts_of", "line", "parser_of", "ranking_of", "write"]

# Of a turn; the first only bring the model back into the caches.
STEPS, WARM_UP = 10, 2


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Arguments of every comparison of ranking steps."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="L4H32A4")
    parser.add_argument("--requests", type=int, default=512, help="a batch's, in each process")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--core", type=int, default=0, help="the first core that measures")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    return parser


def ranking_of(arguments: argparse.Namespace, **more: Any) -> Case:
    """The ranking step that was asked for, and what else is given of it."""
    return Case(
        task="ranking",
        architecture=arguments.architecture,
        rows=arguments.requests,
        core=arguments.core,
        **more,
    )


def by_turns(cases: Mapping[str, Case], turns: int) -> dict[str, Measured]:
    """Name -> figures; all cases have the same cores and processes.

    Peak memory is that of a process with all of them.
    """
    asked = json.dumps({name: asdict(case) for name, case in cases.items()})
    processes = next(iter(cases.values())).processes
    found = answer_of("benchmarks.turns", asked, str(turns), processes=processes)
    return {name: Measured(**figures) for name, figures in found.items()}


def line(name: str, found: Measured, first: Measured) -> str:
    """A line about one of them, held against the first."""
    return (
        f"{name:<24}{found.step_ms:>8.1f} ms a step{first.step_ms / found.step_ms:>7.2f} times as "
        f"quick; floor {found.floor_ms:.1f} ms, {found.floor_share:.0%}"
    )


def facts_of(cases: Mapping[str, Case], found: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """What a JSON file says of them."""
    return [{"name": name, **asdict(case), **found[name].facts()} for name, case in cases.items()]


def write(path: Path | None, results: list[dict[str, Any]]) -> None:
    """The figures and the machine, as JSON, where a file was asked for."""
    if path:
        path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


def main() -> None:
    """Measure the cases given on the command line."""
    cases = {name: Case(**case) for name, case in json.loads(sys.argv[1]).items()}
    first = next(iter(cases.values()))
    confine(first.device, first.core)
    with join_world() as world:
        found = _measure(cases, int(sys.argv[2]), world)
    if world.is_first:
        print(json.dumps({name: asdict(figures) for name, figures in found.items()}))


def _measure(cases: Mapping[str, Case], turns: int, world: World) -> dict[str, Measured]:
    batches = {
        name: draw_all(case, np.random.default_rng(world.rank)) for name, case in cases.items()
    }
    models = {name: build_model(case, world.device) for name, case in cases.items()}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    settings = TrainingSettings()
    # The first turn compiles.
    for turn in range(1 + turns):
        for name, (model, forward) in models.items():
            taken = step_seconds(world, model, forward, batches[name], settings, STEPS)[WARM_UP:]
            seconds[name] += taken if turn else []
    # Before the first case's rates are measured, which takes memory as well.
    peak = peak_memory_bytes(world.device)
    return {
        name: Measured.of(case, batches[name], seconds[name], world.device, peak)
        for name, case in cases.items()
    }


if __name__ == "__main__":
    main()
