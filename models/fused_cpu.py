"""The operations of `models.fused` compiled for a CPU: one pass over memory forward, one backward.

Arrays are float32 or the bits of bfloat16 as int16, the same code for both; within it is float32,
in registers, so that rows are whole registers wide.

Legend: T packed tokens, D width, F feed-forward width.
"""

from typing import Any

import numpy as np

from models.compiled import EXP2_SERIES, LOG2E, Array, compiled
from models.registers import COLUMNS, fill, floor, lowered, raised, read, total, two_to, write

__all__ = [
    "add_norm",
    "add_norm_backward",
    "rms_norm",
    "rms_norm_backward",
    "swiglu",
    "swiglu_backward",
]

_F = np.float32
_ZERO, _ONE, _HALF = _F(0), _F(1), _F(0.5)
# e^x is finite and not 0 within these powers of two.
_SMALLEST_POWER, _LARGEST_POWER = _F(-126), _F(126)
_C1, _C2, _C3, _C4, _C5, _C6 = EXP2_SERIES


@compiled
def _sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) of a register."""
    # Written so that NaN stays NaN.
    exponent = raised(x * fill(-LOG2E), fill(_SMALLEST_POWER))
    exponent = lowered(exponent, fill(_LARGEST_POWER))
    whole = floor(exponent + fill(_HALF))
    y = exponent - whole
    series = fill(_C3) + y * (fill(_C4) + y * (fill(_C5) + y * fill(_C6)))
    series = fill(_ONE) + y * (fill(_C1) + y * (fill(_C2) + y * series))
    return fill(_ONE) / (fill(_ONE) + series * two_to(whole))


@compiled
def swiglu(gate_up_T2F: Array, out_TF: Array) -> None:
    """Fill out with gate * sigmoid(gate) * up."""
    tokens, inner = out_TF.shape
    for t in range(tokens):
        for i in range(0, inner, COLUMNS):
            gate = read(gate_up_T2F, t, i)
            write(out_TF, t, i, gate * _sigmoid(gate) * read(gate_up_T2F, t, inner + i))


@compiled
def swiglu_backward(gate_up_T2F: Array, gradient_TF: Array, by_gate_up_T2F: Array) -> None:
    """Fill the gradients of gates and of what they let through."""
    tokens, inner = gradient_TF.shape
    for t in range(tokens):
        for i in range(0, inner, COLUMNS):
            gate, by = read(gate_up_T2F, t, i), read(gradient_TF, t, i)
            slope = _sigmoid(gate)
            by_gate = by * slope * (fill(_ONE) + gate * (fill(_ONE) - slope))
            write(by_gate_up_T2F, t, i, by_gate * read(gate_up_T2F, t, inner + i))
            write(by_gate_up_T2F, t, inner + i, gate * slope * by)


@compiled
def _normalize(
    squares: Any, epsilon: Any, row_TD: Array, t: int, weight_1D: Array, out_TD: Array
) -> Any:
    """Fill out[t] with weight * row[t] * inverse, and return that: 1 / sqrt(mean + epsilon)."""
    width = row_TD.shape[1]
    inverse = _ONE / np.sqrt(total(squares) / _F(width) + epsilon)
    for d in range(0, width, COLUMNS):
        write(out_TD, t, d, read(row_TD, t, d) * fill(inverse) * read(weight_1D, 0, d))
    return inverse


@compiled
def rms_norm(
    epsilon: Any, hidden_TD: Array, weight_1D: Array, out_TD: Array, inverse_T: Array
) -> None:
    """Fill out with weight * x * inverse, and inverse with 1 / sqrt(mean(x^2) + epsilon)."""
    tokens, width = hidden_TD.shape
    for t in range(tokens):
        squares = fill(_ZERO)
        for d in range(0, width, COLUMNS):
            x = read(hidden_TD, t, d)
            squares = squares + x * x
        inverse_T[t] = _normalize(squares, epsilon, hidden_TD, t, weight_1D, out_TD)


@compiled
def add_norm(
    epsilon: Any,
    hidden_TD: Array,
    branch_TD: Array,
    weight_1D: Array,
    sum_TD: Array,
    out_TD: Array,
    inverse_T: Array,
) -> None:
    """Fill sum with hidden + branch, and out and inverse with `rms_norm` of it."""
    tokens, width = hidden_TD.shape
    for t in range(tokens):
        squares = fill(_ZERO)
        for d in range(0, width, COLUMNS):
            x = read(hidden_TD, t, d) + read(branch_TD, t, d)
            write(sum_TD, t, d, x)
            squares = squares + x * x
        inverse_T[t] = _normalize(squares, epsilon, sum_TD, t, weight_1D, out_TD)


@compiled
def _along_row(row_TD: Array, t: int, weight_1D: Array, inverse: Any, gradient_TD: Array) -> Any:
    """inverse^2 * mean(dy * y) of a token: how much of x its gradient is without."""
    width = row_TD.shape[1]
    product = fill(_ZERO)
    for d in range(0, width, COLUMNS):
        by = read(gradient_TD, t, d) * read(weight_1D, 0, d)
        product = product + by * read(row_TD, t, d)
    return total(product) * inverse * inverse * inverse / _F(width)


@compiled
def rms_norm_backward(
    hidden_TD: Array,
    weight_1D: Array,
    inverse_T: Array,
    gradient_TD: Array,
    by_hidden_TD: Array,
    by_weight_1D: Array,
) -> None:
    """Fill the gradients.

    With y = x * inverse and dy = weight * gradient: dx = inverse * (dy - y * mean(dy * y)).
    """
    tokens, width = hidden_TD.shape
    by_weight_1D[:] = _ZERO
    for t in range(tokens):
        share = fill(_along_row(hidden_TD, t, weight_1D, inverse_T[t], gradient_TD))
        inverse = fill(inverse_T[t])
        for d in range(0, width, COLUMNS):
            x, by = read(hidden_TD, t, d), read(gradient_TD, t, d)
            write(by_weight_1D, 0, d, read(by_weight_1D, 0, d) + by * x * inverse)
            write(by_hidden_TD, t, d, inverse * by * read(weight_1D, 0, d) - x * share)


@compiled
def add_norm_backward(
    sum_TD: Array,
    weight_1D: Array,
    inverse_T: Array,
    by_sum_TD: Array,
    gradient_TD: Array,
    by_hidden_TD: Array,
    by_branch_TD: Array,
    by_weight_1D: Array,
) -> None:
    """Fill the gradients, of those by the sum and by its norm."""
    tokens, width = sum_TD.shape
    by_weight_1D[:] = _ZERO
    for t in range(tokens):
        share = fill(_along_row(sum_TD, t, weight_1D, inverse_T[t], gradient_TD))
        inverse = fill(inverse_T[t])
        for d in range(0, width, COLUMNS):
            x, by = read(sum_TD, t, d), read(gradient_TD, t, d)
            write(by_weight_1D, 0, d, read(by_weight_1D, 0, d) + by * x * inverse)
            by = inverse * by * read(weight_1D, 0, d) - x * share
            by = by + read(by_sum_TD, t, d)
            write(by_hidden_TD, t, d, by)
            write(by_branch_TD, t, d, by)
