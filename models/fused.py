"""Operations of a block whose gradients are written out, for fewer passes over memory.

A block of width 32 or 64 is bound by memory, not by arithmetic: what autograd would make of these
operations (a node a step, slices that are filled with zeros and added up) costs more than the
matrix products between them. On a CPU `models.fused_cpu` does norm and gate in one pass. Each has
a test against the plain formula.

Legend: T packed tokens, D width, H heads, E head width, F feed-forward width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import fused_cpu
from models.compiled import Array, arrays_of, in_threads
from models.registers import COLUMNS

__all__ = ["add_norm", "rms_norm", "rotate_", "swiglu"]


def rms_norm(
    hidden_TD: Tensor, weight_D: Tensor, epsilon: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Weight * x / sqrt(mean(x^2) + epsilon) over the last dimension of float32, as `dtype`."""
    if _is_compiled_for(hidden_TD, dtype):
        return _RMSNormCPU.apply(hidden_TD, weight_D, epsilon, dtype)
    return _RMSNorm.apply(hidden_TD, weight_D, epsilon).to(dtype)


def add_norm(
    hidden_TD: Tensor,
    branch_TD: Tensor,
    weight_D: Tensor,
    epsilon: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The sum of hidden and branch, float32, and its `rms_norm` as `dtype`; hidden is float32."""
    if _is_compiled_for(branch_TD, dtype):
        return _AddNormCPU.apply(hidden_TD, branch_TD, weight_D, epsilon, dtype)
    sum_TD = hidden_TD + branch_TD
    return sum_TD, rms_norm(sum_TD, weight_D, epsilon, dtype)


def swiglu(gate_up_T2F: Tensor) -> Tensor:
    """(T, 2F), gates then what they let through -> silu(gate) * up: (T, F)."""
    if _is_compiled_for(gate_up_T2F, gate_up_T2F.dtype, of_rows=2):
        return _SwiGLUCPU.apply(gate_up_T2F)
    return _SwiGLU.apply(gate_up_T2F)


def rotate_(vectors: Tensor, rotary_TE: Tensor, number: int) -> Tensor:
    """Turn the first `number` of n vectors a token and head in place: (T, n, H, E).

    `rotary_TE` (T, E/2) complex: e^(i angle) for each adjacent pair of numbers.
    """
    return _Rotate.apply(vectors, rotary_TE, number)


def _is_compiled_for(tensor: Tensor, dtype: torch.dtype, of_rows: int = 1) -> bool:
    """Whether there is code for the device and both types, and rows are whole registers."""
    return (
        tensor.device.type == "cpu"
        and {tensor.dtype, dtype} <= {torch.float32, torch.bfloat16}
        and tensor.shape[-1] % (of_rows * COLUMNS) == 0
    )


class _RMSNormCPU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_D: Tensor, epsilon: float, dtype: torch.dtype
    ) -> Tensor:
        hidden_TD = hidden_TD.contiguous()
        out = torch.empty_like(hidden_TD, dtype=dtype)
        inverse = hidden_TD.new_empty(len(hidden_TD))
        weight = weight_D.contiguous().unsqueeze(0)
        fused_cpu.rms_norm(np.float32(epsilon), *arrays_of(hidden_TD, weight, out, inverse))
        ctx.save_for_backward(hidden_TD, weight, inverse)
        return out

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        hidden_TD, weight, inverse = ctx.saved_tensors
        by_hidden, by_weight = torch.empty_like(hidden_TD), torch.empty_like(weight)
        given = arrays_of(hidden_TD, weight, inverse, gradient.contiguous())
        fused_cpu.rms_norm_backward(*given, *arrays_of(by_hidden, by_weight))
        return by_hidden, by_weight[0], None, None


class _AddNormCPU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        branch_TD: Tensor,
        weight_D: Tensor,
        epsilon: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        hidden_TD, branch_TD = hidden_TD.contiguous(), branch_TD.contiguous()
        total, out = torch.empty_like(hidden_TD), torch.empty_like(hidden_TD, dtype=dtype)
        inverse, weight = hidden_TD.new_empty(len(hidden_TD)), weight_D.contiguous().unsqueeze(0)
        given = arrays_of(hidden_TD, branch_TD, weight, total, out, inverse)
        fused_cpu.add_norm(np.float32(epsilon), *given)
        ctx.save_for_backward(total, weight, inverse)
        ctx.branch_dtype = branch_TD.dtype
        return total, out

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_sum: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        total, weight, inverse = ctx.saved_tensors
        given = arrays_of(total, weight, inverse, by_sum.contiguous(), gradient.contiguous())
        by_hidden, by_weight = torch.empty_like(total), torch.empty_like(weight)
        # The gradient is the same number, so where it is of the same type it is the same memory.
        same = ctx.branch_dtype == total.dtype
        by_branch = by_hidden if same else torch.empty_like(total, dtype=ctx.branch_dtype)
        fused_cpu.add_norm_backward(*given, *arrays_of(by_hidden, by_branch, by_weight))
        return by_hidden, by_branch, by_weight[0], None, None


class _SwiGLUCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        out = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
        in_threads(fused_cpu.swiglu, _shares(gate_up, out))
        return out

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        by_gate_up = torch.empty_like(gate_up)
        shares = _shares(gate_up, gradient.contiguous(), by_gate_up)
        in_threads(fused_cpu.swiglu_backward, shares)
        return by_gate_up


def _shares(*tensors: Tensor) -> list[list[Array]]:
    """Runs of tokens, one for each of PyTorch's threads."""
    chunks = zip(*(tensor.chunk(torch.get_num_threads()) for tensor in tensors), strict=True)
    return [arrays_of(*share) for share in chunks]


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
