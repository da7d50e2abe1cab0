"""Generative pretraining: predict each next event's item and categories (paper, section 4.1).

Legend: S sequences, T tokens, M labelled positions (tokens whose next one is predicted), D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.architecture import Architecture
from models.inputs import HISTORY, TokenVectors, Vectors, as_tables
from models.losses import LossSums
from models.negatives import UniformNegatives
from models.rows import Rows
from models.softmax import MIN_TEMPERATURE, SoftmaxTargets, softmax_loss
from models.transformer import Transformer
from pipeline.batches import SequenceBatch
from pipeline.schema import UNKNOWN_ROW
from pipeline.settings import Settings

__all__ = ["GenerativeModel", "SoftmaxSettings"]


class SoftmaxSettings(Settings):
    """How next events are predicted: `[pretraining.softmax]`."""

    # Cosine over this; 0.05 in the authors' code.
    temperature: float = Field(default=0.05, ge=MIN_TEMPERATURE)
    # Values drawn uniformly for each table that is sampled.
    num_negatives: int = Field(default=4096, ge=1)
    # Who shares negatives: the positions of a sequence (paper), or those of the whole batch.
    share_negatives: Literal["sequence", "batch"] = "batch"
    # Tables with at most this many rows are scored in full instead of sampled.
    full_softmax_rows: int = Field(default=4096, ge=0)


class GenerativeModel(nn.Module):
    """Sequences in, one summed loss a feature out."""

    def __init__(
        self,
        tables: nn.Module,
        table_rows: Mapping[str, int],
        architecture: Architecture,
        softmax: SoftmaxSettings,
        seed: int,
    ) -> None:
        """`table_rows`: rows in use of each item feature's table, the predicted ones in order."""
        super().__init__()
        self.tables = tables
        self.softmax = softmax
        self.tokens = TokenVectors(list(table_rows), architecture.width)
        self.transformer = Transformer(architecture)
        self.table_rows = dict(table_rows)
        self.negatives = {
            name: UniformNegatives(
                num_rows=num_rows,
                num_negatives=softmax.num_negatives,
                share=softmax.share_negatives,
                seed=seed,
            )
            for name, num_rows in table_rows.items()
            if num_rows > softmax.full_softmax_rows
        }

    def forward(self, batch: SequenceBatch, step: int) -> LossSums:
        """Losses of predicting tokens 2..n of each sequence, or its new ones, from those before.

        `step` seeds the negatives.
        """
        negatives = {name: self._negatives(name, batch, step) for name in self.table_rows}
        asked = {
            name: torch.cat([batch.tokens[name], negatives[name].flatten()])
            for name in self.table_rows
        }
        vectors = as_tables(self.tables).lookup(asked)
        rows = Rows.build(batch.offsets)
        segments = torch.full_like(next(iter(batch.tokens.values())), HISTORY)
        hidden_TD = self.transformer(self.tokens(vectors, segments), rows)

        labelled = _Labelled.of(batch)
        hidden_MD = hidden_TD.index_select(0, labelled.positions)
        losses = [
            self._loss(name, hidden_MD, vectors[name], labelled, batch, negatives[name].shape)
            for name in self.table_rows
        ]
        return LossSums(
            names=tuple(self.table_rows),
            sums=torch.stack([total for total, _ in losses]),
            counts=torch.stack([count for _, count in losses]),
        )

    def _negatives(self, name: str, batch: SequenceBatch, step: int) -> Tensor:
        """(G, N) rows: drawn ones, or every row of a small table."""
        if name in self.negatives:
            return self.negatives[name].draw(step, batch.row_ids)
        return torch.arange(self.table_rows[name], device=batch.offsets.device).unsqueeze(0)

    def _loss(
        self,
        name: str,
        hidden_MD: Tensor,
        vectors: Vectors,
        labelled: "_Labelled",
        batch: SequenceBatch,
        negatives_shape: torch.Size,
    ) -> tuple[Tensor, Tensor]:
        num_tokens = int(batch.offsets[-1])
        target = labelled.positions + 1
        known = batch.tokens[name].index_select(0, target) != UNKNOWN_ROW
        weight = labelled.weight * known
        num_groups = negatives_shape[0]
        targets = SoftmaxTargets(
            target=vectors.inverse.index_select(0, target),
            weight=weight,
            negatives=vectors.inverse[num_tokens:].view(negatives_shape),
            group_offsets=labelled.group_offsets if num_groups > 1 else (0, target.numel()),
        )
        loss = softmax_loss(hidden_MD, vectors.distinct, targets, self.softmax.temperature)
        return loss, weight.sum()


class _Labelled:
    """The positions whose next event is to be predicted, sequence after sequence."""

    def __init__(self, positions: Tensor, weight: Tensor, group_offsets: tuple[int, ...]) -> None:
        self.positions = positions
        """(M,) int64 into the T tokens; the target of position p is token p + 1"""
        self.weight = weight
        """(M,) the sequence's weight"""
        self.group_offsets = group_offsets
        """S + 1 numbers: positions of sequence s"""

    @staticmethod
    def of(batch: SequenceBatch) -> "_Labelled":
        lengths = batch.offsets.diff()
        num_labelled = (lengths - 1).clamp(min=0)
        if batch.num_new is not None:
            num_labelled = num_labelled.minimum(batch.num_new)
        # Of each sequence the last positions but one, the target of the last being the last token.
        first = batch.offsets[1:] - 1 - num_labelled
        starts = num_labelled.cumsum(0) - num_labelled
        index = torch.arange(int(num_labelled.sum()), device=lengths.device)
        return _Labelled(
            index + (first - starts).repeat_interleave(num_labelled),
            batch.weights.repeat_interleave(num_labelled),
            (0, *num_labelled.cumsum(0).tolist()),
        )
