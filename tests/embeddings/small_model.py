"""A model of three tables and one linear layer, and batches that any world size shares."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from embeddings.initialization import initialize
from embeddings.parameters import dense_parameters, table_parameters
from embeddings.settings import EmbeddingSettings, TableSpec
from embeddings.sharding import set_table_learning_rate, shard
from embeddings.shards import local_shards
from embeddings.tables import EmbeddingTables

CPU = torch.device("cpu")
META = torch.device("meta")
DIM = 8
BATCH = 48
RATES = (0.2, 0.1, 0.05)
# "type" is a name that torch modules use themselves.
ROWS = {"item_id": 70_000, "type": 40, "department": 7}
SPECS = tuple(
    TableSpec(name=name, num_rows=num_rows, dim=DIM, vocabulary_digest=f"{name}-words")
    for name, num_rows in ROWS.items()
)


class SmallModel(nn.Module):
    def __init__(self, tables: EmbeddingTables):
        super().__init__()
        self.tables = tables
        torch.manual_seed(5)
        self.linear = nn.Linear(DIM, 1)

    def forward(self, ids: dict[str, Tensor]) -> Tensor:
        vectors = self.tables.lookup(ids)
        token = sum(table.distinct[table.inverse] * 10 for table in vectors.values())
        return (self.linear(token) - 1).square().mean()


def sharded_model(
    settings: EmbeddingSettings, frozen: Sequence[str] = (), specs: Sequence[TableSpec] = SPECS
):
    model = shard(SmallModel(EmbeddingTables(specs, settings, frozen=frozen, device=META)), CPU)
    initialize(model, seed=1)
    return model


def plain_model(
    settings: EmbeddingSettings, frozen: Sequence[str] = (), specs: Sequence[TableSpec] = SPECS
):
    model = SmallModel(EmbeddingTables(specs, settings, frozen=frozen, device=CPU))
    initialize(model, seed=1)
    return model


def batches(num_steps: int) -> Iterator[dict[str, Tensor]]:
    """The same global batches on any world size; each rank takes its part of the rows."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    generator = torch.Generator().manual_seed(9)
    part = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    for _ in range(num_steps):
        yield {
            # Few distinct rows, so that ranks and steps meet in them.
            name: (torch.randint(0, min(num_rows, 60), (BATCH,), generator=generator) * step)[part]
            for (name, num_rows), step in zip(ROWS.items(), (1100, 1, 1), strict=True)
        }


def train(model, num_steps: int = 3) -> list[float]:
    """The losses, as means over the ranks; the linear layer learns by plain AdamW."""
    parameters = [*dense_parameters(model).values(), *table_parameters(model).values()]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    losses = []
    for rate, ids in zip(RATES, batches(num_steps), strict=False):
        set_table_learning_rate(model, rate)
        loss = model(ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(mean_over_ranks(loss.detach()))
    return losses


def mean_over_ranks(value: Tensor) -> float:
    if dist.is_initialized():
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return float(value)


def whole_tables(model) -> dict[str, list[list[float]]]:
    """Every table's rows that batches touch, assembled from all ranks."""
    mine = [
        (name, shard.rows, shard.columns, shard.tensor.float())
        for name, shards in local_shards(model).items()
        for shard in shards
    ]
    everyone = [mine]
    if dist.is_initialized():
        everyone = [[]] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
    tables = {name: torch.full((num_rows, DIM), torch.nan) for name, num_rows in ROWS.items()}
    for name, rows, columns, values in (part for rank in everyone for part in rank):
        tables[name][slice(*rows), slice(*columns)] = values
    return {
        name: table[:: 1100 if name == "item_id" else 1].tolist() for name, table in tables.items()
    }
