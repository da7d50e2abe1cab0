"""The least that a training step can take: by its arithmetic, and by the memory it must move."""

import statistics
import time
from typing import Any

import torch

from benchmarks.synthetic import NUM_CATEGORIES, Case
from models.architecture import Architecture
from pipeline.batches import RankingBatch

__all__ = ["copy_rate", "matmul_rate", "work"]


def work(case: Case, architecture: Architecture, batches: list[Any]) -> tuple[float, float]:
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


def matmul_rate(precision: str) -> float:
    """Floating-point operations a second of the product of two matrices of 1024 x 1024."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    return 2 * 1024**3 / _best_s(lambda: left @ right)


def copy_rate() -> float:
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
