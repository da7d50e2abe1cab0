"""The one training loop, of pretraining and ranking alike.

A step is: forward, sum the losses over ranks, backward (fused tables take their step inside it),
clip, dense step. Everything that happens now and then is a hook.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from jobs.checkpoints import Progress
from jobs.distributed import World
from jobs.schedule import learning_rate_factor
from jobs.sections import TrainingSettings
from models.losses import LossSums
from pipeline.errors import ConfigError, NonFiniteLossError
from pipeline.reader import Reader

__all__ = ["Hook", "Measuring", "StepReport", "TrainingLoop", "check_warmup"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did; losses are means over all ranks' targets."""

    losses: dict[str, float]
    num_samples: int
    """this rank's"""
    learning_rate: float
    gradient_norm: float
    batch: Any
    sums: LossSums
    seconds: float
    """from asking for the batch to the end of its step"""
    waited_seconds: float
    """the part of it until the batch was there"""

    @property
    def loss(self) -> float:
        """The total that was minimised."""
        return sum(self.losses.values())


class Hook(Protocol):
    """Something done after steps; it decides itself after which."""

    def after_step(self, loop: "TrainingLoop", report: StepReport) -> None:
        """Called on every rank, after `loop.progress` has moved past the step."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A hook that measures something on the way; `jobs.monitoring.hook` shows it."""

    figures: dict[str, float]
    """what it last measured, by the names of `jobs.monitoring.metrics` without `training_`"""


def check_warmup(section: str, settings: TrainingSettings, reader: Reader[Any]) -> None:
    """Raise ConfigError where the run would end before its warm-up does."""
    total_steps = settings.epochs * reader.steps_per_epoch
    if settings.warmup_steps >= total_steps:
        raise ConfigError(
            f"{section}.training.warmup_steps: {settings.warmup_steps} warm-up steps, but the run "
            f"has only {total_steps} (epochs x rows / batch_size), so it would never reach the "
            "peak rate"
        )


class TrainingLoop:
    """Runs a model over a reader for some epochs.

    Args:
        forward: (batch, step) -> losses; the model's call, with what it needs of the two.
        optimizer: AdamW with a "peak" learning rate in each group.
        hooks: called in this order after each step.
    """

    def __init__(
        self,
        *,
        world: World,
        model: nn.Module,
        forward: Callable[[Any, int], LossSums],
        optimizer: torch.optim.Optimizer,
        reader: Reader[Any],
        settings: TrainingSettings,
        hooks: Sequence[Hook],
    ) -> None:
        self.world = world
        self.model = model
        self.reader = reader
        self.settings = settings
        self.progress = Progress()
        self._forward = forward
        self._optimizer = optimizer
        self.hooks = tuple(hooks)
        self._dense = [p for group in optimizer.param_groups for p in group["params"]]

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.settings.epochs * self.reader.steps_per_epoch

    @property
    def epoch_fraction(self) -> float:
        """How many epochs are behind, with fraction."""
        return self.progress.step / self.reader.steps_per_epoch

    def run(self) -> None:
        """Train from `progress` to the end.

        Raises:
            NonFiniteLossError: the loss or the gradient became NaN or infinite.
        """
        self.model.train()
        for epoch in range(self.progress.epoch, self.settings.epochs):
            asked_s = time.monotonic()
            for batch in self.reader.batches(epoch, self.progress.step_in_epoch):
                report = self._step(batch, asked_s)
                self.progress.step += 1
                self.progress.step_in_epoch += 1
                if self.progress.step_in_epoch == self.reader.steps_per_epoch:
                    self.progress.epoch, self.progress.step_in_epoch = epoch + 1, 0
                for hook in self.hooks:
                    hook.after_step(self, report)
                asked_s = time.monotonic()

    def _step(self, batch: Any, asked_s: float) -> StepReport:
        waited_s = time.monotonic() - asked_s
        batch = batch.to(self.world.device, non_blocking=True)
        factor = learning_rate_factor(
            self.progress.step,
            warmup_steps=self.settings.warmup_steps,
            total_steps=self.total_steps,
            schedule=self.settings.schedule,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self._optimizer.zero_grad(set_to_none=True)
        device, bf16 = self.world.device.type, self.settings.precision == "bf16"
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            sums = self._forward(batch, self.progress.step)
        means, counts = self._over_ranks(sums)
        losses = dict(zip(sums.names, means, strict=True))
        self._check_finite("loss", sum(means), sums, batch)
        # Gradients are averaged over ranks, by DDP and by TorchRec alike; undo that average.
        (sums.sums / counts).sum().mul(self.world.size).backward()
        norm = float(nn.utils.clip_grad_norm_(self._dense, self.settings.clip_norm))
        self._check_finite("gradient norm", norm, sums, batch)
        self._optimizer.step()
        return StepReport(
            losses=losses,
            num_samples=batch.num_samples,
            learning_rate=self.settings.learning_rate * factor,
            gradient_norm=norm,
            batch=batch,
            sums=sums,
            seconds=time.monotonic() - asked_s,
            waited_seconds=waited_s,
        )

    def _over_ranks(self, sums: LossSums) -> tuple[list[float], torch.Tensor]:
        """Mean of each loss over all ranks' targets, and how many targets that is."""
        totals = torch.stack([sums.sums.detach().float(), sums.counts.float()])
        self.world.sum_over_ranks(totals)
        counts = totals[1].clamp(min=1)
        return (totals[0] / counts).tolist(), counts

    def _check_finite(self, what: str, value: float, sums: LossSums, batch: Any) -> None:
        # The value is the same on all ranks, so all of them stop at the same step.
        if math.isfinite(value):
            return
        mine = not bool(sums.sums.isfinite().all()) or what != "loss"
        rows = self.world.gather_objects(self.reader.describe(batch) if mine else None)
        where = "; ".join(str(described) for described in rows if described)
        raise NonFiniteLossError(
            f"step {self.progress.step} (epoch {self.progress.epoch}): {what} is {value}; rows: "
            f"{where}. Checkpoints from before it are kept: look at those rows; mend them and go "
            "on with --resume, or start over with a lower training or embeddings learning_rate"
        )
