"""The operations of `models.fused` compiled for a CPU: one pass over memory forward, one backward.

All arrays are float32. Loops over a token's numbers are kept simple, so that the compiler makes
vectors of them. As in `models.jagged_attention`, what these call is in this file, since numba keeps
compiled code by the file that a function is in.

Legend: T packed tokens, D width, F feed-forward width.
"""

from typing import Any

import numpy as np

from models.compiled import Array, compiled

__all__ = ["rms_norm", "rms_norm_backward", "swiglu", "swiglu_backward"]

_F = np.float32
_ONE, _HALF = _F(1), _F(0.5)
_LOG2E = _F(1.4426950408889634)
# e^x is finite and not 0 within these powers of two.
_SMALLEST_POWER, _LARGEST_POWER = _F(-126), _F(126)
# 2^x on [-0.5, 0.5], to float32's precision: the series of exp(x ln 2).
_C1, _C2, _C3 = _F(0.6931471805599453), _F(0.2402265069591007), _F(0.05550410866482158)
_C4, _C5, _C6 = _F(0.009618129107628477), _F(0.0013333558146428443), _F(0.00015403530393381608)


@compiled
def rms_norm(
    epsilon: Any, hidden_TD: Array, weight_D: Array, out_TD: Array, inverse_T: Array
) -> None:
    """Fill out with weight * x * inverse, and inverse with 1 / sqrt(mean(x^2) + epsilon)."""
    tokens, width = hidden_TD.shape
    for t in range(tokens):
        squares = _F(0)
        for d in range(width):
            squares += hidden_TD[t, d] * hidden_TD[t, d]
        inverse = _ONE / np.sqrt(squares / _F(width) + epsilon)
        inverse_T[t] = inverse
        for d in range(width):
            out_TD[t, d] = hidden_TD[t, d] * inverse * weight_D[d]


@compiled
def rms_norm_backward(
    hidden_TD: Array,
    weight_D: Array,
    inverse_T: Array,
    gradient_TD: Array,
    by_hidden_TD: Array,
    by_weight_D: Array,
) -> None:
    """Fill the gradients; with y = x * inverse: dx = inverse * (dy - y * mean(dy * y))."""
    tokens, width = hidden_TD.shape
    by_weight_D[:] = _F(0)
    for t in range(tokens):
        inverse = inverse_T[t]
        product = _F(0)
        for d in range(width):
            product += gradient_TD[t, d] * weight_D[d] * hidden_TD[t, d]
        mean = product * inverse * inverse / _F(width)
        for d in range(width):
            by_weight_D[d] += gradient_TD[t, d] * hidden_TD[t, d] * inverse
            by_hidden_TD[t, d] = inverse * (
                gradient_TD[t, d] * weight_D[d] - hidden_TD[t, d] * mean
            )


@compiled
def _sigmoid(row: Array, bits: Array, out: Array) -> None:
    """1 / (1 + exp(-row)) of (F,) numbers; `bits` (F,) int32 is memory to work in."""
    powers = bits.view(np.float32)
    for i in range(row.size):
        exponent = -row[i] * _LOG2E
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
def swiglu(gate_up_T2F: Array, out_TF: Array) -> None:
    """Fill out with gate * sigmoid(gate) * up."""
    tokens, inner = out_TF.shape
    bits, sigmoid = np.empty(inner, np.int32), np.empty(inner, _F)
    for t in range(tokens):
        _sigmoid(gate_up_T2F[t, :inner], bits, sigmoid)
        for i in range(inner):
            out_TF[t, i] = gate_up_T2F[t, i] * sigmoid[i] * gate_up_T2F[t, inner + i]


@compiled
def swiglu_backward(gate_up_T2F: Array, gradient_TF: Array, by_gate_up_T2F: Array) -> None:
    """Fill the gradients of gates and of what they let through."""
    tokens, inner = gradient_TF.shape
    bits, sigmoid = np.empty(inner, np.int32), np.empty(inner, _F)
    for t in range(tokens):
        _sigmoid(gate_up_T2F[t, :inner], bits, sigmoid)
        for i in range(inner):
            gate, slope, by = gate_up_T2F[t, i], sigmoid[i], gradient_TF[t, i]
            by_gate_up_T2F[t, inner + i] = gate * slope * by
            by_gate_up_T2F[t, i] = (
                by * gate_up_T2F[t, inner + i] * slope * (_ONE + gate * (_ONE - slope))
            )
