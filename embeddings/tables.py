"""Ids to vectors: every embedding table of a model, looked up once per distinct id.

First of the room's steps: a model is built around `EmbeddingTables` (usually on the meta device),
`embeddings.sharding.shard` spreads the tables over the ranks, `embeddings.initialization` or
`embeddings.transfer` fills them. The model itself sees only `lookup`.

A table is held in one of three ways:

    trainable    an EmbeddingBagCollection, sharded; its optimizer runs inside the backward pass,
                 or (adamw) the tables are replicated and stepped with the dense parameters
    frozen       an EmbeddingBagCollection, sharded, looked up without gradient: no backward, no
                 communication of gradients, no optimizer state
    replicated   a frozen table that every rank holds whole, a small one or one that is asked for
                 (`sharding.TABLE = "data_parallel"`): no communication at all

Legend: M ids asked for, U distinct ids among them, D width of a table's vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from embeddings.bags import distinct_ids, look_up
from pipeline.errors import ConfigError, VocabularyError
from pipeline.settings import Settings

__all__ = [
    "EmbeddingSettings",
    "EmbeddingTables",
    "ShardingType",
    "TableSpec",
    "Vectors",
    "module_name",
    "table_name",
    "tables_of",
]

_PREFIX = "table_"

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


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of M ids of one table; `distinct[inverse]` are all M."""

    distinct: Tensor
    """(U, D) float32, one row a distinct id"""
    inverse: Tensor
    """(M,) int64: where in `distinct` each id's vector is"""


class EmbeddingTables(nn.Module):
    """The embedding tables of one model.

    Args:
        specs: one per table; names are unique.
        settings: `[embeddings]`.
        frozen: names of the tables that are never trained.
        device: meta where `shard` follows, cpu or cuda for an unsharded, single-process model.

    Raises:
        ConfigError: `frozen` or `settings.sharding` names a table that is not there, a width is
            not a multiple of 4, or a sharding contradicts the optimizer.
    """

    def __init__(
        self,
        specs: Sequence[TableSpec],
        settings: EmbeddingSettings,
        *,
        frozen: Sequence[str] = (),
        device: torch.device,
    ) -> None:
        super().__init__()
        self.specs = {spec.name: spec for spec in specs}
        self.settings = settings
        self._check(frozen)
        self.trainable_names = tuple(name for name in self.specs if name not in frozen)
        self.frozen_names = tuple(name for name in self.specs if name in frozen)
        self.replicated_names = self._choose_replicated()
        # Frozen tables that are spread over the ranks.
        self.sharded_frozen_names = tuple(
            name for name in self.frozen_names if name not in self.replicated_names
        )
        self.trainable = self._collection(self.trainable_names, device)
        self.frozen = self._collection(self.sharded_frozen_names, device)
        self.replicated = nn.ParameterDict(
            {
                module_name(name): self._replicated(self.specs[name], device)
                for name in self.replicated_names
            }
        )

    def lookup(self, ids: Mapping[str, Tensor]) -> dict[str, Vectors]:
        """The vectors of `ids`, table -> (M,) int64; M may differ by table and may be 0.

        Every distinct id of a table is looked up, and communicated between ranks, once. All ranks
        must call this equally often and for the same tables.

        Raises:
            VocabularyError: an id is outside its table.
        """
        distinct, inverse = {}, {}
        for name, table_ids in ids.items():
            _check_range(self.specs[name], table_ids)
            distinct[name], inverse[name] = distinct_ids(table_ids, self.specs[name].num_rows)
        vectors = look_up(self.trainable, self.trainable_names, distinct)
        with torch.no_grad():
            vectors |= look_up(self.frozen, self.sharded_frozen_names, distinct)
            for name in self.replicated_names:
                if name in distinct:
                    rows = functional.embedding(distinct[name], self.replicated[module_name(name)])
                    vectors[name] = rows.float()
        return {name: Vectors(vectors[name], inverse[name]) for name in ids}

    @property
    def replicated_bytes(self) -> int:
        """What tables that are whole take on every rank."""
        return sum(map(self._num_bytes, self.replicated_names))

    def _choose_replicated(self) -> tuple[str, ...]:
        kinds, most = self.settings.sharding, self.settings.memory_per_rank_bytes
        left = min(self.settings.replicated_bytes, most or self.settings.replicated_bytes)
        chosen = {name for name in self.frozen_names if kinds.get(name) == "data_parallel"}
        sizes = {name: self._num_bytes(name) for name in self.frozen_names if name not in kinds}
        for name, size in sorted(sizes.items(), key=lambda item: item[1]):
            left -= size
            if left >= 0:
                chosen.add(name)
        return tuple(name for name in self.frozen_names if name in chosen)

    def _num_bytes(self, name: str) -> int:
        spec = self.specs[name]
        return spec.num_rows * spec.dim * self.settings.torch_dtype.itemsize

    def _collection(
        self, names: Sequence[str], device: torch.device
    ) -> EmbeddingBagCollection | None:
        if not names:
            return None
        tables = [self._table_config(self.specs[name]) for name in names]
        return EmbeddingBagCollection(tables=tables, device=device)

    def _table_config(self, spec: TableSpec) -> EmbeddingBagConfig:
        return EmbeddingBagConfig(
            name=module_name(spec.name),
            feature_names=[spec.name],
            num_embeddings=spec.num_rows,
            embedding_dim=spec.dim,
            pooling=PoolingType.SUM,
            data_type=DataType.FP32 if self.settings.dtype == "fp32" else DataType.FP16,
            init_fn=_leave,
        )

    def _replicated(self, spec: TableSpec, device: torch.device) -> nn.Parameter:
        shape, dtype = (spec.num_rows, spec.dim), self.settings.torch_dtype
        return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)

    def _check(self, frozen: Sequence[str]) -> None:
        known = ", ".join(sorted(self.specs))
        for name in frozen:
            if name not in self.specs:
                raise ConfigError(f"cannot freeze {name!r}: no such table; known: {known}")
        for name, kind in self.settings.sharding.items():
            if name not in self.specs:
                raise ConfigError(f"embeddings.sharding.{name}: no such table; known: {known}")
            if name not in frozen:
                self._check_sharding(name, kind)
        for spec in self.specs.values():
            if spec.dim % 4:
                raise ConfigError(
                    f"table {spec.name} is {spec.dim} wide; widths must be multiples of 4"
                )

    def _check_sharding(self, name: str, kind: ShardingType) -> None:
        replicated, optimizer = kind == "data_parallel", self.settings.optimizer
        if replicated and optimizer != "adamw":
            raise ConfigError(
                f"embeddings.sharding.{name}: a trained table is data_parallel only with "
                f"embeddings.optimizer = 'adamw' (it is {optimizer!r}); use table_wise"
            )
        if optimizer == "adamw" and not replicated:
            raise ConfigError(
                f"embeddings.sharding.{name}: with embeddings.optimizer = 'adamw' trained tables "
                f"are data_parallel, not {kind}; remove the line or use rowwise_adagrad"
            )


def _check_range(spec: TableSpec, ids: Tensor) -> None:
    if ids.numel() == 0:
        return
    smallest, largest = (int(end) for end in torch.aminmax(ids))
    if smallest < 0 or largest >= spec.num_rows:
        raise VocabularyError(
            f"{spec.name}: ids from {smallest} to {largest} do not fit a table of {spec.num_rows} "
            "rows; they were built with another vocabulary: rerun prepare"
        )


def module_name(table: str) -> str:
    """What a table is called inside torch modules, where "type" or "values" are taken."""
    return f"{_PREFIX}{table}"


def table_name(module: str) -> str:
    """The inverse of `module_name`."""
    return module.removeprefix(_PREFIX)


def tables_of(model: nn.Module) -> EmbeddingTables:
    """The one `EmbeddingTables` inside a model, sharded or not."""
    found = [module for module in model.modules() if isinstance(module, EmbeddingTables)]
    assert len(found) == 1, f"a model has one EmbeddingTables, not {len(found)}"
    return found[0]


def _leave(weights: Tensor) -> None:
    """Stands in for TorchRec's initialisation; `embeddings.initialization` fills the tables."""
