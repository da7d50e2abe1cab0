"""One training configuration, stepped on synthetic batches, with its floor.

The process of `benchmarks.training` that measures: its argument is a case and its output the
figures, both JSON. Batches are drawn like Amazon Foods': history lengths of mean 7, at most 50,
items by a power law over 41,000, 1,000 categories. Model, tables, optimizer and loop are those of
the jobs; only the reader is replaced, by batches that are ready.

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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embeddings.initialization import initialize
from embeddings.parameters import dense_parameters, table_parameters
from embeddings.sharding import shard
from embeddings.tables import EmbeddingSettings, EmbeddingTables, TableSpec
from jobs.distributed import join_world
from jobs.loop import StepReport, TrainingLoop
from jobs.optimizers import dense_optimizer
from jobs.sections import TrainingSettings
from jobs.training import build_seeded
from models.architecture import Architecture
from models.generative import GenerativeModel, SoftmaxSettings
from models.ranking import RankingModel
from pipeline.batches import RankingBatch, SequenceBatch

__all__ = ["Case", "Measured"]

NUM_CATEGORIES = 1_000
MEAN_LENGTH, MAX_LENGTH = 7, 50
NUM_BATCHES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured."""

    task: str
    """pretraining or ranking"""
    architecture: str
    precision: str = "fp32"
    candidates: int = 2
    """a request's, in ranking"""
    rows: int = 512
    """sequences or requests of a batch"""
    num_items: int = 41_000
    frozen: bool = False
    full_length: bool = False
    """every history has `MAX_LENGTH` events"""
    num_negatives: int = 4096
    steps: int = 30
    core: int = 0
    """the only one that the process may use"""


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


class _Batches:
    """Stands in for the reader: some batches over and over."""

    def __init__(self, batches: list[Any], num_steps: int) -> None:
        self._batches = batches
        self.steps_per_epoch = num_steps

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Any]:
        """The steps' batches."""
        del epoch
        for step in range(first_step, self.steps_per_epoch):
            yield self._batches[step % len(self._batches)]

    def describe(self, batch: Any) -> str:
        """Nothing of use: the batches are drawn."""
        del batch
        return "synthetic"


class _Seconds:
    """A hook that keeps what every step took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def after_step(self, loop: TrainingLoop, report: StepReport) -> None:
        """Keep it."""
        del loop
        self.seconds.append(report.seconds)


def main() -> None:
    """Measure the case given on the command line."""
    case = Case(**json.loads(sys.argv[1]))
    os.sched_setaffinity(0, {case.core})
    print(json.dumps(asdict(measure(case))))


def measure(case: Case) -> Measured:
    """Train for some steps; the first quarter only warms up."""
    rng = np.random.default_rng(0)
    architecture = Architecture.parse(case.architecture)
    training = TrainingSettings(epochs=1, precision=case.precision, warmup_steps=0)  # pyright: ignore[reportArgumentType]
    with join_world() as world:
        model, forward = _model(case, architecture, world.device)
        make = _sequences if case.task == "pretraining" else _requests
        batches = [make(case, rng) for _ in range(NUM_BATCHES)]
        seconds = _Seconds()
        loop = TrainingLoop(
            world=world,
            model=model,
            forward=forward,
            optimizer=dense_optimizer(
                {
                    "dense": (dense_parameters(model), 1e-3, 0.1),
                    "tables": (table_parameters(model), 1e-3, 0.1),
                },
                training.betas,
            ),
            reader=_Batches(batches, case.steps),  # pyright: ignore[reportArgumentType]
            settings=training,
            hooks=[seconds],
        )
        loop.run()
        step_s = statistics.median(seconds.seconds[case.steps // 4 :])
        flops, num_bytes = _work(case, architecture, batches)
        return Measured(
            samples_per_s=statistics.mean(batch.num_samples for batch in batches) / step_s,
            step_ms=1000 * step_s,
            flops=flops,
            num_bytes=num_bytes,
            matmul_flops_per_s=_matmul_rate(case.precision),
            copy_bytes_per_s=_copy_rate(),
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )


def _model(case: Case, architecture: Architecture, device: torch.device) -> tuple[nn.Module, Any]:
    rows = {"item_id": case.num_items, "category_id": NUM_CATEGORIES}
    specs = [
        TableSpec(name=name, num_rows=number, dim=architecture.width, vocabulary_digest="")
        for name, number in rows.items()
    ]
    frozen = list(rows) if case.frozen else []
    tables = EmbeddingTables(specs, EmbeddingSettings(), frozen=frozen, device=torch.device("meta"))
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


def _lengths(case: Case, rng: np.random.Generator) -> Tensor:
    """(rows,) history lengths: geometric, so that their mean is about `MEAN_LENGTH`."""
    if case.full_length:
        return torch.full((case.rows,), MAX_LENGTH)
    return torch.from_numpy(np.minimum(rng.geometric(1 / MEAN_LENGTH, case.rows), MAX_LENGTH))


def _features(items: Tensor) -> dict[str, Tensor]:
    return {"item_id": items, "category_id": items % (NUM_CATEGORIES - 1) + 1}


def _popular(case: Case, rng: np.random.Generator, number: int) -> Tensor:
    """Items by a power law, never row 0."""
    return torch.from_numpy(rng.zipf(1.1, number) % (case.num_items - 1) + 1)


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _sequences(case: Case, rng: np.random.Generator) -> SequenceBatch:
    offsets = _offsets(_lengths(case, rng))
    return SequenceBatch(
        tokens=_features(_popular(case, rng, int(offsets[-1]))),
        offsets=offsets,
        row_ids=torch.arange(case.rows),
        weights=torch.ones(case.rows),
    )


def _requests(case: Case, rng: np.random.Generator) -> RankingBatch:
    """A positive by popularity, the others uniform."""
    offsets = _offsets(_lengths(case, rng))
    number = case.rows * case.candidates
    items = torch.from_numpy(rng.integers(1, case.num_items, number))
    is_positive = torch.arange(number) % case.candidates == 0
    items[is_positive] = _popular(case, rng, case.rows)
    return RankingBatch(
        history=_features(_popular(case, rng, int(offsets[-1]))),
        history_offsets=offsets,
        candidates=_features(items),
        candidate_offsets=torch.arange(case.rows + 1) * case.candidates,
        context={},
        labels=is_positive.float(),
        weights=torch.ones(number),
        row_ids=torch.arange(case.rows),
    )


def _work(case: Case, architecture: Architecture, batches: list[Any]) -> tuple[float, float]:
    """Floating-point operations and bytes of a step, on average over the batches."""
    works = [_work_of(case, architecture, batch) for batch in batches]
    return statistics.mean(w[0] for w in works), statistics.mean(w[1] for w in works)


def _work_of(case: Case, architecture: Architecture, batch: Any) -> tuple[float, float]:
    """Backward is twice forward. Of a ranking model's last layer, histories' keys and values only.

    Bytes: what every matrix product reads is written in forward and read in backward (15 widths a
    token and layer, in the product's type), rows of tables are read, updated and their squares
    kept, AdamW reads four and writes three numbers a dense parameter.
    """
    width, layers = architecture.width, architecture.num_layers
    if isinstance(batch, RankingBatch):
        lengths = batch.history_offsets.diff().double()
        items = torch.cat([batch.history["item_id"], batch.candidates["item_id"]])
        scored = case.rows * case.candidates
        from_scored = float(((lengths + 1) * case.candidates).sum())
        last = 2 * width**2 * (2 * float(lengths.sum()) + 13 * scored) + 4 * width * from_scored
        layers -= 1
        head = 2 * scored * (4 * width**2 + 4 * width)
        negatives = 0
    else:
        lengths = batch.offsets.diff().double()
        items = batch.tokens["item_id"]
        scored, from_scored, last = 0, 0.0, 0.0
        targets = float(lengths.sum()) - case.rows
        head = 2 * targets * width * (case.num_negatives + NUM_CATEGORIES)
        negatives = case.num_negatives
    tokens = float(lengths.sum()) + scored
    pairs = float((lengths * (lengths + 1) / 2).sum()) + from_scored
    forward = layers * (2 * 13 * width**2 * tokens + 4 * width * pairs) + last + head
    activations = 2 * 15 * width * tokens * layers * (2 if case.precision == "bf16" else 4)
    distinct = int(items.unique().numel()) + negatives + NUM_CATEGORIES
    tables = distinct * width * 4 * (1 if case.frozen else 3)
    return 3 * forward, activations + tables + 7 * 4 * architecture.num_block_parameters


def _matmul_rate(precision: str) -> float:
    """Floating-point operations a second of the product of two matrices of 1024 x 1024."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    return 2 * 1024**3 / _best_s(lambda: left @ right)


def _copy_rate() -> float:
    """Bytes read and written a second by a copy of 64 MiB."""
    source = torch.ones(2**24)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_s(lambda: target.copy_(source))


def _best_s(function: Any) -> float:
    taken = []
    for _ in range(8):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)


if __name__ == "__main__":
    main()
