"""Attention within packed rows on a CPU, forward and backward, compiled for the processor (numba).

PyTorch's fused kernel takes each row and head by itself, and with short rows and narrow heads it
spends its time on calling products of a few numbers. Here a row and head is a column of a vector
register: 32 of them go side by side through the same operations. Rows of similar length go
together, so that little is padded; what a row gets does not depend, to the bit, on which rows are
beside it.

`models.columns` has what is done on columns. Here is which rows go side by side, and in which
order: blocks of four queries, first of the histories, then candidates.

Legend: Q queries, T tokens (histories first, then candidates), H heads, E head width (even), W
columns, K keys of a row in whole blocks and then a candidate's own, B queries of a block, places
the rows side by side.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from models.columns import (
    BLOCK,
    Desk,
    by_scores_of,
    clear,
    desk_for,
    divide,
    dot,
    dots,
    exp,
    find_turns,
    gather_vectors,
    mask,
    mix,
    scaled,
    scatter_vectors,
    softmax,
    spread,
    times,
    turn,
    turn_apart,
    vectors_of,
)
from models.compiled import Array, compiled
from models.registers import COLUMNS

__all__ = ["Looks", "backward", "forward"]

_F = np.float32
_ZERO, _ONE = _F(0), _F(1)


class Looks(NamedTuple):
    """Who looks at whom. Offsets are (rows + 1,) int64."""

    order: Array
    """(n,) int64: the rows to do, longest first"""
    history_offsets: Array
    candidate_offsets: Array
    of_histories: bool
    """queries are of all tokens, not of candidates alone"""
    bidirectional: bool
    """history tokens look at their whole history"""


@compiled
def _in_blocks(number: int) -> int:
    blocks: int = (number + BLOCK - 1) // BLOCK
    return blocks * BLOCK


@compiled
def _most(offsets: Array, rows: Array) -> int:
    """The most that any of the rows has."""
    most = 0
    for row in rows:
        most = max(most, int(offsets[row + 1] - offsets[row]))
    return most


@compiled
def _find(offsets: Array, rows: Array, start: int, first: int, tokens: Array) -> None:
    """Which tokens are the rows' `start`-th and following: (n, places), -1 for none.

    Tokens of row r are those from offsets[r] to offsets[r + 1], after `first` others.
    """
    tokens[:] = -1
    for n in range(tokens.shape[0]):
        for place in range(rows.size):
            token = offsets[rows[place]] + start + n
            if token < offsets[rows[place] + 1]:
                tokens[n, place] = first + token


@compiled
def _load_sums(log_sums: Array, queries: Array, shift: Array) -> None:
    """log_sums (Q, H) of queries (B, places) -> shift (B, 1, W)."""
    heads = log_sums.shape[1]
    for b in range(BLOCK):
        for place in range(queries.shape[1]):
            for h in range(heads):
                query = queries[b, place]
                shift[b, 0, place * heads + h] = log_sums[query, h] if query >= 0 else _ZERO


@compiled
def _store_sums(shift: Array, total: Array, queries: Array, log_sums: Array) -> None:
    """The inverse of `_load_sums`, of the logarithm of total (B, 1, W) times exp(shift)."""
    heads = log_sums.shape[1]
    for b in range(BLOCK):
        for place in range(queries.shape[1]):
            for h in range(heads):
                w = place * heads + h
                if queries[b, place] >= 0:
                    log_sums[queries[b, place], h] = shift[b, 0, w] + math.log(total[b, 0, w])


@compiled
def _num_keys(looks: Looks) -> int:
    """Slots for the longest history, in whole blocks."""
    return _in_blocks(_most(looks.history_offsets, looks.order))


@compiled
def _memory(looks: Looks, heads: int, width: int) -> tuple[Array, ...]:
    """What both ways work in: keys, values, q, out, own keys, own values; scores; rest.

    The rest: shift and total (B, 1, W), lengths (W,), the histories' tokens (K, places), queries
    (B, places).
    """
    num_keys, places = _num_keys(looks), COLUMNS // heads
    return (
        vectors_of(num_keys, width),
        vectors_of(num_keys, width),
        vectors_of(BLOCK, width),
        vectors_of(BLOCK, width),
        vectors_of(BLOCK, width),
        vectors_of(BLOCK, width),
        vectors_of(BLOCK, num_keys + 1),
        vectors_of(BLOCK, 1),
        vectors_of(BLOCK, 1),
        np.zeros(COLUMNS, np.int32),
        np.zeros((num_keys, places), np.int64),
        np.zeros((BLOCK, places), np.int64),
    )


@compiled
def _block(looks: Looks, start: int, num_slots: int, longest: int) -> tuple[bool, bool, int]:
    """Of the queries from `start` on: whether candidates, whether causal; how many keys."""
    is_candidate = start >= num_slots
    is_causal = not is_candidate and not looks.bidirectional
    return is_candidate, is_causal, min(longest, start + BLOCK) if is_causal else longest


@compiled
def _gather_histories(
    looks: Looks,
    rows: Array,
    packed: Array,
    keys: Array,
    values: Array,
    tokens: Array,
    desk: Desk,
) -> int:
    """Keys and values of the rows' histories, and which tokens they are; how many slots."""
    found = tokens[: _in_blocks(_most(looks.history_offsets, rows))]
    _find(looks.history_offsets, rows, 0, 0, found)
    gather_vectors(packed, found, 0, packed.shape[1] - 2, keys, desk)
    gather_vectors(packed, found, 0, packed.shape[1] - 1, values, desk)
    return found.shape[0]


@compiled
def _find_queries(looks: Looks, rows: Array, start: int, num_slots: int, queries: Array) -> None:
    """Which queries are in a block: the histories' `num_slots` come first, then candidates."""
    if start < num_slots:
        _find(looks.history_offsets, rows, start, 0, queries)
    else:
        first = looks.history_offsets[-1] if looks.of_histories else 0
        _find(looks.candidate_offsets, rows, start - num_slots, first, queries)


@compiled
def _lengths(looks: Looks, rows: Array, heads: int, lengths: Array) -> None:
    """Each column's history's length."""
    for place in range(rows.size):
        length = looks.history_offsets[rows[place] + 1] - looks.history_offsets[rows[place]]
        lengths[place * heads : (place + 1) * heads] = length


@compiled
def _turn_queries(
    q: Array, is_candidate: bool, turns: Array, start: int, own_turns: Array, sign: Any
) -> None:
    """A block's queries, of histories each at its slot, of candidates at their histories' ends."""
    if is_candidate:
        turn_apart(q, own_turns, sign)
    else:
        turn(q, turns, start, sign)


@compiled
def forward(
    looks: Looks, queries: Array, packed: Array, turns: Array, mixed: Array, log_sums: Array
) -> None:
    """Softmax of scaled products, of the queries with the keys they look at, times the values.

    queries (Q, n, H, E), the first of n; packed (T, m, H, E), keys and values the last two of m;
    turns (P, E / 2, 2), cosines and sines by which queries and keys are turned first, of every
    position that there is; (0, 0, 2) to leave them. Fills mixed (Q, 1, H, E) and the softmax's
    logarithm of sums (Q, H), of rows of `looks.order` only, so that threads can share a batch. All
    float32; or queries, packed and mixed the bits of bfloat16 as int16.
    """
    heads, width = packed.shape[2], packed.shape[3]
    scale, key = _F(1 / math.sqrt(width)), packed.shape[1] - 2
    memory = _memory(looks, heads, width)
    keys, values, q, out, own_keys, own_values, scores = memory[:7]
    shift, total, lengths, tokens, found = memory[7:]
    desk = desk_for(packed)
    places = COLUMNS // heads
    own_turns = vectors_of(2, turns.shape[1])
    own = 0 if looks.of_histories else looks.history_offsets[-1]
    for first in range(0, looks.order.size, places):
        rows = looks.order[first : first + places]
        longest = _gather_histories(looks, rows, packed, keys, values, tokens, desk)
        _lengths(looks, rows, heads, lengths)
        turn(keys[:longest], turns, 0, _ONE)
        find_turns(turns, lengths, own_turns)
        num_slots = longest if looks.of_histories else 0
        for start in range(0, num_slots + _most(looks.candidate_offsets, rows), BLOCK):
            is_candidate, is_causal, num_keys = _block(looks, start, num_slots, longest)
            num_scores = num_keys + is_candidate
            _find_queries(looks, rows, start, num_slots, found)
            gather_vectors(queries, found, 0, 0, q, desk)
            times(q, scale)
            _turn_queries(q, is_candidate, turns, start, own_turns, _ONE)
            dots(q, keys, num_keys, scores)
            mask(scores, num_keys, start, is_causal, lengths)
            if is_candidate:
                gather_vectors(packed, found, own, key, own_keys, desk)
                turn_apart(own_keys, own_turns, _ONE)
                gather_vectors(packed, found, own, key + 1, own_values, desk)
                dot(q, own_keys, scores, num_keys)
            softmax(scores, num_scores, shift, total)
            if is_candidate:
                scaled(scores, num_keys, own_values, out)
            else:
                clear(out)
            mix(scores, values, num_keys, out)
            divide(out, total)
            scatter_vectors(out, found, 0, 0, mixed, desk)
            _store_sums(shift, total, found, log_sums)


@compiled
def backward(
    looks: Looks,
    queries: Array,
    packed: Array,
    turns: Array,
    log_sums: Array,
    by_mixed: Array,
    by_queries: Array,
    by_packed: Array,
) -> None:
    """Gradients of `forward`: fills by_queries (Q, n, H, E), the first of n, and by_packed.

    by_mixed (Q, 1, H, E) is the gradient of what `forward` mixed; the others are as there.
    """
    heads, width = packed.shape[2], packed.shape[3]
    scale, key = _F(1 / math.sqrt(width)), packed.shape[1] - 2
    memory = _memory(looks, heads, width)
    keys, values, q, by_out, own_keys, own_values, scores = memory[:7]
    shift, _, lengths, tokens, found = memory[7:]
    places = COLUMNS // heads
    by_keys, by_values = vectors_of(keys.shape[0], width), vectors_of(keys.shape[0], width)
    by_q, by_scores = vectors_of(BLOCK, width), vectors_of(BLOCK, scores.shape[1])
    desk = desk_for(packed)
    own_turns = vectors_of(2, turns.shape[1])
    own = 0 if looks.of_histories else looks.history_offsets[-1]
    for first in range(0, looks.order.size, places):
        rows = looks.order[first : first + places]
        longest = _gather_histories(looks, rows, packed, keys, values, tokens, desk)
        _lengths(looks, rows, heads, lengths)
        turn(keys[:longest], turns, 0, _ONE)
        find_turns(turns, lengths, own_turns)
        clear(by_keys[:longest])
        clear(by_values[:longest])
        num_slots = longest if looks.of_histories else 0
        for start in range(0, num_slots + _most(looks.candidate_offsets, rows), BLOCK):
            is_candidate, is_causal, num_keys = _block(looks, start, num_slots, longest)
            num_scores = num_keys + is_candidate
            _find_queries(looks, rows, start, num_slots, found)
            gather_vectors(queries, found, 0, 0, q, desk)
            times(q, scale)
            _turn_queries(q, is_candidate, turns, start, own_turns, _ONE)
            gather_vectors(by_mixed, found, 0, 0, by_out, desk)
            _load_sums(log_sums, found, shift)
            dots(q, keys, num_keys, scores)
            dots(by_out, values, num_keys, by_scores)
            mask(scores, num_keys, start, is_causal, lengths)
            if is_candidate:
                gather_vectors(packed, found, own, key, own_keys, desk)
                turn_apart(own_keys, own_turns, _ONE)
                gather_vectors(packed, found, own, key + 1, own_values, desk)
                dot(q, own_keys, scores, num_keys)
                dot(by_out, own_values, by_scores, num_keys)
            exp(scores, num_scores, shift)
            by_scores_of(scores, by_scores, num_scores)
            if is_candidate:
                scaled(by_scores, num_keys, own_keys, by_q)
                scaled(by_scores, num_keys, q, own_keys)
                scaled(scores, num_keys, by_out, own_values)
                turn_apart(own_keys, own_turns, -_ONE)
                scatter_vectors(own_keys, found, own, key, by_packed, desk)
                scatter_vectors(own_values, found, own, key + 1, by_packed, desk)
            else:
                clear(by_q)
            mix(by_scores, keys, num_keys, by_q)
            spread(by_scores, q, num_keys, by_keys)
            spread(scores, by_out, num_keys, by_values)
            times(by_q, scale)
            _turn_queries(by_q, is_candidate, turns, start, own_turns, -_ONE)
            scatter_vectors(by_q, found, 0, 0, by_queries, desk)
        turn(by_keys[:longest], turns, 0, -_ONE)
        scatter_vectors(by_keys, tokens[:longest], 0, key, by_packed, desk)
        scatter_vectors(by_values, tokens[:longest], 0, key + 1, by_packed, desk)
