"""Scaled dot-product attention within rows, on packed tokens, with rotary positions.

Two ways to the same numbers. Short rows on a CPU are taken as they are, by
`models.jagged_attention`. On a GPU, and for long rows, they are padded into buckets for PyTorch's
fused kernel. `models.rows` chooses, once a batch.

Legend: T packed tokens, C candidates among them, H heads, E head width, B L bucket rows and length.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import jagged_attention
from models.compiled import arrays_of, in_threads
from models.fused import rotate_
from models.jagged_attention import Looks
from models.registers import COLUMNS
from models.rows import Padded, Rows
from models.transposes import RUN

__all__ = ["attend", "attend_from_candidates"]


def attend(packed: Tensor, rows: Rows, rotary: Tensor | None = None) -> Tensor:
    """Attention of packed tokens (T, 3, H, E): queries, keys and values -> (T, H, E).

    `rotary` (P, E / 2) complex is e^(i angle) of each of `rows.positions`, by which each two
    adjacent numbers of queries and keys are turned first; without it they are not. May change
    `packed`.
    """
    if rows.padded is not None:
        return _attend_padded(_turned(packed, rotary, 2), rows.padded)
    assert rows.jagged is not None
    looks, turns = rows.jagged, _turns(packed, rotary)
    parts = [_Jagged.apply(part, None, turns, looks) for part in packed.split(COLUMNS, dim=2)]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def attend_from_candidates(
    query_CHE: Tensor, key_value: Tensor, rows: Rows, rotary: Tensor | None = None
) -> Tensor:
    """The same of the candidates' queries (C, H, E) alone, keys and values being (T, 2, H, E)."""
    if rows.padded is not None:
        own = None if rotary is None else rotary[rows.num_history_tokens :]
        query_CHE = _turned(query_CHE.unsqueeze(1), own, 1).squeeze(1)
        key_value = _turned(key_value, rotary, 1)
        return _attend_from_candidates_padded(query_CHE, key_value, rows.padded)
    assert rows.jagged is not None
    looks, turns = rows.jagged._replace(of_histories=False), _turns(key_value, rotary)
    pairs = zip(key_value.split(COLUMNS, dim=2), query_CHE.split(COLUMNS, dim=1), strict=True)
    parts = [_Jagged.apply(keys, query, turns, looks) for keys, query in pairs]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _turned(vectors: Tensor, rotary: Tensor | None, number: int) -> Tensor:
    return vectors if rotary is None else rotate_(vectors, rotary, number)


def _turns(packed: Tensor, rotary: Tensor | None) -> Tensor:
    """(P, E / 2, 2) cosines and sines; none where nothing is turned."""
    if rotary is None:
        return packed.new_empty(0, 0, 2, dtype=torch.float32)
    return torch.view_as_real(rotary)


class _Jagged(torch.autograd.Function):
    """`models.jagged_attention`, in float32 within whatever comes in."""

    @staticmethod
    def forward(
        ctx: Any, packed: Tensor, query: Tensor | None, turns: Tensor, looks: Looks
    ) -> Tensor:
        """(T, m, H, E), and (Q, H, E) unless they are the first of m -> (Q, H, E)."""
        # The kernel takes the offsets' word for where memory ends.
        num_tokens = int(looks.history_offsets[-1] + looks.candidate_offsets[-1])
        assert len(packed) == num_tokens, f"{len(packed)} tokens for rows of {num_tokens}"
        dtype = _dtype_within(packed)
        keys = packed.to(dtype).contiguous()
        queries = keys if query is None else query.to(dtype).contiguous().unsqueeze(1)
        mixed = torch.empty_like(queries[:, :1])
        log_sums = mixed.new_empty(mixed.shape[0], mixed.shape[2], dtype=torch.float32)
        _run(jagged_attention.forward, looks, queries, keys, turns, mixed, log_sums)
        ctx.save_for_backward(keys, queries, turns, log_sums)
        ctx.looks = looks
        return mixed.squeeze(1).to(packed.dtype)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor | None, None, None]:
        keys, queries, turns, log_sums = ctx.saved_tensors
        by_mixed = gradient.to(keys.dtype).contiguous().unsqueeze(1)
        by_packed = torch.empty_like(keys)
        by_queries = by_packed if ctx.looks.of_histories else torch.empty_like(queries)
        answers = by_mixed, by_queries, by_packed
        _run(jagged_attention.backward, ctx.looks, queries, keys, turns, log_sums, *answers)
        by_packed = by_packed.to(gradient.dtype)
        if ctx.looks.of_histories:
            return by_packed, None, None, None
        return by_packed, by_queries.squeeze(1).to(gradient.dtype), None, None


def _dtype_within(packed: Tensor) -> torch.dtype:
    """Whole runs of bfloat16 are read and written as they are."""
    is_half = packed.dtype == torch.bfloat16 and packed.shape[-1] % RUN == 0
    return torch.bfloat16 if is_half else torch.float32


def _run(function: Callable[..., None], looks: Looks, *tensors: Tensor) -> None:
    """Call it in as many threads as PyTorch has, each with every so many-th rows."""
    arrays = arrays_of(*tensors)
    # Runs of rows that go together anyway.
    runs = np.arange(len(looks.order)) // COLUMNS
    num_shares = min(torch.get_num_threads(), int(runs[-1]) + 1) if runs.size else 1
    orders = [looks.order[runs % num_shares == share] for share in range(num_shares)]
    in_threads(function, [(looks._replace(order=order), *arrays) for order in orders])


def _attend_padded(packed: Tensor, rows: Padded) -> Tensor:
    slots = _Pad.apply(packed, rows.slots, rows.unpad)
    outputs = [packed[:0, 0]]
    for bucket in rows.buckets:
        in_bucket = slots[bucket.first : bucket.last].view(bucket.num_rows, -1, *packed.shape[1:])
        query, key, value = in_bucket.permute(2, 0, 3, 1, 4)  # each (B, H, L, E)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bucket.allowed, is_causal=bucket.allowed is None
        )
        outputs.append(mixed.transpose(1, 2).flatten(0, 1))  # (B * L, H, E)
    return _Unpad.apply(torch.cat(outputs), rows.unpad)


def _attend_from_candidates_padded(query_CHE: Tensor, key_value: Tensor, rows: Padded) -> Tensor:
    assert rows.candidates is not None
    key_values = _Pad.apply(key_value, rows.slots, rows.unpad)
    queries = _Pad.apply(query_CHE, rows.candidates.slots, rows.candidates.unpad)
    outputs = [query_CHE[:0]]
    for bucket in rows.buckets:
        if bucket.candidates is None:
            continue
        first, last = bucket.candidates.first, bucket.candidates.last
        query = queries[first:last].unflatten(0, (bucket.num_rows, -1)).transpose(1, 2)
        in_bucket = key_values[bucket.first : bucket.last].unflatten(0, (bucket.num_rows, -1))
        key, value = in_bucket.permute(2, 0, 3, 1, 4)  # each (B, H, L, E)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bucket.candidates.allowed
        )
        outputs.append(mixed.transpose(1, 2).flatten(0, 1))  # (B * C, H, E)
    return _Unpad.apply(torch.cat(outputs), rows.candidates.unpad)


class _Pad(torch.autograd.Function):
    """Packed tokens to slots. Each token has one slot, so the gradient is a gather as well.

    Empty slots get numbers of their row: nobody looks at them, and what they see is not read.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, slots: Tensor, unpad: Tensor) -> Tensor:
        ctx.save_for_backward(unpad)
        return packed.index_select(0, slots)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None, None]:
        (unpad,) = ctx.saved_tensors
        return gradient.index_select(0, unpad), None, None


class _Unpad(torch.autograd.Function):
    """Slots to packed tokens: the inverse of `_Pad`. Empty slots have no gradient."""

    @staticmethod
    def forward(ctx: Any, in_slots: Tensor, unpad: Tensor) -> Tensor:
        ctx.save_for_backward(unpad)
        ctx.num_slots = in_slots.shape[0]
        return in_slots.index_select(0, unpad)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None]:
        (unpad,) = ctx.saved_tensors
        in_slots = gradient.new_zeros(ctx.num_slots, *gradient.shape[1:])
        return in_slots.index_copy_(0, unpad, gradient), None
