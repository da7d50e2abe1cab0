"""One training run put together: model, optimizer, reader, hooks, loop, result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from embeddings.parameters import dense_parameters, table_parameters
from embeddings.settings import TableSpec
from embeddings.sharding import describe_plan, set_table_learning_rate
from jobs.checkpoints import CheckpointStore, Progress, newest_checkpoint
from jobs.continuation import Continuation
from jobs.distributed import World
from jobs.hooks import CheckpointHook, MetricsHook, ProgressHook
from jobs.loop import Hook, TrainingLoop
from jobs.monitoring.hook import MonitoringHook
from jobs.optimizers import dense_optimizer
from jobs.runs import RunFolder
from jobs.schedule import learning_rate_factor
from jobs.sections import TrainingSettings
from jobs.settings import JobSettings
from models.losses import LossSums
from pipeline.batches import RankingBatch, SequenceBatch
from pipeline.reader import Reader

__all__ = [
    "TrainingRun",
    "build_seeded",
]

B = TypeVar("B", SequenceBatch, RankingBatch)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """Everything that one run of the loop needs."""

    title: str
    world: World
    folder: RunFolder
    settings: JobSettings
    training: TrainingSettings
    model: nn.Module
    forward: Callable[[Any, int], LossSums]
    specs: Sequence[TableSpec]
    reader: Reader[Any]
    start: Continuation | None = None
    """what the run goes on from; None: from the values that the model has"""

    def run(
        self, *, resume: bool, more_hooks: Callable[[CheckpointStore], Sequence[Hook]] | None = None
    ) -> dict[str, Any]:
        """Train to the end; returns what every result.json has."""
        optimizer = _make_optimizer(self.model, self.settings, self.training)
        checkpoints = CheckpointStore(
            folder=self.folder.checkpoints,
            world=self.world,
            model=self.model,
            optimizer=optimizer,
            keep=self.training.keep_checkpoints,
        )
        is_ranking = more_hooks is not None
        metrics = MetricsHook(self.folder, self.training.log_every_steps, with_auc=is_ranking)
        newest = newest_checkpoint(self.folder.checkpoints, self.world) if resume else None
        progress = checkpoints.load(newest) if newest else Progress()
        if self.start and not newest:
            self.start.take_over(checkpoints)
        self._announce(newest)
        if self.world.is_first:
            self.folder.forget_after(progress.step)
        self.world.wait_for_all()
        loop = TrainingLoop(
            world=self.world,
            model=self.model,
            forward=self._forward,
            optimizer=optimizer,
            reader=self.reader,
            settings=self.training,
            hooks=[
                metrics,
                *(more_hooks(checkpoints) if more_hooks else ()),
                CheckpointHook(checkpoints, self.training.checkpoint_every_steps),
                MonitoringHook(
                    self.settings.monitoring,
                    *(("rank", self.settings.task) if is_ranking else ("pretrain", "")),
                    self.training.log_every_steps,
                ),
                ProgressHook(self.folder, self.title),
            ],
        )
        loop.progress = progress
        loop.run()
        lines = self.folder.lines() if self.world.is_first else []
        samples, seconds = (
            sum(line[name] for line in lines if line["kind"] == "train")
            for name in ("samples", "seconds")
        )
        return {
            "steps": loop.progress.step,
            "samples": samples,
            "train_seconds": seconds,
            "samples_per_s": samples / seconds if seconds else None,
            "world_size": self.world.size,
            "device": self.world.device.type,
            "threads_per_rank": torch.get_num_threads(),
            "parameters": self._parameter_counts(),
            "continued_from": self.start.report() if self.start else None,
        }

    def _forward(self, batch: Any, step: int) -> LossSums:
        """The model's forward pass, after the tables' own optimizer has its rate for the step."""
        if self.settings.embeddings.schedule == "as_dense":
            factor = learning_rate_factor(
                step,
                warmup_steps=self.training.warmup_steps,
                total_steps=self.training.epochs * self.reader.steps_per_epoch,
                schedule=self.training.schedule,
            )
            rate = self.settings.embeddings.learning_rate * factor
            set_table_learning_rate(self.model, rate)
        return self.forward(batch, step)

    def _announce(self, checkpoint: Any) -> None:
        start = f"on from {self.start.checkpoint}" if self.start else "from the start"
        if checkpoint:
            start = f"resumed from {checkpoint}"
        self.world.say(
            f"{self.title}: {self.reader.num_rows:,} rows, {self.reader.steps_per_epoch:,} steps "
            f"an epoch, {self.world.size} ranks on {self.world.device.type}, "
            f"threads in each: {torch.get_num_threads()}, {start}"
        )
        for line in describe_plan(self.model):
            self.world.say(f"  {line}")

    def _parameter_counts(self) -> dict[str, int]:
        return {
            "sparse": sum(spec.num_rows * spec.dim for spec in self.specs),
            "dense": sum(p.numel() for p in dense_parameters(self.model).values()),
        }


def build_seeded(build: Callable[[], nn.Module], seed: int, device: torch.device) -> nn.Module:
    """Build a model whose dense parameters are drawn on the CPU from `seed`, then moved.

    Its tables stay where they are (on meta): sharding them comes next.
    """
    torch.manual_seed(seed)
    model = build()
    for name, child in model.named_children():
        if name != "tables":
            child.to(device)
    return model


def _make_optimizer(
    model: nn.Module, settings: JobSettings, training: TrainingSettings
) -> torch.optim.AdamW:
    """AdamW for the dense parameters, and for tables that are trained as dense ones."""
    rates = settings.embeddings
    return dense_optimizer(
        {
            "dense": (dense_parameters(model), training.learning_rate, training.weight_decay),
            "tables": (table_parameters(model), rates.learning_rate, rates.weight_decay),
        },
        training.betas,
    )
