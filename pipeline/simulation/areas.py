"""AUC of any number of scored samples in bounded memory: over all samples, and within requests.

Scores are probabilities or counts, so never negative. `Area` counts them in the bins of their
leading bits; scores of one bin differ by less than one part in 512 and count as equal, as whole
numbers up to 512 that are equal do.

Legend: M samples, in the order of their requests; C positives; K samples of a request at most.
"""

import numpy as np

from pipeline.simulation.draws import Floats, Ints

__all__ = ["Area", "WithinArea"]

# A sign that is always 0, 8 bits of the exponent and 9 of the mantissa remain of a float32.
_DROPPED_BITS = 14
_NUM_BINS = 1 << (31 - _DROPPED_BITS)


class Area:
    """The share of (positive, negative) pairs in the right order, equal scores counted half."""

    def __init__(self) -> None:
        # Negatives, positives.
        self._counts = np.zeros((2, _NUM_BINS), dtype=np.int64)

    def update(self, score_M: Floats, positive_M: np.ndarray) -> None:
        """Take in samples."""
        bins = score_M.view(np.int32) >> _DROPPED_BITS
        for label in (0, 1):
            self._counts[label] += np.bincount(bins[positive_M == label], minlength=_NUM_BINS)

    def result(self) -> float | None:
        """The AUC of everything taken in, None without a positive or without a negative."""
        negatives, positives = self._counts.astype(np.float64)
        num_pairs = negatives.sum() * positives.sum()
        right = (positives * (np.cumsum(negatives) - negatives / 2)).sum()
        return float(right / num_pairs) if num_pairs else None


class WithinArea:
    """The same, of the pairs whose two samples are of one request."""

    def __init__(self) -> None:
        self._num_pairs = 0
        self._right = 0.0

    def update(self, score_M: Floats, positive_M: np.ndarray, request_M: Ints) -> None:
        """Take in samples; each request must be here whole."""
        positive = np.flatnonzero(positive_M)
        first = np.searchsorted(request_M, request_M[positive], side="left")
        end = np.searchsorted(request_M, request_M[positive], side="right")
        width = np.arange((end - first).max(initial=0))
        other_CK = first[:, None] + width
        inside_CK = other_CK < end[:, None]
        other_CK = np.where(inside_CK, other_CK, 0)
        pair_CK = inside_CK & ~positive_M[other_CK]
        gap_CK = score_M[positive][:, None] - score_M[other_CK]
        self._num_pairs += int(pair_CK.sum())
        self._right += float(((np.sign(gap_CK) + 1) / 2)[pair_CK].sum())

    def result(self) -> float | None:
        """The AUC of everything taken in, None without a pair."""
        return self._right / self._num_pairs if self._num_pairs else None
