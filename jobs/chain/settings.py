"""Settings of the daily chain: where its stages run, and what a model must pass: `[daily]`."""

from typing import Literal

from pydantic import Field, field_validator

from pipeline.durations import Duration, length_of
from pipeline.settings import Settings

__all__ = ["DailySettings", "GateSettings", "StageSettings", "Submitted"]

Submitted = Literal["prepare", "test", "pretrain", "export", "rank", "gate"]
"""Stages that a scheduler runs"""


class StageSettings(Settings):
    """What one stage asks of the scheduler: `[daily.stages.<stage>]`."""

    # Machines.
    nodes: int = Field(default=1, ge=1)
    # Ranks on each node.
    processes: int = Field(default=1, ge=1)
    # Of each node.
    cpus: int = Field(default=2, ge=1)
    # Of each node, one a rank.
    gpus: int = Field(default=0, ge=0)
    # Of each node.
    memory_mb: int = Field(default=4096, ge=1)
    # How often the driver submits it before the day has failed.
    attempts: int = Field(default=2, ge=1)
    # How often the scheduler itself starts it again (Slurm requeues, Kubernetes restarts).
    scheduler_retries: int = Field(default=0, ge=0)
    # A stage that takes longer is cancelled and counts as failed.
    timeout: Duration = "6h"
    # Settings of every day but the first, a.b=value: usually fewer epochs and another rate.
    continuing: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The timeout in seconds."""
        return length_of(self.timeout).total_seconds()


class GateSettings(Settings):
    """What keeps a day's models from being published: `[daily.gates]`.

    The candidate and the published model score the same requests, those of held-out users.
    """

    # How many of the latest final days are scored.
    days: int = Field(default=2, ge=1)
    # Fewer candidates than this cannot tell two models apart.
    min_candidates: int = Field(default=1000, ge=1)
    # AUC that a model must be above, whatever is published: 0.5 is guessing; 0: any will do.
    min_auc: float = Field(default=0.5, ge=0, lt=1)
    # How far AUC may fall below the published model's.
    max_auc_drop: float = Field(default=0.01, ge=0)
    # Predicted over observed positives, lowest and highest.
    calibration: tuple[float, float] = (0.5, 2.0)
    # How much further from 1 it may be than the published model's: 0.25 is by a factor of 1.25.
    max_calibration_change: float = Field(default=0.25, ge=0)
    # How far log loss may rise above the published model's, over that.
    max_log_loss_rise: float = Field(default=0.05, ge=0)
    # So many sampling errors are added to min_auc and to how far the other figures may get worse:
    # much on few candidates, else nothing.
    sampling_errors: float = Field(default=1.0, ge=0)
    # How far the published model's AUC on a new day may fall below what it was on the days before.
    max_progressive_drop: float = Field(default=0.05, ge=0)
    # Largest mean norm of a table's rows, over that of the published export's.
    max_norm_ratio: float = Field(default=2.0, gt=0)
    # Largest mean distance between a row and the same row of the published export, over its norm.
    max_table_drift: float = Field(default=1.0, gt=0)

    @field_validator("calibration")
    @classmethod
    def _in_order(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bounds[0] < bounds[1]:
            raise ValueError(f"{bounds[0]} must be below {bounds[1]}, and neither below 0")
        return bounds


class DailySettings(Settings):
    """The chain of a day: `[daily]`."""

    # Of [tasks]; empty: all.
    tasks: tuple[str, ...] = ()
    # One of torchx's: local_cwd, slurm, kubernetes, aws_batch ...
    scheduler: str = "local_cwd"
    # The scheduler's own, by name (partition, queue, image_repo ...).
    scheduler_options: dict[str, str | int | float | bool] = Field(default={})
    # Container image, for schedulers that run one.
    image: str = "frostrank"
    # What containers see of outside, as torchx writes it: "type=bind,src=/data,dst=/data" of a
    # machine, "type=volume,src=NAME,dst=/data" of a claim (Kubernetes) or file system (AWS).
    mounts: tuple[str, ...] = ()
    # A file, sqlite:////path or postgresql://user:password@host/db; empty: under data.root.
    ledger: str = ""
    # A driver that is killed on another machine keeps the others out for so long.
    lease_seconds: float = Field(default=60.0, gt=0)
    # How many tasks are tested, then ranked and judged, side by side.
    parallel_tasks: int = Field(default=1, ge=1)
    # Checkpoints, exports and rankers of so many of the latest days are kept; what is published,
    # and what could be gone back to, always is.
    keep_days: int = Field(default=7, ge=2)
    # Set by the chain, of each stage: one whose driver has gone and was replaced leaves be.
    attempt: str = ""
    stages: dict[Submitted, StageSettings] = Field(default={})
    gates: GateSettings = GateSettings()

    def stage(self, name: Submitted) -> StageSettings:
        """Of one stage."""
        return self.stages.get(name, StageSettings())
