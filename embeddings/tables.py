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

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from embeddings.bags import distinct_ids, look_up
from embeddings.settings import EmbeddingSettings, ShardingType, TableSpec
from pipeline.errors import ConfigError, VocabularyError

__all__ = ["EmbeddingTables", "Vectors", "module_name", "table_name", "tables_of"]

_PREFIX = "table_"


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
