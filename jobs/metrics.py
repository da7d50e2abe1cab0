"""Metrics of a ranking model over any number of samples and ranks, in bounded memory.

Training and evaluation feed batches of logits to `RankingMetrics` on every rank; one sum over the
ranks, and every rank knows the result. AUC is computed from two histograms of the logits, one of
the positives and one of the negatives; how wrong that can make it is part of the result.

Legend: C candidates of a batch; P and N weights of all positives and all negatives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NUM_BINS", "RankingMetrics", "RankingResult", "bin_of"]

# A bin is a sign, one of 32 powers of two from 2^-16 to 2^15, and the 12 leading bits of the
# mantissa: logits that share one differ by less than one part in 4096. Beyond, the outermost bins
# take all (magnitudes under 2^-16, or of 2^16 and over). The state is 2 histograms of 2^18 float64
# counts: 4 MiB.
NUM_BINS = 1 << 18
_BINS_PER_SIGN = NUM_BINS // 2
_DROPPED_BITS = 11
_SMALLEST = (127 - 16) << 23  # bits of the float32 2^-16
_LARGEST_OFFSET = (32 << 23) - 1
_NUM_SUMS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingResult:
    """Metrics of one model on one set of samples; NaN where a value is not defined."""

    auc: float
    """share of (positive, negative) pairs in the right order, equal logits counted half"""
    auc_error: float
    """the exact AUC of the logits is within `auc` plus or minus this"""
    log_loss: float
    """mean binary cross entropy in nats"""
    normalized_entropy: float
    """log loss over that of always predicting the share of positives; below 1 is better"""
    calibration: float
    """sum of the predicted probabilities over the number of positives; 1 is best"""
    num_samples: int
    """samples of weight over 0"""
    num_positives: int


def bin_of(logits: Tensor) -> Tensor:
    """The histogram bin of each float32 logit, (C,) int64: never decreasing as logits grow."""
    # Adding zero makes -0.0 the 0.0 it is equal to.
    bits = (logits + 0.0).abs().view(torch.int32)
    offset = (bits - _SMALLEST).clamp(0, _LARGEST_OFFSET) >> _DROPPED_BITS
    negative = logits < 0
    return torch.where(negative, _BINS_PER_SIGN - 1 - offset, _BINS_PER_SIGN + offset).long()


class RankingMetrics:
    """Sums up batches; `reduce` adds up the ranks; `result` reads the metrics off.

    All state is one float64 vector, so that ranks reduce in one call and two parts of a data set
    give exactly the counts of the whole.
    """

    def __init__(self) -> None:
        self._state = torch.zeros(2 * NUM_BINS + _NUM_SUMS, dtype=torch.float64)

    def update(self, logits: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Take in a batch: logits, labels (0 or 1) and weights (0 or more), each (C,).

        Samples of weight 0 count nowhere, whatever their logits.
        """
        counted = weights > 0
        values = logits.detach()[counted].float()
        positive = labels[counted] > 0.5
        weight = weights[counted].double()
        self._state = self._state.to(values.device)
        self._state.index_add_(0, bin_of(values) + positive * NUM_BINS, weight)
        exact, label = values.double(), positive.double()
        # -log p(label) of a sample, without computing p: never overflows.
        losses = F.softplus(exact) - exact * label
        sums = [
            (weight * losses).sum(),
            (weight * exact.sigmoid()).sum(),
            weight.sum(),
            (weight * label).sum(),
            torch.tensor(float(len(values)), device=values.device),
            label.sum(),
        ]
        self._state[2 * NUM_BINS :] += torch.stack([total.double() for total in sums])

    def reduce(self, sum_over_ranks: Callable[[Tensor], None]) -> None:
        """Add up all ranks; `sum_over_ranks` replaces a tensor in place by its sum over them."""
        sum_over_ranks(self._state)

    def result(self) -> RankingResult:
        """The metrics of everything taken in so far."""
        negatives, positives, sums = self._state.cpu().split([NUM_BINS, NUM_BINS, _NUM_SUMS])
        loss, predicted, weight, positive_weight, num_samples, num_positives = sums.tolist()
        log_loss = _ratio(loss, weight)
        # A NaN logit has no place in any order.
        auc, auc_error = (math.nan, math.nan) if math.isnan(loss) else _area(positives, negatives)
        return RankingResult(
            auc=auc,
            auc_error=auc_error,
            log_loss=log_loss,
            normalized_entropy=_ratio(log_loss, _entropy(_ratio(positive_weight, weight))),
            calibration=_ratio(predicted, positive_weight),
            num_samples=int(num_samples),
            num_positives=int(num_positives),
        )


def _area(positives: Tensor, negatives: Tensor) -> tuple[float, float]:
    """AUC and the largest error it can have, from the weights in each bin, (NUM_BINS,) each.

    Pairs in different bins are in the order of their bins. Of the p_b n_b pairs within bin b half
    count as right; truly it is between none and all of them. So the error is at most
    sum_b p_b n_b / (2 P N).
    """
    num_pairs = float(positives.sum() * negatives.sum())
    lower = negatives.cumsum(0) - negatives
    right = float((positives * lower).sum())
    undecided = float((positives * negatives).sum())
    return _ratio(right + undecided / 2, num_pairs), _ratio(undecided / 2, num_pairs)


def _entropy(share: float) -> float:
    """Entropy of a coin with this share of heads, in nats; NaN if the share is."""
    if share in (0.0, 1.0):
        return 0.0
    return -share * _log(share) - (1 - share) * _log(1 - share)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
