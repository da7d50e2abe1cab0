"""Where packed tokens sit in rows: computed once a batch, used by every layer's attention.

Norms, projections and feed-forward work on packed tokens, (T, D). Attention needs to know which
tokens share a row (a sequence, or a request's history and candidates). Short rows on a CPU need
their offsets for that; elsewhere rows are padded, in buckets of similar length, so by little.

Legend: R rows, T packed tokens (histories first, then candidates), B bucket rows, L bucket length,
C candidates of a row.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from models.jagged_attention import Looks

__all__ = ["Bucket", "CandidateSlots", "Padded", "Rows"]

# A bucket's mask takes B * L * L bytes; more rows of that length go to a further bucket.
_MAX_MASK_BYTES = 64 * 2**20
# A bucket more is a few calls more and less padding; launching calls is what costs on a GPU.
_NUM_BUCKETS = {"cpu": 16, "cuda": 4}
# Kernels work on whole vectors, so lengths that are not a multiple of this cost as if they were.
_VECTOR = 8
# On a CPU, rows up to this are quicker by `models.jagged_attention`, longer ones padded.
_LONGEST_JAGGED = 128


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows of similar length, padded to the longest of them."""

    first: int
    last: int
    """its slots are first to last of all slots"""
    num_rows: int
    allowed: Tensor | None
    """(B, 1, L, L) bool: which slot may look at which; None where plain causality says it all"""
    candidates: "Bucket | None" = None
    """the rows' candidates alone: slots among `Padded.candidates`, (B, 1, C, L) as allowed; C is
    the most that a row has; None where no row has any"""


@dataclass(frozen=True, slots=True)
class CandidateSlots:
    """Where candidates sit when only they are looked from, as in the last layer."""

    slots: Tensor
    """(all buckets' B * C,) int64: the candidate in each slot; the row's last where there is none,
    any where the row has none"""
    unpad: Tensor
    """(all candidates,) int64: each one's slot"""


@dataclass(frozen=True, slots=True)
class Padded:
    """Rows in buckets of similar length."""

    buckets: tuple[Bucket, ...]
    slots: Tensor
    """(all buckets' B * L,) int64: the packed token in each slot; the row's last where there is
    none, since what is masked is multiplied by zero, and another row's NaN would stay one"""
    unpad: Tensor
    """(T,) int64: each packed token's slot"""
    candidates: CandidateSlots | None
    """None where rows are histories alone"""

    @classmethod
    def build(cls, layout: "_Layout", num_buckets: int | None, *, bidirectional: bool) -> Self:
        """The rows of a layout, longest first."""
        order = torch.argsort(layout.row_lengths, descending=True, stable=True)
        order = order[layout.row_lengths[order] > 0]
        is_plain = not layout.with_candidates and not bidirectional
        buckets: list[Bucket] = []
        slots, candidate_slots = [order.new_empty(0)], [order.new_empty(0)]
        num_buckets = num_buckets or _NUM_BUCKETS[order.device.type]
        for members in _cut(layout.row_lengths[order], num_buckets):
            rows = order[members]
            allowed = None if is_plain else layout.allowed(rows, bidirectional=bidirectional)
            bucket = _bucket(slots, layout.slots(rows), allowed)
            own = layout.candidate_slots(rows)
            if own.numel():
                allowed = layout.allowed_candidates(rows, own.shape[1])
                bucket = replace(bucket, candidates=_bucket(candidate_slots, own, allowed))
            buckets.append(bucket)
        all_slots, unpad = _both_ways(torch.cat(slots), layout.num_tokens)
        candidates = None
        if layout.with_candidates:
            found = _both_ways(torch.cat(candidate_slots), layout.num_candidates)
            candidates = CandidateSlots(*found)
        return cls(tuple(buckets), all_slots, unpad, candidates)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one batch, laid out in one of two ways."""

    positions: Tensor
    """int64, those whose angles attention needs: (T,) each token's where rows are padded, every
    candidate standing at its history's length; else (P,) all that there are, from 0 on"""
    num_history_tokens: int
    with_candidates: bool
    """false where rows are histories alone"""
    jagged: Looks | None
    padded: Padded | None

    @staticmethod
    def build(
        history_offsets: Tensor,
        candidate_offsets: Tensor | None = None,
        *,
        bidirectional: bool = False,
        pad: bool | None = None,
        num_buckets: int | None = None,
    ) -> "Rows":
        """Lay out rows of `history_offsets` (R+1,), each followed by its candidates.

        A history token looks at itself and the tokens before it in its history (at all of it when
        `bidirectional`); a candidate looks at its history and itself, never at another candidate.
        `pad` and `num_buckets` are chosen by device and lengths where they are not given.
        """
        layout = _Layout.of(history_offsets, candidate_offsets)
        lengths = layout.history_lengths
        is_on_cpu = lengths.device.type == "cpu"
        longest = int(lengths.max()) if is_on_cpu and lengths.numel() else 0
        if pad is None:
            pad = not is_on_cpu or longest > _LONGEST_JAGGED
        jagged, padded = None, None
        if pad:
            padded = Padded.build(layout, num_buckets, bidirectional=bidirectional)
            positions = layout.positions()
        else:
            jagged = layout.jagged(bidirectional=bidirectional)
            positions = torch.arange(longest + 1)
        return Rows(
            positions,
            layout.num_history_tokens,
            layout.with_candidates,
            jagged,
            padded,
        )


def _bucket(slots: list[Tensor], in_bucket: Tensor, allowed: Tensor | None) -> Bucket:
    """Add a bucket's slots (B, L) behind those there are."""
    first = sum(part.numel() for part in slots)
    slots.append(in_bucket.flatten())
    return Bucket(first, first + in_bucket.numel(), in_bucket.shape[0], allowed)


def _both_ways(slots: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Slots, empty ones being `number` and more -> slots less `number`, each index's slot."""
    unpad = torch.empty(number, dtype=torch.int64, device=slots.device)
    real = (slots < number).nonzero().squeeze(1)
    unpad[slots[real]] = real
    return torch.where(slots < number, slots, slots - number), unpad


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where rows' histories and candidates are among packed tokens."""

    history_offsets: Tensor
    candidate_offsets: Tensor
    with_candidates: bool
    num_history_tokens: int
    num_tokens: int

    @staticmethod
    def of(history_offsets: Tensor, candidate_offsets: Tensor | None) -> "_Layout":
        with_candidates = candidate_offsets is not None
        if candidate_offsets is None:
            candidate_offsets = torch.zeros_like(history_offsets)
        num_history_tokens = int(history_offsets[-1])
        return _Layout(
            history_offsets,
            candidate_offsets,
            with_candidates,
            num_history_tokens,
            num_tokens=num_history_tokens + int(candidate_offsets[-1]),
        )

    @property
    def history_starts(self) -> Tensor:
        return self.history_offsets[:-1]

    @property
    def history_lengths(self) -> Tensor:
        return self.history_offsets.diff()

    @property
    def candidate_starts(self) -> Tensor:
        return self.candidate_offsets[:-1] + self.num_history_tokens

    @property
    def candidate_lengths(self) -> Tensor:
        return self.candidate_offsets.diff()

    @property
    def num_candidates(self) -> int:
        return self.num_tokens - self.num_history_tokens

    @property
    def row_lengths(self) -> Tensor:
        return self.history_lengths + self.candidate_lengths

    def jagged(self, *, bidirectional: bool) -> Looks:
        """Rows by history, longest first: those go together in `models.jagged_attention`."""
        return Looks(
            torch.argsort(self.history_lengths, descending=True, stable=True).numpy(),
            self.history_offsets.numpy(),
            self.candidate_offsets.numpy(),
            of_histories=True,
            bidirectional=bidirectional,
        )

    def positions(self) -> Tensor:
        """(T,): 0, 1, 2, ... in each history; the history's length for each of its candidates."""
        device = self.history_starts.device
        history = torch.arange(self.num_history_tokens, device=device)
        history -= self.history_starts.repeat_interleave(self.history_lengths)
        candidates = self.history_lengths.repeat_interleave(self.candidate_lengths)
        return torch.cat([history, candidates])

    def slots(self, rows: Tensor) -> Tensor:
        """(B, L): the packed token in each slot of `rows`; behind the last, it and `num_tokens`."""
        history, total = self.history_lengths[rows, None], self.row_lengths[rows, None]
        slot = torch.arange(int(total.max()), device=rows.device)
        history_starts, candidate_starts = (
            self.history_starts[rows, None],
            self.candidate_starts[rows, None],
        )
        slots = torch.where(
            slot < history, history_starts + slot, candidate_starts - history + slot
        )
        last = torch.where(total > history, candidate_starts - history, history_starts) + total - 1
        return torch.where(slot < total, slots, last + self.num_tokens)

    def candidate_slots(self, rows: Tensor) -> Tensor:
        """(B, C): the candidate in each slot of `rows`; behind the last, as in `slots`."""
        total = self.candidate_lengths[rows, None]
        slot = torch.arange(int(total.max()), device=rows.device)
        starts = self.candidate_starts[rows, None] - self.num_history_tokens
        last = (starts + total - 1).clamp(min=0)
        return torch.where(slot < total, starts + slot, last + self.num_candidates)

    def allowed_candidates(self, rows: Tensor, num_slots: int) -> Tensor:
        """(B, 1, C, L): each candidate's history and itself; an empty slot sees what is there."""
        history, total = self.history_lengths[rows, None, None], self.row_lengths[rows, None, None]
        query = torch.arange(num_slots, device=rows.device)[:, None]
        key = torch.arange(int(self.row_lengths[rows].max()), device=rows.device)
        own = torch.minimum(history + query, total - 1)
        return ((key < history) | (key == own)).unsqueeze(1)

    def allowed(self, rows: Tensor, *, bidirectional: bool) -> Tensor:
        """(B, 1, L, L): which key each query may look at.

        Padding slots may look at themselves, so that no softmax is over nothing; nobody reads them.
        """
        slot = torch.arange(int(self.row_lengths[rows].max()), device=rows.device)
        query, key = slot[:, None], slot[None, :]
        # A query past the history has every history key before it, so one rule serves both kinds.
        sees = key < self.history_lengths[rows, None, None]
        if not bidirectional:
            sees = sees & (key <= query)
        return (sees | (query == key)).unsqueeze(1)


def _cut(lengths: Tensor, num_buckets: int) -> list[slice]:
    """Cut rows, longest first, into runs of similar length and bounded mask size.

    A run ends where lengths get shorter by a vector, if it has its share of the tokens.
    """
    cuts: list[slice] = []
    sizes = lengths.tolist()
    share = -(-sum(sizes) // num_buckets)
    first = 0
    tokens = 0
    for row, length in enumerate(sizes):
        shorter = -(-length // _VECTOR) < -(-sizes[first] // _VECTOR)
        full = (shorter and tokens >= share) or (row - first) * sizes[first] ** 2 >= _MAX_MASK_BYTES
        if row > first and full:
            cuts.append(slice(first, row))
            first, tokens = row, 0
        tokens += length
    if sizes:
        cuts.append(slice(first, len(sizes)))
    return cuts
