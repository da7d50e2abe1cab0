"""Which part of every table lies in this process's memory, whatever the sharding.

Initialisation, digests, export and transfer all see the tables through `local_shards` alone.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torchrec.distributed.types import ShardedTensor

from embeddings.tables import table_name, tables_of

__all__ = ["Shard", "local_shards"]


@dataclass(frozen=True, slots=True)
class Shard:
    """A rectangle of a table and the live memory that holds it; writing to it changes the table."""

    rows: tuple[int, int]
    """first, one past last"""
    columns: tuple[int, int]
    """first, one past last"""
    tensor: Tensor
    """(rows, columns), without gradient"""
    replicated: bool = False
    """every rank holds this same rectangle"""


def local_shards(model: nn.Module) -> dict[str, list[Shard]]:
    """Table -> the rectangles in this rank's memory, for every table of the model.

    Sharded tables: the rectangles of all ranks tile the table (a rank may have none). Replicated
    and unsharded tables: the whole table, with `replicated` set. On CUDA, kernels that cache rows
    see what is written here only if no lookup came before.
    """
    tables = tables_of(model)
    found: dict[str, list[Shard]] = {name: [] for name in tables.specs}
    for collection in (tables.trainable, tables.frozen):
        state = {} if collection is None else collection.state_dict()
        for key, value in state.items():
            found[table_name(key.split(".")[-2])] = _shards_of(value)
    for name, weight in tables.replicated.items():
        found[table_name(name)] = _shards_of(weight.detach())
    return found


def _shards_of(value: Tensor | ShardedTensor) -> list[Shard]:
    if not isinstance(value, ShardedTensor):
        num_rows, dim = value.shape
        return [Shard((0, num_rows), (0, dim), value.detach(), replicated=True)]
    shards = []
    for local in value.local_shards():
        (first_row, first_column) = local.metadata.shard_offsets
        num_rows, num_columns = local.metadata.shard_sizes
        rows = (first_row, first_row + num_rows)
        columns = (first_column, first_column + num_columns)
        shards.append(Shard(rows, columns, local.tensor.detach()))
    return shards
