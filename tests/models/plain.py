"""Stand-ins for the tests of models: unsharded tables, and batches of random rows."""

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from pipeline.batches import RankingBatch, SequenceBatch


class PlainTables(nn.Module):
    """Tables as nn.Embedding: the same answers as the sharded ones, without TorchRec."""

    def __init__(self, table_rows: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleDict(
            {name: nn.Embedding(n, width) for name, n in table_rows.items()}
        )

    def lookup(self, ids: Mapping[str, Tensor]) -> dict[str, SimpleNamespace]:
        answers = {}
        for name, asked in ids.items():
            distinct, inverse = torch.unique(asked, return_inverse=True)
            answers[name] = SimpleNamespace(distinct=self.tables[name](distinct), inverse=inverse)
        return answers


def offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def turned(packed: Tensor, positions: Tensor) -> Tensor:
    """Each adjacent pair (a, b) of queries and keys turned by its position's angle, one by one."""
    width = packed.shape[-1]
    columns = []
    for pair in range(width // 2):
        angle = positions[:, None, None] * 10_000.0 ** (-2 * pair / width)
        a, b = packed[:, :2, :, 2 * pair], packed[:, :2, :, 2 * pair + 1]
        columns += [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.cat([torch.stack(columns, -1), packed[:, 2:]], dim=1)


def random_rows(table_rows: Mapping[str, int], count: int) -> dict[str, Tensor]:
    return {name: torch.randint(1, num_rows, (count,)) for name, num_rows in table_rows.items()}


def sequence_batch(table_rows: Mapping[str, int], lengths: list[int]) -> SequenceBatch:
    return SequenceBatch(
        tokens=random_rows(table_rows, sum(lengths)),
        offsets=offsets(lengths),
        row_ids=torch.arange(len(lengths)),
        weights=torch.ones(len(lengths)),
    )


def ranking_batch(
    table_rows: Mapping[str, int], lengths: list[int], candidates: list[int]
) -> RankingBatch:
    return RankingBatch(
        history=random_rows(table_rows, sum(lengths)),
        history_offsets=offsets(lengths),
        candidates=random_rows(table_rows, sum(candidates)),
        candidate_offsets=offsets(candidates),
        context={},
        labels=torch.randint(0, 2, (sum(candidates),)).float(),
        weights=torch.ones(sum(candidates)),
        row_ids=torch.arange(len(lengths)),
    )
