"""One training configuration, stepped on synthetic batches, with its floor.

The process of `benchmarks.training` and `benchmarks.gpu` that measures: its argument is a case and
its output the figures, both JSON. Model, tables, optimizer and loop are those of the jobs; only the
reader is replaced, by batches that are ready, on the device (`benchmarks.synthetic`).

The floor of a step is the larger of two times: its floating-point operations at the rate measured
for products of large matrices on the same core or GPU, and the bytes that it cannot avoid to move
at the rate measured for copies.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.bare_loop import step_seconds
from benchmarks.device import confine
from benchmarks.measured import Measured
from benchmarks.model import forward_of, model_of, table_rows
from benchmarks.plain import PlainTraining
from benchmarks.synthetic import Case, draw_all
from embeddings.initialization import initialize
from embeddings.settings import EmbeddingSettings, TableSpec
from embeddings.sharding import shard
from embeddings.tables import EmbeddingTables
from jobs.distributed import World, join_world
from jobs.sections import TrainingSettings
from jobs.training import build_seeded
from models.architecture import Architecture
from models.losses import LossSums

__all__ = ["build_model", "measure"]


def main() -> None:
    """Measure the case given on the command line."""
    case = Case(**json.loads(sys.argv[1]))
    confine(case.device, case.core)
    with join_world() as world:
        found = measure(case, world)
    if world.is_first:
        print(json.dumps(asdict(found)))


def measure(case: Case, world: World) -> Measured:
    """Train for some steps; the first quarter only warms up."""
    batches = draw_all(case, np.random.default_rng(world.rank))
    steps = _plain_steps if case.is_plain else _steps
    seconds = steps(case, [batch.to(world.device) for batch in batches], world)
    return Measured.of(case, batches, seconds[case.steps // 4 :], world.device)


def _steps(case: Case, batches: Sequence[Any], world: World) -> list[float]:
    """Seconds of each step of the jobs' loop."""
    training = TrainingSettings(precision=case.precision)  # pyright: ignore[reportArgumentType]
    model, forward = build_model(case, world.device)
    return step_seconds(world, model, forward, batches, training, case.steps)


def _plain_steps(case: Case, batches: Sequence[Any], world: World) -> list[float]:
    """Seconds of each step done the obvious way."""
    assert world.size == 1
    training, seconds = PlainTraining(case, Architecture.parse(case.architecture)), list[float]()
    for step in range(case.steps):
        started = time.perf_counter()
        training.step(batches[step % len(batches)])
        seconds.append(time.perf_counter() - started)
    return seconds


def build_model(
    case: Case, device: torch.device
) -> tuple[nn.Module, Callable[[Any, int], LossSums]]:
    """The jobs' model of a case, sharded and filled; (batch, step) -> losses."""
    architecture, rows = Architecture.parse(case.architecture), table_rows(case)
    specs = [
        TableSpec(name=name, num_rows=number, dim=architecture.width, vocabulary_digest="")
        for name, number in rows.items()
    ]
    settings = EmbeddingSettings(
        optimizer=case.table_optimizer,  # pyright: ignore[reportArgumentType]
        replicated_bytes=2**40 if case.replicated else 0,
    )
    frozen = list(rows) if case.frozen else []
    tables = EmbeddingTables(specs, settings, frozen=frozen, device=torch.device("meta"))
    model = shard(build_seeded(lambda: model_of(case, architecture, tables), 0, device), device)
    initialize(model, 0)
    return model, forward_of(case, model)


if __name__ == "__main__":
    main()
