"""Sampled softmax over cosine similarities, scored at labelled positions only.

    loss_m = -log( e^{t_m} / (e^{t_m} + sum_n e^{s_mn}) ),   t_m = cos(h_m, v_target) / tau,
                                                              s_mn = cos(h_m, v_n) / tau

with no correction for the sampling (paper, section 4.1), and without the negatives that happen to
be the position's own target. With every row as a negative this is the full softmax, which is how
features with few values are scored.

Legend: M labelled positions, U distinct vectors, G groups of positions, N negatives a group,
D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["MIN_TEMPERATURE", "SoftmaxTargets", "softmax_loss"]

# The (positions, negatives) block of scores that exists at one time, in elements: what the cache
# of a core holds.
_MAX_BLOCK = 2**18

MIN_TEMPERATURE = 0.025
"""Cosines over this are at most 40, so that e^score needs no maximum subtracted in float32"""


@dataclass(frozen=True, slots=True)
class SoftmaxTargets:
    """What each position should predict, and against what; all indices point into U vectors."""

    target: Tensor
    """(M,) int64"""
    weight: Tensor
    """(M,) float32, 0 for a position that does not count"""
    negatives: Tensor
    """(G, N) int64"""
    group_offsets: tuple[int, ...]
    """G + 1 numbers: group g's negatives serve positions group_offsets[g] to group_offsets[g+1]"""


def softmax_loss(
    hidden_MD: Tensor, vectors_UD: Tensor, targets: SoftmaxTargets, temperature: float
) -> Tensor:
    """Sum over positions of weight x loss, a scalar in float32; equation in the module docstring.

    Gradients are computed block by block in the forward pass, so that no more than one block of
    scores ever exists: 3 matrix products instead of the 4 that recomputation would take.
    Under autocast the products run in its dtype.
    """
    device = hidden_MD.device.type
    product_dtype = (
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    )
    with torch.autocast(device, enabled=False):
        hidden = functional.normalize(hidden_MD.float(), dim=-1)
        vectors = functional.normalize(vectors_UD.float(), dim=-1)
        return _SoftmaxLoss.apply(hidden, vectors, targets, temperature, product_dtype)


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        vectors_UD: Tensor,
        targets: SoftmaxTargets,
        temperature: float,
        product_dtype: torch.dtype,
    ) -> Tensor:
        loss = hidden_MD.new_zeros(())
        scaled_MD = hidden_MD / temperature
        target_MD = vectors_UD.index_select(0, targets.target)
        gradient_MD = torch.empty_like(hidden_MD)
        by_target_M = torch.empty_like(targets.weight)
        vectors_gradient = torch.zeros_like(vectors_UD)
        for group, negatives_N in enumerate(targets.negatives):
            negatives_ND = vectors_UD.index_select(0, negatives_N).to(product_dtype)
            negatives_gradient = vectors_UD.new_zeros(negatives_ND.shape)
            columns = _Columns(negatives_N)
            for block in _blocks(targets.group_offsets[group : group + 2], negatives_N.numel()):
                scores = _score(
                    scaled_MD[block],
                    target_MD[block],
                    negatives_ND,
                    columns.of(targets.target[block]),
                    targets.weight[block],
                )
                loss += scores.loss
                gradient_MD[block] = scores.by_hidden
                by_target_M[block] = scores.by_target
                negatives_gradient += scores.by_negatives
            vectors_gradient.index_add_(0, negatives_N, negatives_gradient)
        vectors_gradient.index_add_(0, targets.target, by_target_M[:, None] * scaled_MD)
        gradient_MD.addcmul_(by_target_M[:, None], target_MD).div_(temperature)
        ctx.save_for_backward(gradient_MD, vectors_gradient)
        return loss

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, vectors_gradient = ctx.saved_tensors
        return gradient * hidden_gradient, gradient * vectors_gradient, None, None, None


class _Columns:
    """Finds the negatives that are a position's own target, without comparing all pairs."""

    def __init__(self, negatives_N: Tensor) -> None:
        self._sorted, self._column = negatives_N.sort()

    def of(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns, in the (positions, negatives) block of `target` (m,), to leave out."""
        first = torch.searchsorted(self._sorted, target)
        count = torch.searchsorted(self._sorted, target, right=True) - first
        row = torch.arange(target.numel(), device=target.device).repeat_interleave(count)
        ordinal = torch.arange(row.numel(), device=target.device)
        ordinal -= (count.cumsum(0) - count)[row]
        return row, self._column[first[row] + ordinal]


@dataclass(frozen=True, slots=True)
class _Scores:
    loss: Tensor
    by_hidden: Tensor
    """(m, D) gradient by the scaled hidden states, without the targets' part"""
    by_target: Tensor
    """(m,) gradient by the targets' scores"""
    by_negatives: Tensor
    """(N, D) gradient by the negatives"""


def _score(
    scaled: Tensor,
    target: Tensor,
    negatives: Tensor,
    left_out: tuple[Tensor, Tensor],
    weight: Tensor,
) -> _Scores:
    """Loss and gradients of a block of positions (m, D) against negatives (N, D).

    The block of scores is passed over three times: product, exponential, sum. Normalisers are
    applied to the thin sides of the other two products.
    """
    scaled_low = scaled.to(negatives.dtype)
    exponentials = (scaled_low @ negatives.T).float().exp_()
    exponentials[left_out] = 0
    target_score = (scaled * target).sum(-1)
    target_exponential = target_score.exp()
    normalizer = exponentials.sum(-1) + target_exponential
    scale = (weight / normalizer)[:, None]
    exponentials = exponentials.to(negatives.dtype)
    return _Scores(
        loss=((normalizer.log() - target_score) * weight).sum(),
        by_hidden=(exponentials @ negatives).float() * scale,
        by_target=(target_exponential / normalizer - 1) * weight,
        by_negatives=(exponentials.T @ (scaled * scale).to(negatives.dtype)).float(),
    )


def _blocks(positions: tuple[int, ...], num_negatives: int) -> Iterator[slice]:
    """Cut positions first to last into blocks of bounded size."""
    first, last = positions
    size = max(1, _MAX_BLOCK // max(1, num_negatives))
    for start in range(first, last, size):
        yield slice(start, min(start + size, last))
