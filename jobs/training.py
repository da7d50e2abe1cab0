"""One training run put together: model, optimizer, reader, hooks, loop, result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import torch
from torch import nn

from embeddings.parameters import dense_parameters, table_parameters
from embeddings.sharding import describe_plan, set_table_learning_rate
from embeddings.tables import TableSpec
from jobs.checkpoints import CheckpointStore, Progress, newest_checkpoint
from jobs.distributed import World
from jobs.hooks import CheckpointHook, MetricsHook, ProgressHook
from jobs.loop import Hook, TrainingLoop
from jobs.optimizers import dense_optimizer
from jobs.prepare import prepare_all
from jobs.runs import RunFolder
from jobs.schedule import learning_rate_factor
from jobs.settings import JobSettings, TrainingSettings
from models.losses import LossSums
from pipeline.batches import RankingBatch, SequenceBatch
from pipeline.errors import DataError
from pipeline.partitions import day_folder, days_between, read_manifest, verify_files
from pipeline.reader import Examples, Reader, ReaderSettings, Requests, Sequences
from pipeline.schema import FeatureSettings

__all__ = [
    "TrainingRun",
    "build_seeded",
    "requests_reader",
    "sequences_reader",
    "take_in_examples",
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
        }

    def _forward(self, batch: Any, step: int) -> LossSums:
        """The model's forward pass, after the tables' own optimizer has its rate for the step."""
        if self.settings.embeddings.schedule == "as_dense":
            factor = learning_rate_factor(
                step,
                warmup_steps=self.training.warmup_steps,
                total_steps=self.training.epochs * self.reader.steps_per_epoch,
            )
            rate = self.settings.embeddings.learning_rate * factor
            set_table_learning_rate(self.model, rate)
        return self.forward(batch, step)

    def _announce(self, checkpoint: Any) -> None:
        start = f"resumed from {checkpoint}" if checkpoint else "from the start"
        self.world.say(
            f"{self.title}: {self.reader.num_rows:,} rows, {self.reader.steps_per_epoch:,} steps "
            f"an epoch, {self.world.size} ranks on {self.world.device.type}, "
            f"{torch.get_num_threads()} threads each, {start}"
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


def sequences_reader(
    settings: JobSettings, world: World, specs: Sequence[TableSpec]
) -> Reader[SequenceBatch]:
    """The pretraining days' sequences, shuffled.

    Raises:
        DataError: days that are missing, half written, changed since they were published, built
            with another vocabulary, or without any row.
    """
    training = settings.pretraining.training
    days = _checked_days(settings, world, "sequences", settings.days.pretraining)
    examples = Sequences(
        root=settings.data.root,
        days=days,
        features=_features_of(settings, specs),
        vocabularies={spec.name: spec.vocabulary_digest for spec in specs},
    )
    return _reader(examples, settings, world, training.batch_size, training.seed)


def requests_reader(
    settings: JobSettings, world: World, specs: Sequence[TableSpec], split: str
) -> Reader[RankingBatch]:
    """The requests of the ranking days, shuffled, or of the validation or test days, as they are.

    Raises:
        DataError: as `sequences_reader`.
    """
    days = _checked_days(settings, world, "requests", getattr(settings.days, split))
    examples = Requests(
        root=settings.data.root,
        days=days,
        features=_features_of(settings, specs),
        vocabularies={spec.name: spec.vocabulary_digest for spec in specs},
        task=settings.requests.task,
    )
    if split == "ranking":
        training = settings.ranking.training
        return _reader(examples, settings, world, training.batch_size, training.seed)
    return _reader(examples, settings, world, settings.evaluation.batch_size, None)


def _features_of(settings: JobSettings, specs: Sequence[TableSpec]) -> tuple[FeatureSettings, ...]:
    names = {spec.name for spec in specs}
    return tuple(feature for feature in settings.features if feature.name in names)


def _checked_days(
    settings: JobSettings, world: World, kind: str, days: tuple[date, date]
) -> list[date]:
    """All days of a range; the ranks share comparing their files with the manifests' digests."""
    every = days_between(*days)
    if settings.reader.verify:
        for day in every[world.rank :: world.size]:
            folder = day_folder(settings.data.root, kind, day)
            verify_files(folder, read_manifest(folder))
    return every


def _reader(
    examples: Examples[B], settings: JobSettings, world: World, batch_size: int, seed: int | None
) -> Reader[B]:
    reader = Reader(
        examples,
        ReaderSettings(
            batch_size=batch_size,
            lanes=settings.reader.lanes,
            prefetch=settings.reader.prefetch,
            seed=seed or 0,
        ),
        shuffle=seed is not None,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
    )
    if not reader.num_rows:
        raise DataError(
            f"{examples.root}: not one row to read from {examples.days[0]} to {examples.days[-1]}; "
            "look at the counts in the days' manifests, and at [sequences], [requests] and [days]"
        )
    return reader


def take_in_examples(settings: JobSettings, world: World) -> None:
    """Check and take in ready-made sequences and requests, where the config says they are brought.

    What prepare does with them, so that who brings them can start at pretrain or rank.
    """
    if settings.source.kind == "examples" and world.is_first:
        prepare_all(settings)
    world.wait_for_all()


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
