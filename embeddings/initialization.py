"""Fills tables with random vectors that depend on neither world size nor sharding.

Follows `embeddings.sharding.shard`; TorchRec's own initialisation is switched off in
`embeddings.tables`. Tables that are transferred need not be initialised.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from embeddings.settings import TableSpec
from embeddings.shards import Shard, local_shards
from embeddings.tables import tables_of

__all__ = ["BLOCK_ROWS", "initialize"]

BLOCK_ROWS = 65_536
"""Rows drawn from one generator; a rank draws the whole blocks that its rectangles touch."""


def initialize(model: nn.Module, seed: int, names: Sequence[str] | None = None) -> None:
    """Fill the tables `names` (all by default) from N(0, settings.init_std), row 0 included.

    Every rank fills its own memory; nothing is communicated. Equal seeds give equal tables, and a
    larger table begins with the rows of a smaller one.
    """
    tables = tables_of(model)
    for name, shards in local_shards(model).items():
        if names is None or name in names:
            _fill(tables.specs[name], shards, seed, tables.settings.init_std)


def _fill(spec: TableSpec, shards: Sequence[Shard], seed: int, std: float) -> None:
    for block in range((spec.num_rows + BLOCK_ROWS - 1) // BLOCK_ROWS):
        start = block * BLOCK_ROWS
        stop = min(start + BLOCK_ROWS, spec.num_rows)
        touched = [shard for shard in shards if shard.rows[0] < stop and start < shard.rows[1]]
        if not touched:
            continue
        drawn = _draw(spec, block, stop - start, seed, std)
        for shard in touched:
            first, last = max(start, shard.rows[0]), min(stop, shard.rows[1])
            source = drawn[first - start : last - start, slice(*shard.columns)]
            shard.tensor[first - shard.rows[0] : last - shard.rows[0]].copy_(source)


def _draw(spec: TableSpec, block: int, num_rows: int, seed: int, std: float) -> Tensor:
    """(num_rows, dim) float32 on the CPU; a row depends on (seed, table, block) and place alone."""
    name = f"{seed}/{spec.name}/{block}".encode()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:7], "little"))
    # Torch draws sixteen at a time and draws an incomplete last group in another way: with whole
    # groups a row keeps its values when the table grows. Widths are multiples of 4.
    whole = (num_rows + 3) // 4 * 4
    return torch.empty(whole, spec.dim).normal_(0, std, generator=generator)[:num_rows]
