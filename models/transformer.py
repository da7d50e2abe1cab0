"""The causal Transformer of the paper, on packed tokens (paper, section 4.1).

LLaMA-style: pre-norm RMSNorm in float32, rotary positions, SwiGLU, no biases, no dropout, final
RMSNorm; feed-forward width 3d, so that a stack holds L(13d^2 + 2d) parameters and the final norm.

Legend: T packed tokens, C candidates among them, D width, H heads, E head width, F feed-forward
width.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architecture import Architecture
from models.attention import attend, attend_from_candidates
from models.fused import add_norm, rms_norm, swiglu
from models.rows import Rows

__all__ = ["Transformer", "rotary_table"]

ROTARY_BASE = 10_000.0
NORM_EPSILON = 1e-5
INIT_STD = 0.02


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, computed in float32.

    What a branch gave is added to the residual in the same pass, as both are bound by memory.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(
        self, hidden_TD: Tensor, branch_TD: Tensor | None, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """The sum of both, (T, D) float32, and the norm of that, (T, D) of `dtype`."""
        with torch.autocast(hidden_TD.device.type, enabled=False):
            if branch_TD is None:
                return hidden_TD, rms_norm(hidden_TD, self.weight, NORM_EPSILON, dtype)
            return add_norm(hidden_TD, branch_TD, self.weight, NORM_EPSILON, dtype)


def _product_dtype(device: torch.device) -> torch.dtype:
    """What linear layers take their inputs as; norms before them give it in the same pass."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


class Attention(nn.Module):
    """Multi-head attention within rows."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.num_heads = architecture.num_heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(
        self, hidden_TD: Tensor, rows: Rows, rotary: Tensor, kept: list[Tensor] | None = None
    ) -> Tensor:
        """(T, D) -> (T, D); `rotary` is `rotary_table` of the rows' positions.

        `kept` gets the tokens' keys and values, (T, 2, H, E), not turned by positions yet.
        """
        tokens, width = hidden_TD.shape
        query_key_value = self.query_key_value(hidden_TD)
        query_key_value = query_key_value.view(tokens, 3, self.num_heads, width // self.num_heads)
        if kept is not None:  # attention may turn them in place
            kept.append(query_key_value[:, 1:].clone())
        mixed = attend(query_key_value, rows, rotary)
        return self.output(mixed.reshape(tokens, width))

    def of_candidates(self, hidden_TD: Tensor, rows: Rows, rotary: Tensor) -> Tensor:
        """(T, D) -> (C, D): what `forward` gives for the candidates, without the rest."""
        tokens, width = hidden_TD.shape
        heads = self.num_heads, width // self.num_heads
        query_weight, key_value_weight = self.query_key_value.weight.split((width, 2 * width))
        in_candidates = slice(rows.num_history_tokens, None)
        query = functional.linear(hidden_TD[in_candidates], query_weight)
        key_value = functional.linear(hidden_TD, key_value_weight)
        mixed = attend_from_candidates(
            query.view(-1, *heads), key_value.view(tokens, 2, *heads), rows, rotary
        )
        return self.output(mixed.reshape(-1, width))

    def keys_and_values(self, hidden_TD: Tensor) -> Tensor:
        """(T, D) -> (T, 2, H, E): what `forward` keeps, without the rest."""
        tokens, width = hidden_TD.shape
        weight = self.query_key_value.weight[width:]
        key_value = functional.linear(hidden_TD, weight)
        return key_value.view(tokens, 2, self.num_heads, width // self.num_heads)

    def after(self, hidden_CD: Tensor, key_value: Tensor, rows: Rows, rotary: Tensor) -> Tensor:
        """(C, D) -> (C, D): what `of_candidates` gives, from the histories' keys and values."""
        candidates, width = hidden_CD.shape
        own = self.query_key_value(hidden_CD)
        own = own.view(candidates, 3, self.num_heads, width // self.num_heads)
        all_keys = torch.cat([key_value.to(own.dtype), own[:, 1:]])
        mixed = attend_from_candidates(own[:, 0], all_keys, rows, rotary)
        return self.output(mixed.reshape(candidates, width))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)); gate and up are one matrix."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, inner = architecture.width, architecture.feedforward_width
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.down(swiglu(self.gate_up(hidden_TD)))


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a residual.

    What comes in and goes out is a pair: the residual, float32, and what is still to be added to
    it, which the next norm does.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(architecture.width)
        self.attention = Attention(architecture)
        self.feedforward_norm = RMSNorm(architecture.width)
        self.feedforward = FeedForward(architecture)

    def forward(
        self,
        hidden_TD: Tensor,
        branch_TD: Tensor | None,
        rows: Rows,
        rotary: Tensor,
        kept: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(T, D) twice -> (T, D) twice; `kept` as attention has it."""
        dtype = _product_dtype(hidden_TD.device)
        hidden_TD, normed_TD = self.attention_norm(hidden_TD, branch_TD, dtype)
        mixed_TD = self.attention(normed_TD, rows, rotary, kept)
        hidden_TD, normed_TD = self.feedforward_norm(hidden_TD, mixed_TD, dtype)
        return hidden_TD, self.feedforward(normed_TD)

    def of_candidates(
        self, hidden_TD: Tensor, branch_TD: Tensor | None, rows: Rows, rotary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(T, D) twice -> (C, D) twice: the candidates' part of `forward`."""
        dtype = _product_dtype(hidden_TD.device)
        hidden_TD, normed_TD = self.attention_norm(hidden_TD, branch_TD, dtype)
        mixed_CD = self.attention.of_candidates(normed_TD, rows, rotary)
        hidden_CD = hidden_TD[rows.num_history_tokens :]
        hidden_CD, normed_CD = self.feedforward_norm(hidden_CD, mixed_CD, dtype)
        return hidden_CD, self.feedforward(normed_CD)

    def keys_and_values(self, hidden_TD: Tensor, branch_TD: Tensor | None) -> Tensor:
        """(T, D) twice -> (T, 2, H, E): what `forward` keeps, without the rest."""
        dtype = _product_dtype(hidden_TD.device)
        _, normed_TD = self.attention_norm(hidden_TD, branch_TD, dtype)
        return self.attention.keys_and_values(normed_TD)

    def after(
        self,
        hidden_CD: Tensor,
        branch_CD: Tensor | None,
        key_value: Tensor,
        rows: Rows,
        rotary: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(C, D) twice -> (C, D) twice: `of_candidates`, from the histories' keys and values."""
        dtype = _product_dtype(hidden_CD.device)
        hidden_CD, normed_CD = self.attention_norm(hidden_CD, branch_CD, dtype)
        mixed_CD = self.attention.after(normed_CD, key_value, rows, rotary)
        hidden_CD, normed_CD = self.feedforward_norm(hidden_CD, mixed_CD, dtype)
        return hidden_CD, self.feedforward(normed_CD)


class Transformer(nn.Module):
    """The stack of blocks and the final norm."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.blocks = nn.ModuleList(Block(architecture) for _ in range(architecture.num_layers))
        self.final_norm = RMSNorm(architecture.width)
        self.apply(init_linear)

    def forward(self, hidden_TD: Tensor, rows: Rows) -> Tensor:
        """Token vectors (T, D) in `rows` -> final hidden states, float32.

        Of all tokens (T, D) where rows are histories alone. Of the candidates (C, D) where there
        are any: nobody reads the histories' final states, so the last block leaves them out.
        """
        rotary = rotary_table(rows.positions, self.architecture.head_width)
        *blocks, last = cast(Sequence[Block], self.blocks)
        hidden_TD, branch_TD = hidden_TD.float(), None
        for block in blocks:
            hidden_TD, branch_TD = block(hidden_TD, branch_TD, rows, rotary)
        final = last.of_candidates if rows.with_candidates else last
        _, normed = self.final_norm(*final(hidden_TD, branch_TD, rows, rotary))
        return normed

    def read(self, hidden_TD: Tensor, rows: Rows) -> list[Tensor]:
        """Histories' token vectors (T, D) -> each block's keys and values of them, (T, 2, H, E)."""
        rotary = rotary_table(rows.positions, self.architecture.head_width)
        *blocks, last = cast(Sequence[Block], self.blocks)
        hidden_TD, branch_TD = hidden_TD.float(), None
        kept: list[Tensor] = []
        for block in blocks:
            hidden_TD, branch_TD = block(hidden_TD, branch_TD, rows, rotary, kept)
        return [*kept, last.keys_and_values(hidden_TD, branch_TD)]

    def after(self, hidden_CD: Tensor, kept: Sequence[Tensor], rows: Rows) -> Tensor:
        """Candidates' token vectors (C, D) after histories that were `read` -> as `forward`."""
        rotary = rotary_table(rows.positions, self.architecture.head_width)
        hidden_CD, branch_CD = hidden_CD.float(), None
        for block, key_value in zip(cast(Sequence[Block], self.blocks), kept, strict=True):
            hidden_CD, branch_CD = block.after(hidden_CD, branch_CD, key_value, rows, rotary)
        _, normed_CD = self.final_norm(hidden_CD, branch_CD)
        return normed_CD


def init_linear(module: nn.Module) -> None:
    """N(0, 0.02) for the matrices of linear layers, zero for their biases."""
    if isinstance(module, nn.Linear):
        for name, parameter in module.named_parameters():
            if name == "weight":
                nn.init.normal_(parameter, std=INIT_STD)
            else:
                nn.init.zeros_(parameter)


def rotary_table(positions: Tensor, head_width: int) -> Tensor:
    """e^(i angle) of the rotary angles (RoFormer, equation 34) of positions (P,): (P, E/2)."""
    pair = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None].float() * ROTARY_BASE ** (-pair / head_width)
    return torch.polar(torch.ones_like(angles), angles)
