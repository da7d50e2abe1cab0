"""The least that a training step can take: by its arithmetic, and by the memory it must move."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from benchmarks.device import best_s
from benchmarks.synthetic import NUM_CATEGORIES, Case, num_tokens
from models.architecture import Architecture
from pipeline.batches import RankingBatch

__all__ = ["Work", "copy_rate", "floor_ms", "matmul_rate", "work"]

CPU = torch.device("cpu")
# Device -> rows of the square matrices, numbers of the copy: beyond its caches, and enough to keep
# it busy.
_SIZES = {"cpu": (1024, 2**24), "cuda": (8192, 2**28)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What must be done."""

    flops: float
    num_bytes: float
    num_tokens: float


def work(case: Case, architecture: Architecture, batches: Sequence[Any]) -> Work:
    """What a step must do, on average over the batches."""
    works = [_work_of(case, architecture, batch) for batch in batches]
    return Work(
        flops=statistics.mean(each.flops for each in works),
        num_bytes=statistics.mean(each.num_bytes for each in works),
        num_tokens=statistics.mean(each.num_tokens for each in works),
    )


def _work_of(case: Case, architecture: Architecture, batch: Any) -> Work:
    """Backward is twice forward. Of a ranking model's last layer, histories' keys and values only.

    Bytes: what every matrix product reads is written in forward and read in backward (15 widths a
    token and layer, in the product's type), rows of tables are read, updated and their squares
    kept, AdamW reads four and writes three numbers a parameter, of whole tables where it trains
    them.
    """
    width, layers = architecture.width, architecture.num_layers
    if isinstance(batch, RankingBatch):
        lengths = batch.history_offsets.diff().double()
        items = torch.cat([batch.history["item_id"], batch.candidates["item_id"]])
        scored = len(batch.labels)
        from_scored = float(((lengths + 1) * batch.candidate_offsets.diff()).sum())
        last = 2 * width**2 * (2 * float(lengths.sum()) + 13 * scored) + 4 * width * from_scored
        layers -= 1
        head = 2 * scored * (4 * width**2 + 4 * width)
        negatives = 0
    else:
        lengths = batch.offsets.diff().double()
        items = batch.tokens["item_id"]
        scored, from_scored, last = 0, 0.0, 0.0
        targets = float(lengths.sum()) - len(lengths)
        head = 2 * targets * width * (case.num_negatives + NUM_CATEGORIES)
        negatives = case.num_negatives
    tokens = num_tokens(batch)
    pairs = float((lengths * (lengths + 1) / 2).sum()) + from_scored
    forward = layers * (2 * 13 * width**2 * tokens + 4 * width * pairs) + last + head
    activations = 2 * 15 * width * tokens * layers * (2 if case.precision == "bf16" else 4)
    distinct = int(items.unique().numel()) + negatives + NUM_CATEGORIES
    numbers = 7 * architecture.num_block_parameters + _rows_moved(case, distinct) * width
    return Work(flops=3 * forward, num_bytes=activations + 4 * numbers, num_tokens=tokens)


def _rows_moved(case: Case, distinct: int) -> int:
    """Rows of tables and of their moments that a step, which looks up so many, reads or writes."""
    if case.dense_only:
        return 0
    if case.frozen:
        return distinct
    if case.table_optimizer == "adamw":
        return 7 * (case.num_items + NUM_CATEGORIES)
    return 3 * distinct


def floor_ms(flops: float, num_bytes: float, matmul_rate: float, copy_rate: float) -> float:
    """Milliseconds that the work takes at the rates, the larger of two."""
    return 1000 * max(flops / matmul_rate, num_bytes / copy_rate)


@cache
def matmul_rate(precision: str, device: torch.device = CPU) -> float:
    """Floating-point operations a second of the product of two square matrices."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rows, _ = _SIZES[device.type]
    left, right = (torch.randn(rows, rows, device=device).to(dtype) for _ in range(2))
    return 2 * rows**3 / best_s(lambda: left @ right, device)


@cache
def copy_rate(device: torch.device = CPU) -> float:
    """Bytes read and written a second by a copy."""
    _, numbers = _SIZES[device.type]
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_s(lambda: target.copy_(source), device)
