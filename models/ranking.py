"""Discriminative ranking: score each candidate of a request after its history (paper, 4.2).

Legend: R requests, C candidates, T history tokens, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architecture import Architecture
from models.inputs import CANDIDATE, HISTORY, TokenVectors, as_tables
from models.losses import LossSums
from models.rows import Rows
from models.transformer import Transformer, init_linear
from pipeline.batches import RankingBatch

__all__ = ["RankingHead", "RankingModel"]


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
        inputs = [self.transformer(self.tokens(vectors, segments), rows)]
        num_candidates = batch.candidate_offsets.diff()
        for name in self.context_features:
            request = vectors[name].inverse.repeat_interleave(num_candidates)
            inputs.append(vectors[name].distinct.index_select(0, request))
        return self.head(torch.cat(inputs, dim=-1)).float()
