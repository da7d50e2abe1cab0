"""The same training done the obvious way, to hold the project's against on the same machine.

What the method's authors' public code does, rebuilt from what is known of it: every (history,
candidate) pair is a row of its own, so a history is encoded once a candidate; rows are padded to
the longest that is allowed and everything is computed for padding too; each sequence gathers its
own negatives; tables are trained by AdamW with dense gradients and moments. PyTorch's own fused
attention, norm and AdamW, float32.

Legend: S rows, L padded length, D width, H heads, E head width, N negatives.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.synthetic import MAX_LENGTH, NUM_CATEGORIES, Case
from models.architecture import Architecture
from pipeline.batches import RankingBatch, SequenceBatch

__all__ = ["PlainTraining"]

_TEMPERATURE = 0.05


class PlainTraining:
    """A model, its optimizer and steps of them."""

    def __init__(self, case: Case, architecture: Architecture) -> None:
        torch.manual_seed(0)
        self._case = case
        self._model = _Model(case, architecture)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3, weight_decay=0.1)

    def step(self, batch: SequenceBatch | RankingBatch) -> None:
        """Forward, backward, clip, update."""
        if isinstance(batch, RankingBatch):
            loss = self._model.ranking_loss(batch)
        else:
            shape = (len(batch.weights), self._case.num_negatives)
            loss = self._model.pretraining_loss(batch, torch.randint(self._case.num_items, shape))
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


class _Block(nn.Module):
    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, inner = architecture.width, architecture.feedforward_width
        self.num_heads = architecture.num_heads
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-5) for _ in range(2))
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, rotary_LE: Tensor) -> Tensor:
        """(S, L, D) -> (S, L, D)."""
        parts = self.query_key_value(self.norms[0](x)).chunk(3, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts
        )
        query, key = (_turned(part, rotary_LE) for part in (query, key))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class _Model(nn.Module):
    def __init__(self, case: Case, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.items = nn.Embedding(case.num_items, width)
        self.categories = nn.Embedding(NUM_CATEGORIES, width)
        self.segments = nn.Embedding(2, width)
        self.blocks = nn.ModuleList(_Block(architecture) for _ in range(architecture.num_layers))
        self.final_norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 1))
        pair = torch.arange(0, architecture.head_width, 2) / architecture.head_width
        angles = torch.arange(MAX_LENGTH + 1)[:, None] * 10_000.0**-pair
        self.rotary_LE = torch.polar(torch.ones_like(angles), angles)

    def hidden(self, items: Tensor, categories: Tensor, segments: Tensor) -> Tensor:
        """(S, L) ids -> (S, L, D)."""
        x = self.items(items) + self.categories(categories) + self.segments(segments)
        for block in self.blocks:
            x = block(x, self.rotary_LE[: x.shape[1]])
        return self.final_norm(x)

    def ranking_loss(self, batch: RankingBatch) -> Tensor:
        """Mean binary cross-entropy of every pair in a row of its own."""
        request = torch.arange(len(batch.row_ids)).repeat_interleave(batch.candidate_offsets.diff())
        lengths = batch.history_offsets.diff()[request]
        row = torch.arange(len(request))
        ids = {}
        for name in ("item_id", "category_id"):
            ids[name] = _padded(batch.history[name], batch.history_offsets, MAX_LENGTH + 1)[request]
            ids[name][row, lengths] = batch.candidates[name]
        segments = torch.zeros_like(ids["item_id"])
        segments[row, lengths] = 1
        hidden = self.hidden(ids["item_id"], ids["category_id"], segments)
        logits = self.head(hidden[row, lengths]).squeeze(-1)
        return functional.binary_cross_entropy_with_logits(logits, batch.labels)

    def pretraining_loss(self, batch: SequenceBatch, negatives_SN: Tensor) -> Tensor:
        """Next item by sampled softmax of cosines, next category by full softmax."""
        items = _padded(batch.tokens["item_id"], batch.offsets, MAX_LENGTH)
        categories = _padded(batch.tokens["category_id"], batch.offsets, MAX_LENGTH)
        hidden = self.hidden(items, categories, torch.zeros_like(items))[:, :-1]
        hidden = functional.normalize(hidden, dim=-1)
        counts = items[:, 1:] > 0
        target = functional.normalize(self.items(items[:, 1:]), dim=-1)
        negatives = functional.normalize(self.items(negatives_SN), dim=-1)
        against = hidden @ negatives.transpose(1, 2)
        own = negatives_SN[:, None, :] == items[:, 1:, None]
        scores = torch.cat(
            [(hidden * target).sum(-1, keepdim=True), against.masked_fill(own, -1e4)], -1
        )
        zeros = torch.zeros_like(items[:, 1:])
        item_loss = _cross_entropy(scores, zeros, counts)
        table = functional.normalize(self.categories.weight, dim=-1)
        return item_loss + _cross_entropy(hidden @ table.T, categories[:, 1:], counts)


def _cross_entropy(scores: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Mean over what counts; computed for all."""
    losses = functional.cross_entropy(
        scores.flatten(0, 1) / _TEMPERATURE, target.flatten(), reduction="none"
    )
    return (losses * counts.flatten()).sum() / counts.sum()


def _padded(values: Tensor, offsets: Tensor, length: int) -> Tensor:
    """(T,) in rows -> (S, `length`), 0 behind the end of each."""
    padded = torch.zeros(len(offsets) - 1, length, dtype=values.dtype)
    row = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff())
    padded[row, torch.arange(len(values)) - offsets[row]] = values
    return padded


def _turned(vectors: Tensor, rotary_LE: Tensor) -> Tensor:
    """Adjacent pairs of (S, H, L, E) turned by position."""
    pairs = torch.view_as_complex(vectors.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotary_LE).flatten(-2)
