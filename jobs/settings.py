"""A job's whole config: the sections that each room declares beside its parts, joined.

`deploy/configs/` has examples. Every job reads the same file and takes the sections it needs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from embeddings.tables import EmbeddingSettings, TableSpec
from jobs.strategies import Strategy
from models.architecture import Architecture, ArchitectureSetting
from models.generative import SoftmaxSettings
from pipeline.partitions import day_folder
from pipeline.requests import RequestSettings
from pipeline.schema import (
    DaySettings,
    FeatureSettings,
    check_features,
    context_features,
    item_features,
)
from pipeline.sequences import SequenceSettings
from pipeline.settings import Settings
from pipeline.source import SourceSettings, check_source
from pipeline.vocabulary import table_sizes

__all__ = ["JobSettings", "PretrainingSettings", "RankingSettings", "TrainingSettings"]


class DataSettings(Settings):
    """Where everything that the jobs write goes: `[data]`."""

    root: Path

    @field_validator("root")
    @classmethod
    def _is_folder(cls, root: Path) -> Path:
        if root.exists() and not root.is_dir():
            raise ValueError(f"{root} is a file, not a folder")
        return root


class ReadingSettings(Settings):
    """How examples are read: `[reader]`."""

    # Equal parts of every batch, read side by side; the most ranks that a job can have.
    lanes: int = Field(default=8, ge=1)
    # Batches decoded ahead of training.
    prefetch: int = Field(default=4, ge=0)
    # Compare every file with its digest before the first batch: one more pass over the bytes.
    verify: bool = True


class TrainingSettings(Settings):
    """The training loop: `[pretraining.training]` and `[ranking.training]`."""

    epochs: int = Field(default=1, ge=1)
    # Rows of the whole batch, over all ranks.
    batch_size: int = Field(default=512, ge=1)
    # Peak, of the dense parameters; tables have embeddings.learning_rate.
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=500, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(default=0.1, ge=0)
    # Largest global norm of the dense gradient.
    clip_norm: float = Field(default=1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(default=0, ge=0)
    log_every_steps: int = Field(default=20, ge=1)
    checkpoint_every_steps: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)


class PretrainingSettings(Settings):
    """Generative pretraining: `[pretraining]`."""

    architecture: ArchitectureSetting
    softmax: SoftmaxSettings = SoftmaxSettings()
    training: TrainingSettings = TrainingSettings()


class RankingSettings(Settings):
    """Discriminative training: `[ranking]`."""

    architecture: ArchitectureSetting
    strategy: Strategy = Strategy.ST_SF
    # Tables taken from the export, and frozen where the strategy freezes: all of them, by name.
    transfer_tables: tuple[str, ...] = ()
    bidirectional: bool = False
    # Validations an epoch, the one at its end included.
    evaluations_per_epoch: int = Field(default=4, ge=1)
    training: TrainingSettings = TrainingSettings()


class EvaluationSettings(Settings):
    """The comparison at the end: `[evaluation]`."""

    batch_size: int = Field(default=512, ge=1)
    # Item features whose count in the history is a baseline.
    category_features: tuple[str, ...] = ()


class JobSettings(Settings):
    """The whole config file."""

    data: DataSettings
    source: SourceSettings
    features: tuple[FeatureSettings, ...]
    days: DaySettings
    sequences: SequenceSettings = SequenceSettings()
    requests: RequestSettings
    reader: ReadingSettings = ReadingSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    pretraining: PretrainingSettings
    ranking: RankingSettings
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _consistent(self) -> "JobSettings":
        check_features(self.features)
        check_source(self.source, self.features)
        names = [feature.name for feature in self.features]
        items = item_features(self.features)
        for where, batch_size in (
            ("pretraining.training.batch_size", self.pretraining.training.batch_size),
            ("ranking.training.batch_size", self.ranking.training.batch_size),
            ("evaluation.batch_size", self.evaluation.batch_size),
        ):
            if batch_size % self.reader.lanes:
                raise ValueError(
                    f"{where}: {batch_size} rows cannot be shared equally by reader.lanes = "
                    f"{self.reader.lanes}; make it a multiple"
                )
        for where, known, used in (
            ("ranking.transfer_tables", items, self.ranking.transfer_tables),
            ("evaluation.category_features", items, self.evaluation.category_features),
            ("embeddings.sharding", names, self.embeddings.sharding),
        ):
            if unknown := [name for name in used if name not in known]:
                raise ValueError(
                    f"{where}: no such feature: {', '.join(unknown)}; known: {', '.join(known)}"
                )
        if self.ranking.strategy.transfers_tables and not self.ranking.transfer_tables:
            raise ValueError(
                f"ranking.transfer_tables: strategy {self.ranking.strategy.value} takes tables "
                f"from pretraining; name them, usually all: {', '.join(items)}"
            )
        return self

    @property
    def item_features(self) -> list[str]:
        """Names of the features that describe items, item_id first."""
        return item_features(self.features)

    @property
    def context_features(self) -> list[str]:
        """Names of the features that describe requests."""
        return context_features(self.features)

    @property
    def pretraining_folder(self) -> Path:
        """Where pretraining up to its last day is kept."""
        return day_folder(self.data.root, "pretraining", self.days.pretraining[1])

    @property
    def export_folder(self) -> Path:
        """The sparse export of that pretraining."""
        return day_folder(self.data.root, "tables", self.days.pretraining[1])

    @property
    def evaluation_folder(self) -> Path:
        """Where the comparison of ranking models is kept."""
        task_root = self.data.root / "evaluation" / self.requests.task
        return day_folder(task_root.parent, task_root.name, self.days.ranking[1])

    def ranking_folder(self, strategy: Strategy) -> Path:
        """Where ranking up to its last day is kept, a folder a strategy."""
        task_root = self.data.root / "ranking" / self.requests.task
        return day_folder(task_root, strategy.folder_name, self.days.ranking[1])

    def table_specs(self, names: Sequence[str], architecture: Architecture) -> list[TableSpec]:
        """Tables of `names`, as wide as the model and as long as the vocabularies built so far."""
        features = [feature for feature in self.features if feature.name in names]
        sizes = table_sizes(self.data.root, features)
        return [
            TableSpec(name=name, num_rows=rows, dim=architecture.width, vocabulary_digest=digest)
            for name, (rows, digest) in sizes.items()
        ]

    def embeddings_of(self, specs: Sequence[TableSpec]) -> EmbeddingSettings:
        """`[embeddings]` without the shardings of tables that a job does not have."""
        names = {spec.name for spec in specs}
        sharding = {name: kind for name, kind in self.embeddings.sharding.items() if name in names}
        return self.embeddings.model_copy(update={"sharding": sharding})
