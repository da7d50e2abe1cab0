"""One training configuration, stepped on synthetic batches, with its floor.

The process of `benchmarks.training` that measures: its argument is a case and its output the
figures, both JSON. Model, tables, optimizer and loop are those of the jobs; only the reader is
replaced, by batches that are ready (`benchmarks.synthetic`).

The floor of a step is the larger of two times: its floating-point operations at the rate measured
for products of large matrices on the same core, and the bytes that it cannot avoid to move at the
rate measured for copies.
"""

import json
import os
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.bare_loop import step_seconds
from benchmarks.floor import copy_rate, matmul_rate, work
from benchmarks.plain import PlainTraining
from benchmarks.synthetic import NUM_CATEGORIES, Case, draw
from embeddings.initialization import initialize
from embeddings.sharding import shard
from embeddings.tables import EmbeddingSettings, EmbeddingTables, TableSpec
from jobs.distributed import World, join_world
from jobs.sections import TrainingSettings
from jobs.training import build_seeded
from models.architecture import Architecture
from models.generative import GenerativeModel, SoftmaxSettings
from models.ranking import RankingModel

__all__ = ["Measured", "build_model"]

_NUM_BATCHES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came out; a sample is a sequence in pretraining, a (history, candidate) pair else."""

    samples_per_s: float
    step_ms: float
    flops: float
    num_bytes: float
    matmul_flops_per_s: float
    copy_bytes_per_s: float
    peak_memory_bytes: int

    @property
    def floor_ms(self) -> float:
        """What the step would take at the measured rates."""
        seconds = self.flops / self.matmul_flops_per_s, self.num_bytes / self.copy_bytes_per_s
        return 1000 * max(seconds)


def main() -> None:
    """Measure the case given on the command line."""
    case = Case(**json.loads(sys.argv[1]))
    os.sched_setaffinity(0, {case.core + int(os.environ.get("LOCAL_RANK", "0"))})
    with join_world() as world:
        torch.set_num_threads(1)
        found = measure(case, world)
    if world.is_first:
        print(json.dumps(asdict(found)))


def measure(case: Case, world: World) -> Measured:
    """Train for some steps; the first quarter only warms up."""
    rng = np.random.default_rng(world.rank)
    architecture = Architecture.parse(case.architecture)
    batches = [draw(case, rng) for _ in range(_NUM_BATCHES)]
    steps = _plain_steps if case.is_plain else _steps
    step_s = statistics.median(steps(case, architecture, batches, world)[case.steps // 4 :])
    flops, num_bytes = work(case, architecture, batches)
    num_samples = statistics.mean(batch.num_samples for batch in batches)
    return Measured(
        samples_per_s=world.size * num_samples / step_s,
        step_ms=1000 * step_s,
        flops=flops,
        num_bytes=num_bytes,
        matmul_flops_per_s=matmul_rate(case.precision),
        copy_bytes_per_s=copy_rate(),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _steps(case: Case, architecture: Architecture, batches: list[Any], world: World) -> list[float]:
    """Seconds of each step of the jobs' loop."""
    training = TrainingSettings(precision=case.precision)  # pyright: ignore[reportArgumentType]
    model, forward = build_model(case, architecture, world.device)
    return step_seconds(world, model, forward, batches, training, case.steps)


def _plain_steps(
    case: Case, architecture: Architecture, batches: list[Any], world: World
) -> list[float]:
    """Seconds of each step done the obvious way."""
    assert world.size == 1
    training, seconds = PlainTraining(case, architecture), list[float]()
    for step in range(case.steps):
        started = time.perf_counter()
        training.step(batches[step % len(batches)])
        seconds.append(time.perf_counter() - started)
    return seconds


def build_model(
    case: Case, architecture: Architecture, device: torch.device
) -> tuple[nn.Module, Any]:
    """The jobs' model of a case, sharded and filled; (batch, step) -> losses."""
    rows = {"item_id": case.num_items, "category_id": NUM_CATEGORIES}
    specs = [
        TableSpec(name=name, num_rows=number, dim=architecture.width, vocabulary_digest="")
        for name, number in rows.items()
    ]
    frozen = list(rows) if case.frozen else []
    settings = EmbeddingSettings(replicated_bytes=2**40 if case.replicated else 0)
    tables = EmbeddingTables(specs, settings, frozen=frozen, device=torch.device("meta"))
    if case.task == "pretraining":
        softmax = SoftmaxSettings(num_negatives=case.num_negatives)
        built = build_seeded(
            lambda: GenerativeModel(tables, rows, architecture, softmax, 0), 0, device
        )
    else:
        built = build_seeded(lambda: RankingModel(tables, list(rows), [], architecture), 0, device)
    model = shard(built, device)
    initialize(model, 0)
    if case.task == "pretraining":
        return model, model
    return model, lambda batch, _: model(batch)


if __name__ == "__main__":
    main()
