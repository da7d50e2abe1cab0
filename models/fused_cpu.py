"""The operations of `models.fused` compiled for a CPU: one pass over memory forward, one backward.

Loops over a token's numbers are kept simple, so that the compiler makes vectors of them.

Legend: T packed tokens, D width, F feed-forward width.
"""

from typing import Any

import numpy as np

from models.compiled import EXP2_SERIES, LOG2E, Array, compiled

__all__ = [
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_backward_bfloat16",
    "rms_norm_bfloat16",
    "swiglu",
    "swiglu_backward",
    "swiglu_backward_bfloat16",
    "swiglu_bfloat16",
]

_F = np.float32
_ONE, _HALF = _F(1), _F(0.5)
# e^x is finite and not 0 within these powers of two.
_SMALLEST_POWER, _LARGEST_POWER = _F(-126), _F(126)
_C1, _C2, _C3, _C4, _C5, _C6 = EXP2_SERIES


@compiled
def rms_norm(
    epsilon: Any, hidden_TD: Array, weight_D: Array, out_TD: Array, inverse_T: Array
) -> None:
    """Fill out with weight * x * inverse, and inverse with 1 / sqrt(mean(x^2) + epsilon)."""
    for t in range(hidden_TD.shape[0]):
        inverse_T[t] = _norm(epsilon, hidden_TD[t], weight_D, out_TD[t])


@compiled
def _norm(epsilon: Any, row: Array, weight_D: Array, out: Array) -> Any:
    """A token's; returns its inverse."""
    squares = _F(0)
    for d in range(row.size):
        squares += row[d] * row[d]
    inverse = _ONE / np.sqrt(squares / _F(row.size) + epsilon)
    for d in range(row.size):
        out[d] = row[d] * inverse * weight_D[d]
    return inverse


@compiled
def rms_norm_backward(
    hidden_TD: Array,
    weight_D: Array,
    inverse_T: Array,
    gradient_TD: Array,
    by_hidden_TD: Array,
    by_weight_D: Array,
) -> None:
    """Fill the gradients."""
    by_weight_D[:] = _F(0)
    for t in range(hidden_TD.shape[0]):
        _norm_backward(
            hidden_TD[t], weight_D, inverse_T[t], gradient_TD[t], by_hidden_TD[t], by_weight_D
        )


@compiled
def _norm_backward(
    row: Array, weight_D: Array, inverse: Any, by: Array, by_row: Array, by_weight_D: Array
) -> None:
    """A token's gradients; with y = x * inverse: dx = inverse * (dy - y * mean(dy * y))."""
    product = _F(0)
    for d in range(row.size):
        product += by[d] * weight_D[d] * row[d]
    mean = product * inverse * inverse / _F(row.size)
    for d in range(row.size):
        by_weight_D[d] += by[d] * row[d] * inverse
        by_row[d] = inverse * (by[d] * weight_D[d] - row[d] * mean)


@compiled
def _sigmoid(row: Array, bits: Array, out: Array) -> None:
    """1 / (1 + exp(-row)) of (F,) numbers; `bits` (F,) int32 is memory to work in."""
    powers = bits.view(np.float32)
    for i in range(row.size):
        exponent = -row[i] * LOG2E
        # Written so that NaN stays NaN.
        if exponent < _SMALLEST_POWER:
            exponent = _SMALLEST_POWER
        if exponent > _LARGEST_POWER:
            exponent = _LARGEST_POWER
        whole = np.floor(exponent + _HALF)
        x = exponent - whole
        bits[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        out[i] = _ONE + x * (_C1 + x * (_C2 + x * (_C3 + x * (_C4 + x * (_C5 + x * _C6)))))
    for i in range(row.size):
        out[i] = _ONE / (_ONE + out[i] * powers[i])


@compiled
def _gate(row: Array, bits: Array, sigmoid: Array, out: Array) -> None:
    """A token's gates and what they let through (2F,) -> gate * sigmoid(gate) * up (F,)."""
    inner = out.size
    _sigmoid(row[:inner], bits, sigmoid)
    for i in range(inner):
        out[i] = row[i] * sigmoid[i] * row[inner + i]


@compiled
def _gate_backward(row: Array, by: Array, bits: Array, sigmoid: Array, by_row: Array) -> None:
    """Gradients by (F,) of what `_gate` gave -> those of its row (2F,)."""
    inner = by.size
    _sigmoid(row[:inner], bits, sigmoid)
    for i in range(inner):
        gate, slope = row[i], sigmoid[i]
        by_row[inner + i] = gate * slope * by[i]
        by_row[i] = by[i] * row[inner + i] * slope * (_ONE + gate * (_ONE - slope))


@compiled
def swiglu(gate_up_T2F: Array, out_TF: Array) -> None:
    """Fill out with gate * sigmoid(gate) * up."""
    tokens, inner = out_TF.shape
    bits, sigmoid = np.empty(inner, np.int32), np.empty(inner, _F)
    for t in range(tokens):
        _gate(gate_up_T2F[t], bits, sigmoid, out_TF[t])


@compiled
def swiglu_backward(gate_up_T2F: Array, gradient_TF: Array, by_gate_up_T2F: Array) -> None:
    """Fill the gradients of gates and of what they let through."""
    tokens, inner = gradient_TF.shape
    bits, sigmoid = np.empty(inner, np.int32), np.empty(inner, _F)
    for t in range(tokens):
        _gate_backward(gate_up_T2F[t], gradient_TF[t], bits, sigmoid, by_gate_up_T2F[t])


@compiled
def _widen(halves: Array, bits: Array) -> None:
    """The bits of bfloat16, as int16 -> those of the same numbers in float32, as int32."""
    for i in range(halves.size):
        bits[i] = np.int32(halves[i]) << np.int32(16)


@compiled
def _narrow(bits: Array, halves: Array) -> None:
    """The inverse of `_widen`, to the nearest and then to even."""
    for i in range(halves.size):
        odd = (bits[i] >> np.int32(16)) & np.int32(1)
        halves[i] = np.int16((bits[i] + np.int32(0x7FFF) + odd) >> np.int32(16))


@compiled
def swiglu_bfloat16(gate_up_T2F: Array, out_TF: Array) -> None:
    """`swiglu` of bfloat16's bits as int16: float32 within."""
    tokens, inner = out_TF.shape
    bits, sigmoid = np.empty(inner, np.int32), np.empty(inner, _F)
    row, out = np.empty(2 * inner, np.int32), np.empty(inner, np.int32)
    for t in range(tokens):
        _widen(gate_up_T2F[t], row)
        _gate(row.view(np.float32), bits, sigmoid, out.view(np.float32))
        _narrow(out, out_TF[t])


@compiled
def swiglu_backward_bfloat16(gate_up_T2F: Array, gradient_TF: Array, by_gate_up_T2F: Array) -> None:
    """`swiglu_backward` of bfloat16's bits as int16: float32 within."""
    tokens, inner = gradient_TF.shape
    bits, sigmoid = np.empty(inner, np.int32), np.empty(inner, _F)
    row, by_row = np.empty(2 * inner, np.int32), np.empty(2 * inner, np.int32)
    by = np.empty(inner, np.int32)
    for t in range(tokens):
        _widen(gate_up_T2F[t], row)
        _widen(gradient_TF[t], by)
        _gate_backward(
            row.view(np.float32), by.view(np.float32), bits, sigmoid, by_row.view(np.float32)
        )
        _narrow(by_row, by_gate_up_T2F[t])


@compiled
def rms_norm_bfloat16(
    epsilon: Any, hidden_TD: Array, weight_D: Array, out_TD: Array, inverse_T: Array
) -> None:
    """`rms_norm` of float32 whose result is bfloat16's bits as int16."""
    bits = np.empty(hidden_TD.shape[1], np.int32)
    for t in range(hidden_TD.shape[0]):
        inverse_T[t] = _norm(epsilon, hidden_TD[t], weight_D, bits.view(np.float32))
        _narrow(bits, out_TD[t])


@compiled
def rms_norm_backward_bfloat16(
    hidden_TD: Array,
    weight_D: Array,
    inverse_T: Array,
    gradient_TD: Array,
    by_hidden_TD: Array,
    by_weight_D: Array,
) -> None:
    """`rms_norm_backward` where the result, and so the gradient, was bfloat16's bits as int16."""
    bits = np.empty(hidden_TD.shape[1], np.int32)
    by = bits.view(np.float32)
    by_weight_D[:] = _F(0)
    for t in range(hidden_TD.shape[0]):
        _widen(gradient_TD[t], bits)
        _norm_backward(hidden_TD[t], weight_D, inverse_T[t], by, by_hidden_TD[t], by_weight_D)
