"""Jagged batches, never padded: values and offsets straight from Arrow's lists.

Legend: S sequences, R requests, T tokens (history events) in the batch, C candidates.
Every id is a row of the embedding table that has the feature's name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from pipeline.schema import UNKNOWN_ROW

__all__ = ["RankingBatch", "SequenceBatch"]


class _Movable:
    """Moves every tensor of a batch; what TorchRec's pipelines ask of one (`Pipelineable`)."""

    __slots__ = ()

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:  # noqa: FBT001, FBT002, as torch's
        """The batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the batch's memory until `stream` has used it."""
        self._map(lambda tensor: _record(tensor, stream))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {}
        for field in fields(cast(Any, self)):
            value = getattr(self, field.name)
            if value is None or isinstance(value, Tensor):
                changed[field.name] = None if value is None else change(value)
            else:
                changed[field.name] = {name: change(tensor) for name, tensor in value.items()}
        return type(self)(**changed)


def _record(tensor: Tensor, stream: torch.Stream) -> Tensor:
    tensor.record_stream(stream)
    return tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBatch(_Movable):
    """Sequences for generative pretraining."""

    tokens: dict[str, Tensor]
    """item feature -> (T,) int64 rows, sequence after sequence, oldest event first"""
    offsets: Tensor
    """(S+1,) int64: sequence s has tokens offsets[s] to offsets[s+1]"""
    row_ids: Tensor
    """(S,) int64: the row's number in the data set, the same on any world size"""
    weights: Tensor
    """(S,) float32: 1 for a row to learn from, 0 for a filler on a rank that ran out of rows"""
    num_new: Tensor | None = None
    """(S,) int64: how many of a sequence's last tokens are to be predicted; None: all"""

    @property
    def num_samples(self) -> int:
        """Sequences that count."""
        return int(self.weights.count_nonzero())


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingBatch(_Movable):
    """Requests for discriminative training: each history once, with all its candidates."""

    history: dict[str, Tensor]
    """item feature -> (T,) int64 rows, request after request, oldest event first"""
    history_offsets: Tensor
    """(R+1,) int64"""
    candidates: dict[str, Tensor]
    """item feature -> (C,) int64 rows, request after request"""
    candidate_offsets: Tensor
    """(R+1,) int64"""
    context: dict[str, Tensor]
    """context feature -> (R,) int64 rows"""
    labels: Tensor
    """(C,) float32, 0 or 1 (0 where weights is 0)"""
    weights: Tensor
    """(C,) float32: 0 where the task does not apply to the candidate, and for fillers"""
    row_ids: Tensor
    """(R,) int64: the row's number in the data set, the same on any world size"""

    def known_only(self, num_rows: Mapping[str, int]) -> Self:
        """The same requests to a model that knows a table's first `num_rows` rows only."""

        def known(tokens: dict[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: rows.where(rows < num_rows[name], UNKNOWN_ROW)
                for name, rows in tokens.items()
            }

        return replace(
            self,
            history=known(self.history),
            candidates=known(self.candidates),
            context=known(self.context),
        )

    @property
    def num_samples(self) -> int:
        """(history, candidate) pairs that count."""
        return int(self.weights.count_nonzero())
