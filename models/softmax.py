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

# The (positions, negatives) block of scores that exists at one time, in elements. On a CPU what the
# cache of a core holds: 1 MiB of float32. On a GPU, where launching kernels is what costs, 64 MiB,
# and 32 more while a copy in bfloat16 exists.
_MAX_BLOCK = {"cpu": 2**18, "cuda": 2**24}

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
            negatives = _Negatives(vectors_UD, negatives_N, product_dtype)
            for block in _blocks(targets.group_offsets[group : group + 2], negatives_N):
                scores = negatives.score(
                    scaled_MD[block], target_MD[block], targets.target[block], targets.weight[block]
                )
                loss += scores.loss
                gradient_MD[block] = scores.by_hidden
                by_target_M[block] = scores.by_target
            vectors_gradient.index_add_(0, negatives_N, negatives.gradient_DN.T)
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


class _Negatives:
    """The negatives of one group, and their gradient, which blocks of positions add to."""

    def __init__(self, vectors_UD: Tensor, negatives_N: Tensor, dtype: torch.dtype) -> None:
        self._ND = vectors_UD.index_select(0, negatives_N).to(dtype)
        self._columns = _Columns(negatives_N)
        self.gradient_DN = vectors_UD.new_zeros(self._ND.T.shape)
        # Memory for one block's scores; fresh memory for each costs as much as its exponentials.
        self._scores = vectors_UD.new_empty(0, negatives_N.numel())

    def score(self, scaled: Tensor, target: Tensor, target_row: Tensor, weight: Tensor) -> _Scores:
        """Loss and gradients of a block of positions (m, D) with vectors `target` (m, D).

        The block of scores is passed over three times: product, exponential, sum. Normalisers are
        applied to the thin sides of the other two products.
        """
        exponentials = self._products(scaled).exp_()
        exponentials[self._columns.of(target_row)] = 0
        target_score = (scaled * target).sum(-1)
        target_exponential = target_score.exp()
        normalizer = exponentials.sum(-1) + target_exponential
        scale = (weight / normalizer)[:, None]
        self._add_gradient(exponentials, scaled * scale)
        return _Scores(
            loss=((normalizer.log() - target_score) * weight).sum(),
            by_hidden=(exponentials.to(self._ND.dtype) @ self._ND).float() * scale,
            by_target=(target_exponential / normalizer - 1) * weight,
        )

    def _products(self, scaled: Tensor) -> Tensor:
        """(m, N) float32; overwritten by the next call."""
        if self._ND.dtype != torch.float32:
            return (scaled.to(self._ND.dtype) @ self._ND.T).float()
        if len(self._scores) < len(scaled):
            self._scores = self._scores.new_empty(len(scaled), self._scores.shape[1])
        return torch.mm(scaled, self._ND.T, out=self._scores[: len(scaled)])

    def _add_gradient(self, exponentials: Tensor, scaled: Tensor) -> None:
        dtype = self._ND.dtype
        if dtype == torch.float32:
            self.gradient_DN.addmm_(scaled.T, exponentials)
        else:
            self.gradient_DN += (scaled.to(dtype).T @ exponentials.to(dtype)).float()


def _blocks(positions: tuple[int, ...], negatives_N: Tensor) -> Iterator[slice]:
    """Cut positions first to last into blocks of the size that is right for the device."""
    first, last = positions
    size = max(1, _MAX_BLOCK[negatives_N.device.type] // max(1, negatives_N.numel()))
    for start in range(first, last, size):
        yield slice(start, min(start + size, last))
