"""The sections of a config that belong to jobs: data, reader, pretraining, ranking, evaluation.

Those of the other rooms are declared beside their parts; `jobs.settings` joins them all.
"""

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from jobs.schedule import Schedule
from jobs.strategies import Strategy
from models.architecture import ArchitectureSetting
from models.generative import SoftmaxSettings
from pipeline.settings import Settings

__all__ = [
    "DataSettings",
    "EvaluationSettings",
    "JudgingSettings",
    "PretrainingSettings",
    "RankingSettings",
    "ReadingSettings",
    "TrainingSettings",
]


class DataSettings(Settings):
    """Where everything that the jobs write goes: `[data]`."""

    # Folder; all jobs of a config share it.
    root: Path
    # Where training reads what prepare published, if it was copied there: "s3://bucket/prefix".
    examples: str | None = None
    # Days whose states stay on disk: a change to one of them is built from the day before it.
    keep_states: int = Field(default=7, ge=1)

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
    # Threads that read row groups ahead; for stores that take long to answer, 4 say.
    workers: int = Field(default=0, ge=0)
    # Compare every file with its digest before the first batch: one more pass over the bytes.
    verify: bool = True


class TrainingSettings(Settings):
    """The training loop, pretraining's or ranking's."""

    # Passes over the days' data.
    epochs: int = Field(default=1, ge=1)
    # Rows of the whole batch, over all ranks.
    batch_size: int = Field(default=512, ge=1)
    # Peak, of the dense parameters; tables have embeddings.learning_rate.
    learning_rate: float = Field(default=1e-3, gt=0)
    # Steps in which the rate rises to its peak in equal parts.
    warmup_steps: int = Field(default=500, ge=0)
    # After warm-up: down to a tenth of the peak, or level, for runs that go on from day to day.
    schedule: Schedule = "cosine"
    # AdamW's, of the dense parameters (paper, 5.1).
    betas: tuple[float, float] = (0.9, 0.98)
    # AdamW's, of the dense matrices; norms and biases do not decay.
    weight_decay: float = Field(default=0.1, ge=0)
    # Largest global norm of the dense gradient.
    clip_norm: float = Field(default=1.0, gt=0)
    # Of the matrix products; weights, norms, losses and sums are float32 with either.
    precision: Literal["fp32", "bf16"] = "fp32"
    # Of initial values, order and negatives.
    seed: int = Field(default=0, ge=0)
    # A line in the log and in metrics.jsonl.
    log_every_steps: int = Field(default=20, ge=1)
    # Besides the one at the end.
    checkpoint_every_steps: int = Field(default=500, ge=1)
    # The newest so many; a damaged one is passed over for the one before.
    keep_checkpoints: int = Field(default=2, ge=1)


class PretrainingSettings(Settings):
    """Generative pretraining: `[pretraining]`."""

    # Layers, width, heads; rows of tables are as wide.
    architecture: ArchitectureSetting
    softmax: SoftmaxSettings = SoftmaxSettings()
    # Whole sequences, or what each day added to them, with their new events alone as targets.
    data: Literal["sequences", "increments"] = "sequences"
    # Start from what the finished run up to that day learnt, instead of from random values.
    continue_from: date | None = None
    # With its optimizers' moments and sums of squares.
    carry_optimizer: bool = True
    training: TrainingSettings = TrainingSettings()


class RankingSettings(Settings):
    """Discriminative training: `[ranking]`."""

    # Width as in pretraining where tables are transferred; layers may differ.
    architecture: ArchitectureSetting
    # Which of [tasks]; may be left out where there is only one.
    task: str = ""
    # What comes from pretraining, and what of it is frozen (paper, table 2).
    strategy: Strategy = Strategy.ST_SF
    # Tables taken from the export, and frozen where the strategy freezes: all of them, by name.
    transfer_tables: tuple[str, ...] = ()
    # Histories look at themselves both ways, not at what came before alone.
    bidirectional: bool = False
    # Start from the ranker of that day, of the same task and strategy, instead of from random
    # layers; tables that are frozen come from the export all the same.
    continue_from: date | None = None
    # With its optimizer's moments.
    carry_optimizer: bool = True
    # Validations an epoch, the one at its end included. Each costs about two fifths of training on
    # as many samples.
    evaluations_per_epoch: int = Field(default=1, ge=1)
    training: TrainingSettings = TrainingSettings()


class JudgingSettings(Settings):
    """Which models are judged on which requests: `[judging]`, set by the daily chain."""

    # Last training days of the rankers.
    models: tuple[date, ...] = ()
    # First and last day of the requests.
    days: tuple[date, date] | None = None
    # Days of these that are not read.
    left_out: tuple[date, ...] = ()
    # Held-out users' requests, or everybody's.
    kind: Literal["held_out", "all"] = "held_out"
    # An item is new that was not in the vocabulary so many days before the first of these.
    new_item_days: int = Field(default=7, ge=0)
    # Of the file that is written.
    name: str = Field(default="judgement", pattern=r"[a-z_]+")


class EvaluationSettings(Settings):
    """The comparison at the end: `[evaluation]`."""

    # Requests of a batch.
    batch_size: int = Field(default=512, ge=1)
    # Item features whose count in the history is a baseline.
    category_features: tuple[str, ...] = ()
