"""Scoring a ranking model on requests it has not seen, over all ranks."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from jobs.distributed import World
from jobs.metrics import RankingMetrics, RankingResult
from pipeline.batches import RankingBatch
from pipeline.reader import Reader

__all__ = ["ALL", "Slice", "evaluate_model", "evaluate_slices"]

Slice = Callable[[RankingBatch], Tensor]
"""A batch to (C,) bool: which of its candidates belong to the slice"""

ALL = "all"
"""The slice that has every candidate"""


def evaluate_model(
    model: nn.Module, reader: Reader[RankingBatch], world: World, precision: str = "fp32"
) -> RankingResult:
    """Metrics of `model` over every row of `reader`, the same on all ranks; leaves it training."""
    return evaluate_slices(model, reader.batches(epoch=0), world, {}, precision)[ALL]


def evaluate_slices(
    model: nn.Module,
    batches: Iterable[RankingBatch],
    world: World,
    slices: Mapping[str, Slice],
    precision: str = "fp32",
) -> dict[str, RankingResult]:
    """Metrics over all candidates and over those of each slice, the same on all ranks."""
    metrics = {name: RankingMetrics() for name in (ALL, *slices)}
    device, bf16 = world.device, precision == "bf16"
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        for batch in batches:
            batch = batch.to(device, non_blocking=True)  # noqa: PLW2901, the same batch
            logits = model(batch).logits
            metrics[ALL].update(logits, batch.labels, batch.weights)
            for name, chosen in slices.items():
                metrics[name].update(logits, batch.labels, batch.weights * chosen(batch))
    model.train()
    for counted in metrics.values():
        counted.reduce(world.sum_over_ranks)
    return {name: counted.result() for name, counted in metrics.items()}
