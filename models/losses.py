"""What a model's forward pass hands to the training loop: sums, not means.

A mean over a rank's own targets would weigh targets by how they happen to be spread. The loop
divides each sum by its count over all ranks instead, so that any world size computes one loss.
"""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["LossSums"]


@dataclass(frozen=True, slots=True)
class LossSums:
    """Losses of one rank's share of a batch; K kinds of loss, named."""

    names: tuple[str, ...]
    sums: Tensor
    """(K,) float32: sum over targets of weight x loss"""
    counts: Tensor
    """(K,) float32: sum of weights"""
    logits: Tensor | None = None
    """(C,) float32, ranking only: the scores, for metrics while training"""
