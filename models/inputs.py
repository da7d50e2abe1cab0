"""What the tables must offer the models, and how tokens are made of their features' vectors."""

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from torch import Tensor, nn

__all__ = ["CANDIDATE", "HISTORY", "Tables", "TokenVectors", "Vectors", "as_tables"]

HISTORY, CANDIDATE = 0, 1


class Vectors(Protocol):
    """The answer of one table: each distinct id's vector once, and where each asked id is."""

    distinct: Tensor
    """(U, D)"""
    inverse: Tensor
    """(M,) int64: the asked ids' indices among the distinct ones"""


class Tables(Protocol):
    """Embedding tables by name; `embeddings.tables.EmbeddingTables` is one."""

    def lookup(self, ids: Mapping[str, Tensor]) -> Mapping[str, Vectors]:
        """(M,) int64 rows a table -> vectors a table."""
        ...


def as_tables(module: nn.Module) -> Tables:
    """The module that a model was given as its tables; nn.Module hides what else it is."""
    return cast(Tables, module)


class TokenVectors(nn.Module):
    """A token's vector: the sum of its features' vectors and of its segment's (paper, 4.1)."""

    def __init__(self, features: Sequence[str], width: int) -> None:
        super().__init__()
        self.features = tuple(features)
        self.segment = nn.Embedding(2, width)
        nn.init.normal_(self.segment.weight, std=0.02)

    def forward(self, vectors: Mapping[str, Vectors], segments: Tensor) -> Tensor:
        """Segments (T,) of the first T ids asked of each feature's table -> (T, D)."""
        hidden = self.segment(segments)
        for feature in self.features:
            answer = vectors[feature]
            inverse = answer.inverse[: segments.numel()]
            hidden = hidden + answer.distinct.index_select(0, inverse)
        return hidden
