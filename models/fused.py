"""Operations of a block whose gradients are written out, for fewer passes over memory.

A block of width 32 or 64 is bound by memory, not by arithmetic: what autograd would make of these
operations (a node a step, slices that are filled with zeros and added up) costs more than the
matrix products between them. Each has a test against the plain formula.

Legend: T packed tokens, D width, H heads, E head width, F feed-forward width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["rms_norm", "rotate_", "swiglu"]


def rms_norm(hidden_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """Weight * x / sqrt(mean(x^2) + epsilon) over the last dimension, float32 in and out."""
    return _RMSNorm.apply(hidden_TD, weight_D, epsilon)


def swiglu(gate_up_T2F: Tensor) -> Tensor:
    """(T, 2F), gates then what they let through -> silu(gate) * up: (T, F)."""
    return _SwiGLU.apply(gate_up_T2F)


def rotate_(vectors: Tensor, rotary_TE: Tensor, number: int) -> Tensor:
    """Turn the first `number` of n vectors a token and head in place: (T, n, H, E).

    `rotary_TE` (T, E/2) complex: e^(i angle) for each adjacent pair of numbers.
    """
    return _Rotate.apply(vectors, rotary_TE, number)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        norm = torch.linalg.vector_norm(hidden_TD, dim=-1, keepdim=True)
        inverse = norm.square_().div_(hidden_TD.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden_TD, weight_D, inverse)
        return (hidden_TD * inverse).mul_(weight_D)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        hidden_TD, weight_D, inverse = ctx.saved_tensors
        normalized = hidden_TD * inverse
        by_weight = gradient * normalized
        # With y = x * inverse: dx = inverse * (dy - y * mean(dy * y)).
        mean = (by_weight @ weight_D).div_(hidden_TD.shape[-1]).unsqueeze(-1)
        by_hidden = (gradient * weight_D).addcmul_(normalized, mean, value=-1).mul_(inverse)
        return by_hidden, by_weight.sum(0), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        by_gate_up = torch.empty_like(gate_up)
        by_gate, by_up = by_gate_up.chunk(2, dim=-1)
        torch.mul(functional.silu(gate), gradient, out=by_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=by_gate)
        return by_gate_up


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, rotary: Tensor, number: int) -> Tensor:
        ctx.mark_dirty(vectors)
        ctx.save_for_backward(rotary)
        ctx.number = number
        return _turn_(vectors, rotary, number)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None, None]:
        (rotary,) = ctx.saved_tensors
        return _turn_(gradient.clone(), rotary.conj(), ctx.number), None, None


def _turn_(vectors: Tensor, rotary: Tensor, number: int) -> Tensor:
    """Multiply the complex numbers that adjacent pairs are, in place."""
    turning = vectors[:, :number]
    pairs = turning.unflatten(-1, (-1, 2))
    if vectors.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(rotary[:, None, None, :])
    else:
        turned = torch.view_as_complex(pairs.float()) * rotary[:, None, None, :]
        turning.copy_(torch.view_as_real(turned).flatten(-2))
    return vectors
