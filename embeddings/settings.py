"""How tables are stored, sharded and trained, and what makes two of them the same.

Apart from the tables themselves, for commands that only read settings: TorchRec takes seconds to
import.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from pipeline.settings import Settings

__all__ = ["EmbeddingSettings", "ShardingType", "TableSpec"]

ShardingType = Literal[
    "table_wise", "column_wise", "row_wise", "table_column_wise", "data_parallel"
]


class EmbeddingSettings(Settings):
    """How tables are stored, sharded and trained (`[embeddings]`)."""

    # adamw has the tables replicated and stepped with the dense parameters; it needs a dense
    # gradient as large as the table, so it is for tables that fit.
    optimizer: Literal["rowwise_adagrad", "adagrad", "adamw"] = "rowwise_adagrad"
    # Row-wise Adagrad takes a first step of rate x sqrt(width): docs/quality.md has what that does.
    learning_rate: float = Field(default=0.05, gt=0)
    # Adagrad's rate falls by itself; "as_dense" has it follow warm-up and cosine as well. With
    # adamw tables always follow the dense schedule.
    schedule: Literal["constant", "as_dense"] = "constant"
    # Added to the root of Adagrad's sum of squares.
    eps: float = Field(default=1e-8, gt=0)
    # For adamw only.
    weight_decay: float = Field(default=0.1, ge=0)
    # Of stored rows; those looked up are float32.
    dtype: Literal["fp32", "fp16"] = "fp32"
    # Of the normal distribution that rows start from.
    init_std: float = Field(default=0.02, gt=0)
    # Table name -> how it is sharded; the planner chooses for tables not named.
    sharding: dict[str, ShardingType] = Field(default_factory=dict)
    # Frozen tables that `sharding` does not name are whole on every rank, the smallest first, as
    # far as these bytes, and memory_per_rank_bytes, reach; 0 spreads all of them.
    replicated_bytes: int = Field(default=2**30, ge=0)
    # What tables may take on one rank; the default is TorchRec's for the device.
    memory_per_rank_bytes: int | None = Field(default=None, gt=0)
    # Bounds the memory an export needs beside the tables.
    export_rows_per_file: int = Field(default=262_144, ge=1)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of the stored rows; vectors that are looked up are always float32."""
        return torch.float32 if self.dtype == "fp32" else torch.float16


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """What makes two tables the same: a transfer compares every field."""

    name: str
    num_rows: int
    """of the table, with those that are free for values yet to come"""
    dim: int
    vocabulary_digest: str
    num_known_rows: int = 0
    """rows that stand for something, from 0 on; 0: all of `num_rows`"""

    @property
    def num_used_rows(self) -> int:
        """Rows that stand for something: only these are drawn or scored."""
        return self.num_known_rows or self.num_rows
