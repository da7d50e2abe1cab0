"""What attention needs on columns: loops in registers over vectors (n, E, W), scores (B, K, W).

Sums stay in registers, and what is loaded serves several of them: four queries at a time, with two
keys or two numbers of each value. Arrays are given whole to functions that loop over blocks: a view
or a call costs as much as a product. `models.jagged_attention` puts these together.

Legend: T tokens, H heads, E head width (even), W columns, K keys of a row, B queries of a block,
places the rows side by side.
"""

from typing import Any, NamedTuple

import numpy as np

from models.compiled import EXP2_SERIES, LOG2E, Array, compiled
from models.registers import COLUMNS, fill, floor, load, raised, store, two_to
from models.transposes import RUN, gather, scatter

__all__ = [
    "BLOCK",
    "Desk",
    "by_scores_of",
    "clear",
    "desk_for",
    "divide",
    "dot",
    "dots",
    "exp",
    "find_turns",
    "gather_vectors",
    "mask",
    "mix",
    "scaled",
    "scatter_vectors",
    "softmax",
    "spread",
    "times",
    "turn",
    "turn_apart",
    "vectors_of",
]

BLOCK = 4
"""Queries that are worked on together."""
# Registers are as quick as they can be where they lie in whole cache lines of so many numbers.
_LINE = 16

_F = np.float32
_ZERO, _ONE, _HALF = _F(0), _F(1), _F(0.5)
_NEVER = _F(-1e30)
# 2 to this power has no bits set: what is never looked at weighs nothing, exactly.
_SMALLEST_POWER = _F(-127)
_C1, _C2, _C3, _C4, _C5, _C6 = EXP2_SERIES


class Desk(NamedTuple):
    """What `gather_vectors` and `scatter_vectors` work with."""

    addresses: Array
    """(W,) int64: of each column's numbers"""
    zeros: Array
    """(E,) what stands for numbers that are not there"""
    unread: Array
    """(E,) where those go that nobody wants"""


@compiled
def desk_for(packed: Array) -> Desk:
    """For vectors as those of packed (T, m, H, E)."""
    width, dtype = packed.shape[3], packed.dtype
    return Desk(np.zeros(COLUMNS, np.int64), np.zeros(width, dtype), np.zeros(width, dtype))


@compiled
def clear(array: Array) -> None:
    """Fill with zeros."""
    flat = array.reshape(-1)
    for i in range(flat.size):
        flat[i] = _ZERO


@compiled
def vectors_of(number: int, width: int) -> Array:
    """Zeros (number, width, W), at the start of a cache line."""
    size = number * width * COLUMNS
    memory = np.zeros(size + _LINE, _F)
    first = (-(memory.ctypes.data // 4)) % _LINE
    return memory[first : first + size].reshape((number, width, COLUMNS))


@compiled
def _find_columns(array: Array, tokens: Array, first: int, part: int, desk: Desk, gap: int) -> None:
    """Addresses of one part of array (T, m, H, E) at `first` + tokens (places,), by column.

    Each place's heads stand side by side; the address `gap` where there is no token.
    """
    heads = array.shape[2]
    head_size = array.shape[3] * array.itemsize
    desk.addresses[:] = gap
    for place in range(tokens.size):
        if tokens[place] >= 0:
            vector = ((first + tokens[place]) * array.shape[1] + part) * heads
            for h in range(heads):
                address = array.ctypes.data + (vector + h) * head_size
                desk.addresses[place * heads + h] = address


@compiled
def gather_vectors(
    source: Array, tokens: Array, first: int, part: int, into: Array, desk: Desk
) -> None:
    """One part of source (T, m, H, E) at `first` + tokens (n, places) -> into (n, E, W)."""
    heads, width = source.shape[2], source.shape[3]
    whole = width // RUN * RUN
    for n in range(tokens.shape[0]):
        _find_columns(source, tokens[n], first, part, desk, desk.zeros.ctypes.data)
        for e in range(0, whole, RUN):
            gather(desk.addresses, source, e, into, n)
        for e in range(whole, width):
            for place in range(tokens.shape[1]):
                token = tokens[n, place]
                for h in range(heads):
                    number = source[first + token, part, h, e] if token >= 0 else _ZERO
                    into[n, e, place * heads + h] = number


@compiled
def scatter_vectors(
    vectors: Array, tokens: Array, first: int, part: int, into: Array, desk: Desk
) -> None:
    """The inverse of `gather_vectors`; nothing where there is no token."""
    heads, width = into.shape[2], into.shape[3]
    whole = width // RUN * RUN
    for n in range(tokens.shape[0]):
        _find_columns(into, tokens[n], first, part, desk, desk.unread.ctypes.data)
        for e in range(0, whole, RUN):
            scatter(desk.addresses, into, e, vectors, n)
        for e in range(whole, width):
            for place in range(tokens.shape[1]):
                token = tokens[n, place]
                if token >= 0:
                    for h in range(heads):
                        into[first + token, part, h, e] = vectors[n, e, place * heads + h]


@compiled
def turn(vectors: Array, turns: Array, first: int, sign: Any) -> None:
    """Turn vectors (n, E, W) of positions `first` on, in place.

    turns (P, E / 2, 2) are the cosines and sines of each position's angles, one for each two
    numbers next to each other; `sign` -1 turns back. Vectors of positions beyond P are not used.
    """
    for n in range(vectors.shape[0]):
        position = min(first + n, turns.shape[0] - 1)
        for i in range(turns.shape[1]):
            cosine, sine = fill(turns[position, i, 0]), fill(turns[position, i, 1] * sign)
            x, y = load(vectors, n, 2 * i), load(vectors, n, 2 * i + 1)
            store(vectors, n, 2 * i, x * cosine - y * sine)
            store(vectors, n, 2 * i + 1, x * sine + y * cosine)


@compiled
def find_turns(turns: Array, positions: Array, found: Array) -> None:
    """Each column's cosines and sines at its position (W,) -> found (2, E / 2, W)."""
    for i in range(turns.shape[1]):
        for w in range(COLUMNS):
            found[0, i, w] = turns[positions[w], i, 0]
            found[1, i, w] = turns[positions[w], i, 1]


@compiled
def turn_apart(vectors: Array, found: Array, sign: Any) -> None:
    """As `turn`, of vectors (B, E, W) that all stand at their column's own position."""
    for n in range(vectors.shape[0]):
        for i in range(found.shape[1]):
            cosine, sine = load(found, 0, i), load(found, 1, i) * fill(sign)
            x, y = load(vectors, n, 2 * i), load(vectors, n, 2 * i + 1)
            store(vectors, n, 2 * i, x * cosine - y * sine)
            store(vectors, n, 2 * i + 1, x * sine + y * cosine)


@compiled
def dots(q: Array, keys: Array, num_keys: int, scores: Array) -> None:
    """Queries q (B, E, W) with the first of keys (K, E, W) -> scores (B, K, W)."""
    for j in range(0, num_keys, 2):
        s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = fill(_ZERO)
        for e in range(q.shape[1]):
            left, right = load(keys, j, e), load(keys, j + 1, e)
            query = load(q, 0, e)
            s00, s01 = s00 + query * left, s01 + query * right
            query = load(q, 1, e)
            s10, s11 = s10 + query * left, s11 + query * right
            query = load(q, 2, e)
            s20, s21 = s20 + query * left, s21 + query * right
            query = load(q, 3, e)
            s30, s31 = s30 + query * left, s31 + query * right
        store(scores, 0, j, s00)
        store(scores, 0, j + 1, s01)
        store(scores, 1, j, s10)
        store(scores, 1, j + 1, s11)
        store(scores, 2, j, s20)
        store(scores, 2, j + 1, s21)
        store(scores, 3, j, s30)
        store(scores, 3, j + 1, s31)


@compiled
def mix(weights: Array, values: Array, num_keys: int, mixed: Array) -> None:
    """Add weights (B, K, W) times the first of values (K, E, W) to mixed (B, E, W)."""
    for e in range(0, mixed.shape[1], 2):
        m00, m01 = load(mixed, 0, e), load(mixed, 0, e + 1)
        m10, m11 = load(mixed, 1, e), load(mixed, 1, e + 1)
        m20, m21 = load(mixed, 2, e), load(mixed, 2, e + 1)
        m30, m31 = load(mixed, 3, e), load(mixed, 3, e + 1)
        for j in range(num_keys):
            left, right = load(values, j, e), load(values, j, e + 1)
            weight = load(weights, 0, j)
            m00, m01 = m00 + weight * left, m01 + weight * right
            weight = load(weights, 1, j)
            m10, m11 = m10 + weight * left, m11 + weight * right
            weight = load(weights, 2, j)
            m20, m21 = m20 + weight * left, m21 + weight * right
            weight = load(weights, 3, j)
            m30, m31 = m30 + weight * left, m31 + weight * right
        store(mixed, 0, e, m00)
        store(mixed, 0, e + 1, m01)
        store(mixed, 1, e, m10)
        store(mixed, 1, e + 1, m11)
        store(mixed, 2, e, m20)
        store(mixed, 2, e + 1, m21)
        store(mixed, 3, e, m30)
        store(mixed, 3, e + 1, m31)


@compiled
def spread(weights: Array, vectors: Array, num_keys: int, by_key: Array) -> None:
    """Add weights (B, K, W) times vectors (B, E, W) to the first of by_key (K, E, W)."""
    for j in range(num_keys):
        w0, w1 = load(weights, 0, j), load(weights, 1, j)
        w2, w3 = load(weights, 2, j), load(weights, 3, j)
        for e in range(by_key.shape[1]):
            added = w0 * load(vectors, 0, e) + w1 * load(vectors, 1, e)
            added = added + (w2 * load(vectors, 2, e) + w3 * load(vectors, 3, e))
            store(by_key, j, e, load(by_key, j, e) + added)


@compiled
def dot(left: Array, right: Array, out: Array, at: int) -> None:
    """Left (B, E, W) with right (B, E, W) -> out[:, at] of (B, K, W)."""
    for b in range(BLOCK):
        total = fill(_ZERO)
        for e in range(left.shape[1]):
            total = total + load(left, b, e) * load(right, b, e)
        store(out, b, at, total)


@compiled
def scaled(weights: Array, at: int, vectors: Array, out: Array) -> None:
    """weights[:, at] of (B, K, W) times vectors (B, E, W) -> out (B, E, W)."""
    for b in range(BLOCK):
        weight = load(weights, b, at)
        for e in range(vectors.shape[1]):
            store(out, b, e, weight * load(vectors, b, e))


@compiled
def mask(scores: Array, num_keys: int, start: int, is_causal: bool, lengths: Array) -> None:
    """Take from scores (B, K, W) of the queries from `start` on what they do not look at."""
    for b in range(BLOCK):
        if is_causal:
            for j in range(start + b + 1, num_keys):
                store(scores, b, j, fill(_NEVER))
        else:
            for j in range(num_keys):
                for w in range(COLUMNS):
                    scores[b, j, w] = scores[b, j, w] if j < lengths[w] else _NEVER


@compiled
def exp(scores: Array, num_scores: int, shift: Array) -> None:
    """Raise e to the first of scores (B, K, W), less shift (B, 1, W), in place."""
    for b in range(BLOCK):
        largest = load(shift, b, 0)
        for j in range(num_scores):
            exponent = (load(scores, b, j) - largest) * fill(LOG2E)
            exponent = raised(exponent, fill(_SMALLEST_POWER))
            whole = floor(exponent + fill(_HALF))
            x = exponent - whole
            series = fill(_C5) + x * fill(_C6)
            series = fill(_C3) + x * (fill(_C4) + x * series)
            series = fill(_ONE) + x * (fill(_C1) + x * (fill(_C2) + x * series))
            store(scores, b, j, series * two_to(whole))


@compiled
def softmax(scores: Array, num_scores: int, shift: Array, total: Array) -> None:
    """Scores (B, K, W) become weights: their largest is in shift, the weights' sum in total."""
    for b in range(BLOCK):
        largest = fill(_NEVER)
        for j in range(num_scores - 1, -1, -1):
            largest = raised(load(scores, b, j), largest)
        store(shift, b, 0, largest)
    exp(scores, num_scores, shift)
    for b in range(BLOCK):
        summed = fill(_ZERO)
        for j in range(num_scores):
            summed = summed + load(scores, b, j)
        store(total, b, 0, summed)


@compiled
def times(vectors: Array, scale: Any) -> None:
    """Vectors (B, E, W) times a number."""
    for b in range(BLOCK):
        for e in range(vectors.shape[1]):
            store(vectors, b, e, load(vectors, b, e) * fill(scale))


@compiled
def divide(vectors: Array, total: Array) -> None:
    """Vectors (B, E, W) by total (B, 1, W)."""
    for b in range(BLOCK):
        share = fill(_ONE) / load(total, b, 0)
        for e in range(vectors.shape[1]):
            store(vectors, b, e, load(vectors, b, e) * share)


@compiled
def by_scores_of(weights: Array, by_weights: Array, num_scores: int) -> None:
    """Gradients of weights (B, K, W) become those of scores, in place.

    Which is weight * (gradient - the weighted mean of the gradients).
    """
    for b in range(BLOCK):
        mean = fill(_ZERO)
        for j in range(num_scores):
            mean = mean + load(weights, b, j) * load(by_weights, b, j)
        for j in range(num_scores):
            gradient = load(by_weights, b, j) - mean
            store(by_weights, b, j, load(weights, b, j) * gradient)
