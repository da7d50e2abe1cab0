"""Attention within packed rows on a CPU, forward and backward, compiled for the processor (numba).

PyTorch's fused kernel takes each row and head by itself, and with short rows and narrow heads it
spends its time on calling products of a few numbers. Here a row and head is a column of a vector
register: 32 of them go side by side through the same operations. Rows of similar length go
together, so that little is padded; what a row gets does not depend, to the bit, on which rows are
beside it.

Inner loops go over columns and are written out over what they sum, so that the compiler can use
vectors and memory is read once for several products. Arrays are given whole to functions that loop
over blocks: a view or a call costs as much as a product. All is in one file: see `models.compiled`.

Legend: Q queries, T tokens (histories first, then candidates), H heads, E head width, E8 the same
rounded up to whole units, W columns, K keys of a row, B queries of a block, places the rows side
by side.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from models.compiled import EXP2_SERIES, LOG2E, Array, compiled

__all__ = ["COLUMNS", "Looks", "backward", "forward"]

COLUMNS = 32
"""Columns side by side: more heads than that are not served."""
_BLOCK = 4
_UNIT = 8

_F = np.float32
_ZERO, _ONE, _HALF = _F(0), _F(1), _F(0.5)
_NEVER = _F(-1e30)
# 2 to this power has no bits set: what is never looked at weighs nothing, exactly.
_SMALLEST_POWER = _F(-127)
_C1, _C2, _C3, _C4, _C5, _C6 = EXP2_SERIES


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
    blocks: int = (number + _BLOCK - 1) // _BLOCK
    return blocks * _BLOCK


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
def _load(source: Array, tokens: Array, first: int, part: int, into: Array, scale: Any) -> None:
    """One part of source (T, m, H, E) at `first` + tokens (n, places) -> into (n, E8, W).

    Each place's heads stand side by side; zeros where there is no token.
    """
    heads, width = source.shape[2], source.shape[3]
    for n in range(tokens.shape[0]):
        for place in range(tokens.shape[1]):
            token = tokens[n, place]
            for h in range(heads):
                w = place * heads + h
                if token >= 0:
                    for e in range(width):
                        into[n, e, w] = source[first + token, part, h, e] * scale
                else:
                    for e in range(width):
                        into[n, e, w] = _ZERO


@compiled
def _store(vectors: Array, tokens: Array, first: int, part: int, into: Array, scale: Any) -> None:
    """The inverse of `_load`; nothing where there is no token."""
    heads, width = into.shape[2], into.shape[3]
    for n in range(tokens.shape[0]):
        for place in range(tokens.shape[1]):
            token = tokens[n, place]
            if token >= 0:
                for h in range(heads):
                    w = place * heads + h
                    for e in range(width):
                        into[first + token, part, h, e] = vectors[n, e, w] * scale


@compiled
def _dots(q: Array, keys: Array, num_keys: int, scores: Array) -> None:
    """Queries q (B, E8, W) with the first of keys (K, E8, W) -> scores (B, K, W)."""
    for j in range(num_keys):
        for b in range(_BLOCK):
            for w in range(COLUMNS):
                scores[b, j, w] = (
                    q[b, 0, w] * keys[j, 0, w]
                    + q[b, 1, w] * keys[j, 1, w]
                    + q[b, 2, w] * keys[j, 2, w]
                    + q[b, 3, w] * keys[j, 3, w]
                    + q[b, 4, w] * keys[j, 4, w]
                    + q[b, 5, w] * keys[j, 5, w]
                    + q[b, 6, w] * keys[j, 6, w]
                    + q[b, 7, w] * keys[j, 7, w]
                )
            for e in range(_UNIT, q.shape[1], _UNIT):
                for w in range(COLUMNS):
                    scores[b, j, w] += (
                        q[b, e, w] * keys[j, e, w]
                        + q[b, e + 1, w] * keys[j, e + 1, w]
                        + q[b, e + 2, w] * keys[j, e + 2, w]
                        + q[b, e + 3, w] * keys[j, e + 3, w]
                        + q[b, e + 4, w] * keys[j, e + 4, w]
                        + q[b, e + 5, w] * keys[j, e + 5, w]
                        + q[b, e + 6, w] * keys[j, e + 6, w]
                        + q[b, e + 7, w] * keys[j, e + 7, w]
                    )


@compiled
def _mix(weights: Array, values: Array, num_keys: int, mixed: Array) -> None:
    """Add weights (B, K, W) times values (K, E8, W) to mixed (B, E8, W); keys in whole blocks."""
    for j in range(0, num_keys, _BLOCK):
        for b in range(_BLOCK):
            for e in range(mixed.shape[1]):
                for w in range(COLUMNS):
                    mixed[b, e, w] += (
                        weights[b, j, w] * values[j, e, w]
                        + weights[b, j + 1, w] * values[j + 1, e, w]
                        + weights[b, j + 2, w] * values[j + 2, e, w]
                        + weights[b, j + 3, w] * values[j + 3, e, w]
                    )


@compiled
def _spread(weights: Array, vectors: Array, num_keys: int, by_key: Array) -> None:
    """Add weights (B, K, W) times vectors (B, E8, W) to by_key (K, E8, W)."""
    for j in range(num_keys):
        for e in range(by_key.shape[1]):
            for w in range(COLUMNS):
                by_key[j, e, w] += (
                    weights[0, j, w] * vectors[0, e, w]
                    + weights[1, j, w] * vectors[1, e, w]
                    + weights[2, j, w] * vectors[2, e, w]
                    + weights[3, j, w] * vectors[3, e, w]
                )


@compiled
def _dot(left: Array, right: Array, out: Array) -> None:
    """Left (B, E8, W) with right (B, E8, W) -> out (B, 1, W)."""
    for b in range(_BLOCK):
        for w in range(COLUMNS):
            out[b, 0, w] = _ZERO
        for e in range(left.shape[1]):
            for w in range(COLUMNS):
                out[b, 0, w] += left[b, e, w] * right[b, e, w]


@compiled
def _scaled(weights: Array, vectors: Array, out: Array) -> None:
    """Weights (B, 1, W) times vectors (B, E8, W) -> out (B, E8, W)."""
    for b in range(_BLOCK):
        for e in range(vectors.shape[1]):
            for w in range(COLUMNS):
                out[b, e, w] = weights[b, 0, w] * vectors[b, e, w]


@compiled
def _mask(scores: Array, num_keys: int, start: int, is_causal: bool, lengths: Array) -> None:
    """Take from scores (B, K, W) of the queries from `start` on what they do not look at."""
    for b in range(_BLOCK):
        if is_causal:
            for j in range(start + b + 1, num_keys):
                for w in range(COLUMNS):
                    scores[b, j, w] = _NEVER
        else:
            for j in range(num_keys):
                for w in range(COLUMNS):
                    scores[b, j, w] = scores[b, j, w] if j < lengths[w] else _NEVER


@compiled
def _maximum(scores: Array, num_keys: int, shift: Array) -> None:
    """Raise shift (B, W) to the largest of scores (B, K, W)."""
    for b in range(_BLOCK):
        for j in range(num_keys):
            for w in range(COLUMNS):
                shift[b, w] = max(shift[b, w], scores[b, j, w])


@compiled
def _exp(scores: Array, num_keys: int, shift: Array, total: Array) -> None:
    """exp(scores - shift), (B, K, W), in place; their sums are added to total (B, W)."""
    bits = np.empty(COLUMNS, np.int32)
    powers = bits.view(np.float32)
    for b in range(_BLOCK):
        for j in range(num_keys):
            for w in range(COLUMNS):
                exponent = (scores[b, j, w] - shift[b, w]) * LOG2E
                # Written so that NaN stays NaN.
                if exponent < _SMALLEST_POWER:
                    exponent = _SMALLEST_POWER
                whole = np.floor(exponent + _HALF)
                x = exponent - whole
                bits[w] = (np.int32(whole) + np.int32(127)) << np.int32(23)
                scores[b, j, w] = _ONE + x * (
                    _C1 + x * (_C2 + x * (_C3 + x * (_C4 + x * (_C5 + x * _C6))))
                )
            for w in range(COLUMNS):
                scores[b, j, w] *= powers[w]
                total[b, w] += scores[b, j, w]


@compiled
def _divide(scores: Array, num_keys: int, total: Array) -> None:
    """Scores (B, K, W) by total (B, W)."""
    share = np.empty(COLUMNS, _F)
    for b in range(_BLOCK):
        for w in range(COLUMNS):
            share[w] = _ONE / total[b, w]
        for j in range(num_keys):
            for w in range(COLUMNS):
                scores[b, j, w] *= share[w]


@compiled
def _by_scores(weights: Array, by_weights: Array, num_keys: int, total: Array) -> None:
    """Gradients of weights (B, K, W) become those of scores: weight * (gradient - total)."""
    for b in range(_BLOCK):
        for j in range(num_keys):
            for w in range(COLUMNS):
                by_weights[b, j, w] = weights[b, j, w] * (by_weights[b, j, w] - total[b, 0, w])


@compiled
def _load_sums(log_sums: Array, queries: Array, shift: Array) -> None:
    """log_sums (Q, H) of queries (B, places) -> shift (B, W)."""
    heads = log_sums.shape[1]
    for b in range(_BLOCK):
        for place in range(queries.shape[1]):
            for h in range(heads):
                query = queries[b, place]
                shift[b, place * heads + h] = log_sums[query, h] if query >= 0 else _ZERO


@compiled
def _store_sums(shift: Array, total: Array, queries: Array, log_sums: Array) -> None:
    """The inverse of `_load_sums`, of the logarithm of total (B, W) times exp(shift)."""
    heads = log_sums.shape[1]
    for b in range(_BLOCK):
        for place in range(queries.shape[1]):
            for h in range(heads):
                w = place * heads + h
                if queries[b, place] >= 0:
                    log_sums[queries[b, place], h] = shift[b, w] + math.log(total[b, w])


@compiled
def _clear(array: Array) -> None:
    flat = array.reshape(-1)
    for i in range(flat.size):
        flat[i] = _ZERO


@compiled
def _vectors(number: int, width: int) -> Array:
    """Zeros (number, E8, W)."""
    return np.zeros((number, (width + _UNIT - 1) // _UNIT * _UNIT, COLUMNS), _F)


@compiled
def _num_keys(looks: Looks) -> int:
    """Slots for the longest history, in whole blocks."""
    return max(_in_blocks(_most(looks.history_offsets, looks.order)), _BLOCK)


@compiled
def _memory(looks: Looks, heads: int, width: int) -> tuple[Array, ...]:
    """What both ways work in: keys, values, q, out, own keys, own values; scores, own scores; rest.

    The rest: shift (B, W), lengths (W,), the histories' tokens (K, places), queries (B, places).
    """
    num_keys, places = _num_keys(looks), COLUMNS // heads
    return (
        _vectors(num_keys, width),
        _vectors(num_keys, width),
        _vectors(_BLOCK, width),
        _vectors(_BLOCK, width),
        _vectors(_BLOCK, width),
        _vectors(_BLOCK, width),
        np.zeros((_BLOCK, num_keys, COLUMNS), _F),
        np.zeros((_BLOCK, 1, COLUMNS), _F),
        np.zeros((_BLOCK, COLUMNS), _F),
        np.zeros(COLUMNS, np.int32),
        np.zeros((num_keys, places), np.int64),
        np.zeros((_BLOCK, places), np.int64),
    )


@compiled
def _block(looks: Looks, start: int, num_slots: int, longest: int) -> tuple[bool, bool, int]:
    """Of the queries from `start` on: whether candidates, whether causal; how many keys."""
    is_candidate = start >= num_slots
    is_causal = not is_candidate and not looks.bidirectional
    return is_candidate, is_causal, min(longest, start + _BLOCK) if is_causal else longest


@compiled
def _load_histories(
    looks: Looks, rows: Array, packed: Array, keys: Array, values: Array, tokens: Array
) -> int:
    """Keys and values of the rows' histories, and which tokens they are; how many slots."""
    found = tokens[: _in_blocks(_most(looks.history_offsets, rows))]
    _find(looks.history_offsets, rows, 0, 0, found)
    _load(packed, found, 0, packed.shape[1] - 2, keys, _ONE)
    _load(packed, found, 0, packed.shape[1] - 1, values, _ONE)
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
def forward(looks: Looks, queries: Array, packed: Array, mixed: Array, log_sums: Array) -> None:
    """Softmax of scaled products, of the queries with the keys they look at, times the values.

    queries (Q, n, H, E), the first of n; packed (T, m, H, E), keys and values the last two of m;
    fills mixed (Q, 1, H, E) and the softmax's logarithm of sums (Q, H). All float32, and rows of
    `looks.order` only, so that threads can share a batch.
    """
    heads, width = packed.shape[2], packed.shape[3]
    scale, key = _F(1 / math.sqrt(width)), packed.shape[1] - 2
    memory = _memory(looks, heads, width)
    keys, values, q, out, own_keys, own_values, scores, own_scores = memory[:8]
    shift, lengths, tokens, found = memory[8:]
    places = COLUMNS // heads
    total = np.zeros_like(shift)
    own = 0 if looks.of_histories else looks.history_offsets[-1]
    for first in range(0, looks.order.size, places):
        rows = looks.order[first : first + places]
        longest = _load_histories(looks, rows, packed, keys, values, tokens)
        _lengths(looks, rows, heads, lengths)
        num_slots = longest if looks.of_histories else 0
        for start in range(0, num_slots + _most(looks.candidate_offsets, rows), _BLOCK):
            is_candidate, is_causal, num_keys = _block(looks, start, num_slots, longest)
            _find_queries(looks, rows, start, num_slots, found)
            _load(queries, found, 0, 0, q, scale)
            _dots(q, keys, num_keys, scores)
            _mask(scores, num_keys, start, is_causal, lengths)
            own_scores[:] = _NEVER
            if is_candidate:
                _load(packed, found, own, key, own_keys, _ONE)
                _load(packed, found, own, key + 1, own_values, _ONE)
                _dot(q, own_keys, own_scores)
            shift[:] = own_scores[:, 0]
            total[:] = _ZERO
            _maximum(scores, num_keys, shift)
            _exp(own_scores, 1, shift, total)
            _exp(scores, num_keys, shift, total)
            _divide(own_scores, 1, total)
            _divide(scores, num_keys, total)
            _scaled(own_scores, own_values, out)
            _mix(scores, values, num_keys, out)
            _store(out, found, 0, 0, mixed, _ONE)
            _store_sums(shift, total, found, log_sums)


@compiled
def backward(
    looks: Looks,
    queries: Array,
    packed: Array,
    mixed: Array,
    log_sums: Array,
    by_mixed: Array,
    by_queries: Array,
    by_packed: Array,
) -> None:
    """Gradients of `forward`: fills by_queries (Q, n, H, E), the first of n, and by_packed.

    by_mixed (Q, 1, H, E) is the gradient of mixed; the others are as in `forward`.
    """
    heads, width = packed.shape[2], packed.shape[3]
    scale, key = _F(1 / math.sqrt(width)), packed.shape[1] - 2
    memory = _memory(looks, heads, width)
    keys, values, q, out, own_keys, own_values, scores, own_scores = memory[:8]
    shift, lengths, tokens, found = memory[8:]
    places = COLUMNS // heads
    by_keys, by_values, by_q = np.zeros_like(keys), np.zeros_like(values), np.zeros_like(q)
    by_out, by_scores = np.zeros_like(out), np.zeros_like(scores)
    by_own_scores, total = np.zeros_like(own_scores), np.zeros_like(own_scores)
    unused = np.zeros_like(shift)
    own = 0 if looks.of_histories else looks.history_offsets[-1]
    for first in range(0, looks.order.size, places):
        rows = looks.order[first : first + places]
        longest = _load_histories(looks, rows, packed, keys, values, tokens)
        _lengths(looks, rows, heads, lengths)
        _clear(by_keys[:longest])
        _clear(by_values[:longest])
        num_slots = longest if looks.of_histories else 0
        for start in range(0, num_slots + _most(looks.candidate_offsets, rows), _BLOCK):
            is_candidate, is_causal, num_keys = _block(looks, start, num_slots, longest)
            _find_queries(looks, rows, start, num_slots, found)
            _load(queries, found, 0, 0, q, scale)
            _load(mixed, found, 0, 0, out, _ONE)
            _load(by_mixed, found, 0, 0, by_out, _ONE)
            _load_sums(log_sums, found, shift)
            _dot(out, by_out, total)
            _dots(q, keys, num_keys, scores)
            _dots(by_out, values, num_keys, by_scores)
            _mask(scores, num_keys, start, is_causal, lengths)
            _exp(scores, num_keys, shift, unused)
            _by_scores(scores, by_scores, num_keys, total)
            _clear(by_q)
            if is_candidate:
                _load(packed, found, own, key, own_keys, _ONE)
                _load(packed, found, own, key + 1, own_values, _ONE)
                _dot(q, own_keys, own_scores)
                _dot(by_out, own_values, by_own_scores)
                _exp(own_scores, 1, shift, unused)
                _by_scores(own_scores, by_own_scores, 1, total)
                _scaled(by_own_scores, own_keys, by_q)
                _scaled(by_own_scores, q, own_keys)
                _scaled(own_scores, by_out, own_values)
                _store(own_keys, found, own, key, by_packed, _ONE)
                _store(own_values, found, own, key + 1, by_packed, _ONE)
            _mix(by_scores, keys, num_keys, by_q)
            _spread(by_scores, q, num_keys, by_keys)
            _spread(scores, by_out, num_keys, by_values)
            _store(by_q, found, 0, 0, by_queries, scale)
        _store(by_keys, tokens[:longest], 0, key, by_packed, _ONE)
        _store(by_values, tokens[:longest], 0, key + 1, by_packed, _ONE)
