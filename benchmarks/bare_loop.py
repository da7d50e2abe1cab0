"""The jobs' training loop over batches that are in memory, without hooks: what steps alone take."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.device import now_s
from embeddings.parameters import dense_parameters, table_parameters
from jobs.distributed import World
from jobs.loop import StepReport, TrainingLoop
from jobs.optimizers import dense_optimizer
from jobs.sections import TrainingSettings
from models.losses import LossSums

__all__ = ["step_seconds"]


def step_seconds(
    world: World,
    model: nn.Module,
    forward: Callable[[Any, int], LossSums],
    batches: Sequence[Any],
    training: TrainingSettings,
    num_steps: int,
) -> list[float]:
    """Train for some steps, over and over the batches; the seconds of each.

    A step's end is when the device is done with it. The first one has what comes before it, too.
    """
    seconds = _Seconds(world.device)
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
        reader=_Held(batches, num_steps),  # pyright: ignore[reportArgumentType]
        settings=training.model_copy(update={"epochs": 1, "warmup_steps": 0}),
        hooks=[seconds],
    )
    loop.run()
    return seconds.seconds


class _Held:
    """Stands in for the reader."""

    def __init__(self, batches: Sequence[Any], num_steps: int) -> None:
        self._batches = batches
        self.steps_per_epoch = num_steps

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Any]:
        """The steps' batches."""
        del epoch
        for step in range(first_step, self.steps_per_epoch):
            yield self._batches[step % len(self._batches)]

    def describe(self, batch: Any) -> str:
        """Nothing of use here."""
        return type(batch).__name__


class _Seconds:
    """A hook that keeps what every step took."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: list[float] = []
        self._device = device
        self._last_s = now_s(device)

    def after_step(self, loop: TrainingLoop, report: StepReport) -> None:
        """Keep it."""
        del loop, report
        ended_s = now_s(self._device)
        self.seconds.append(ended_s - self._last_s)
        self._last_s = ended_s
