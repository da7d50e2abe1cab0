"""Discriminative ranking: score each candidate of a request after its history (paper, 4.2).

Legend: R requests, C candidates, T history tokens, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architecture import Architecture
from models.inputs import CANDIDATE, HISTORY, TokenVectors, Vectors, as_tables
from models.losses import LossSums
from models.rows import Rows
from models.transformer import Transformer, init_linear
from pipeline.batches import RankingBatch

__all__ = ["RankingHead", "RankingModel", "ReadHistories"]


class RankingHead(nn.Module):
    """Linear(inputs -> 4d), ReLU, Linear(4d -> 1)."""

    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_inputs, 4 * width)
        self.output = nn.Linear(4 * width, 1)
        self.apply(init_linear)

    def forward(self, inputs: Tensor) -> Tensor:
        """(C, inputs) -> (C,) logits."""
        return self.output(functional.relu(self.hidden(inputs))).squeeze(-1)


@dataclass(frozen=True, slots=True)
class ReadHistories:
    """All that scoring needs of histories: what candidates look at in each block."""

    keys_and_values: tuple[Tensor, ...]
    """(T, 2, heads, head width) a block"""
    offsets: Tensor
    """(R+1,) int64"""


class RankingModel(nn.Module):
    """Requests in, one logit a candidate and the summed binary cross-entropy out.

    All candidates of a request cost one pass over its history: a candidate attends to the history
    and itself, at the position after the history's last event.
    """

    def __init__(
        self,
        tables: nn.Module,
        item_features: Sequence[str],
        context_features: Sequence[str],
        architecture: Architecture,
        *,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.tables = tables
        self.context_features = tuple(context_features)
        self.bidirectional = bidirectional
        self.tokens = TokenVectors(item_features, architecture.width)
        self.transformer = Transformer(architecture)
        num_inputs = architecture.width * (1 + len(self.context_features))
        self.head = RankingHead(num_inputs, architecture.width)

    def forward(self, batch: RankingBatch) -> LossSums:
        """Binary cross-entropy over the candidates that count, and all candidates' logits."""
        logits_C = self.score(batch)
        losses_C = functional.binary_cross_entropy_with_logits(
            logits_C, batch.labels, weight=batch.weights, reduction="sum"
        )
        return LossSums(
            names=("binary_cross_entropy",),
            sums=losses_C.unsqueeze(0),
            counts=batch.weights.sum().unsqueeze(0),
            logits=logits_C.detach(),
        )

    def read(self, history: Mapping[str, Tensor], offsets: Tensor) -> ReadHistories:
        """Read histories once, for candidates that come later.

        `history` has (T,) int64 rows an item feature, `offsets` (R+1,) say whose.
        """
        features = {name: history[name] for name in self.tokens.features}
        segments = torch.full_like(next(iter(features.values())), HISTORY)
        tokens = self.tokens(as_tables(self.tables).lookup(features), segments)
        rows = Rows.build(offsets, bidirectional=self.bidirectional)
        return ReadHistories(tuple(self.transformer.read(tokens, rows)), offsets)

    def score_after(
        self,
        histories: ReadHistories,
        candidates: Mapping[str, Tensor],
        candidate_offsets: Tensor,
        context: Mapping[str, Tensor],
    ) -> Tensor:
        """The logits (C,) that `score` gives the same requests, at the cost of candidates alone.

        `candidates` has (C,) int64 rows an item feature, `candidate_offsets` (R+1,) say after which
        history; `context` (R,) a context feature.
        """
        features = {name: candidates[name] for name in self.tokens.features}
        segments = torch.full_like(next(iter(features.values())), CANDIDATE)
        vectors = as_tables(self.tables).lookup({**features, **context})
        rows = Rows.build(histories.offsets, candidate_offsets, bidirectional=self.bidirectional)
        tokens = self.tokens(vectors, segments)
        hidden_CD = self.transformer.after(tokens, histories.keys_and_values, rows)
        return self._logits(hidden_CD, vectors, candidate_offsets)

    def score(self, batch: RankingBatch) -> Tensor:
        """Logits (C,), float32."""
        asked = {
            name: torch.cat([batch.history[name], batch.candidates[name]])
            for name in self.tokens.features
        }
        vectors = as_tables(self.tables).lookup({**asked, **batch.context})
        rows = Rows.build(
            batch.history_offsets, batch.candidate_offsets, bidirectional=self.bidirectional
        )
        num_history_tokens = int(batch.history_offsets[-1])
        segments = torch.full_like(next(iter(asked.values())), CANDIDATE)
        segments[:num_history_tokens] = HISTORY
        hidden_CD = self.transformer(self.tokens(vectors, segments), rows)
        return self._logits(hidden_CD, vectors, batch.candidate_offsets)

    def _logits(
        self, hidden_CD: Tensor, vectors: Mapping[str, Vectors], candidate_offsets: Tensor
    ) -> Tensor:
        inputs = [hidden_CD]
        num_candidates = candidate_offsets.diff()
        for name in self.context_features:
            request = vectors[name].inverse.repeat_interleave(num_candidates)
            inputs.append(vectors[name].distinct.index_select(0, request))
        return self.head(torch.cat(inputs, dim=-1)).float()
