"""Scoring a ranking model on held-out requests, over all ranks."""

import torch
from torch import nn

from jobs.distributed import World
from jobs.metrics import RankingMetrics, RankingResult
from pipeline.batches import RankingBatch
from pipeline.reader import Reader

__all__ = ["evaluate_model"]


def evaluate_model(
    model: nn.Module, reader: Reader[RankingBatch], world: World, precision: str = "fp32"
) -> RankingResult:
    """Metrics of `model` over every row of `reader`, the same on all ranks; leaves it training."""
    metrics = RankingMetrics()
    device, bf16 = world.device, precision == "bf16"
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        for batch in reader.batches(epoch=0):
            batch = batch.to(device, non_blocking=True)  # noqa: PLW2901, the same batch
            metrics.update(model(batch).logits, batch.labels, batch.weights)
    model.train()
    metrics.reduce(world.sum_over_ranks)
    return metrics.result()
