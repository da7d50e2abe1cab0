"""Spreads a model's tables over the ranks: planner, optimizer in backward, model parallelism.

Follows building the model (tables on meta, dense parameters on the device) and comes before the
dense optimizer. The process group must exist; one process goes the same way. What a device can do
is said once, in `_CHOICES`.
"""

import logging
import math
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import (
    # Its public name in torchrec.optim is deprecated in favour of this one.
    _apply_optimizer_in_backward as apply_optimizer_in_backward,  # pyright: ignore[reportPrivateUsage]
)
from torch.distributed.remote_device import _remote_device  # pyright: ignore[reportPrivateUsage]
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import (
    DefaultDataParallelWrapper,
    DistributedModelParallel,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    KernelConfig,
    PlannerError,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ModuleSharder,
    ParameterSharding,
    ShardingPlan,
)
from torchrec.optim.fused import FusedOptimizerModule
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from embeddings.settings import TableSpec
from embeddings.tables import EmbeddingTables, module_name, table_name, tables_of
from pipeline.errors import ConfigError

__all__ = ["describe_plan", "set_table_learning_rate", "shard"]

logger = logging.getLogger(__name__)

# Device -> (sharding types the planner may choose from, compute kernels). On CPU the planner gets
# table_wise alone: the arithmetic of row-wise Adagrad depends on the number of column shards.
_CHOICES = {
    "cpu": (["table_wise"], ["fused"]),
    "cuda": (["table_wise", "row_wise"], ["fused", "fused_uvm_caching"]),
}
# What TorchRec's bag collections cannot do on CPU: gloo fails in their output.
_NOT_ON_CPU = "row_wise"
# Of fp16 rows on a GPU: a checkpoint holds the CPU's random state alone, so a resumed run would not
# draw the same. On a CPU it changes nothing.
_RANDOM_ROUNDING = False
# Kept free on every rank for batches and the dense part.
_RESERVED_SHARE = 0.15


def shard(
    model: nn.Module, device: torch.device, *, local_world_size: int | None = None
) -> DistributedModelParallel:
    """Shard the tables of `model`; its dense parameters become data-parallel (DDP).

    Args:
        model: has one `EmbeddingTables` on meta; all other parameters are on `device`.
        device: this rank's device.
        local_world_size: ranks on this machine, for the planner; all ranks by default.

    The gradients a table gets are the mean over the ranks, as DDP's are. The tables' memory is
    not filled: call `initialize` or `transfer` next.

    Raises:
        ConfigError: a sharding this device cannot do, or tables that do not fit the memory.
    """
    tables = tables_of(model)
    _optimizer_in_backward(tables)
    plan = _plan(model, tables, device, local_world_size or dist.get_world_size())
    with warnings.catch_warnings():
        # TorchRec 1.8 passes an argument that torch 2.13 has renamed.
        warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
        return DistributedModelParallel(
            module=model,
            device=device,
            plan=plan,
            sharders=_sharders(),
            # A static graph would hide that ranks disagree about which parameters they use.
            data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
        )


def set_table_learning_rate(model: nn.Module, learning_rate: float) -> None:
    """Set what the optimizer inside the backward pass uses from the next backward on.

    Does nothing with adamw, whose tables the dense optimizer steps.
    """
    trainable = tables_of(model).trainable
    if not isinstance(trainable, FusedOptimizerModule):
        return
    optimizer = trainable.fused_optimizer
    for group in cast(list[dict[str, Any]], optimizer.param_groups):
        group["lr"] = learning_rate
    # Steps nothing, since rows are updated in backward: it hands the rate to the kernels.
    optimizer.step()


def describe_plan(model: nn.Module) -> list[str]:
    """One line a table: name, shape, sharding, kernel, and the bytes on each rank that has some."""
    plan, tables = cast(DistributedModelParallel, model).plan, tables_of(model)
    width = tables.settings.torch_dtype.itemsize
    lines = []
    for module_plan in plan.plan.values():
        for name, parameter in cast(EmbeddingModuleShardingPlan, module_plan).items():
            spec = tables.specs[table_name(name)]
            kind = f"{parameter.sharding_type} ({parameter.compute_kernel})"
            lines.append(_line(spec, kind, _bytes_by_rank(parameter, spec, width)))
    for name in tables.replicated_names:
        spec = tables.specs[name]
        num_bytes = spec.num_rows * spec.dim * width
        everywhere = dict.fromkeys(range(dist.get_world_size()), num_bytes)
        lines.append(_line(spec, "replicated, frozen", everywhere))
    return sorted(lines)


def _line(spec: TableSpec, kind: str, bytes_by_rank: Mapping[int, int]) -> str:
    places = ", ".join(f"rank {rank} {size:,}" for rank, size in sorted(bytes_by_rank.items()))
    return f"table {spec.name}: {spec.num_rows} x {spec.dim}, {kind}; bytes: {places}"


def _bytes_by_rank(parameter: ParameterSharding, spec: TableSpec, width: int) -> dict[int, int]:
    sizes: dict[int, int] = {}
    if not isinstance(parameter.sharding_spec, EnumerableShardingSpec):
        return dict.fromkeys(parameter.ranks or [], spec.num_rows * spec.dim * width)
    for part in parameter.sharding_spec.shards:
        rank = cast(_remote_device, part.placement).rank() or 0
        sizes[rank] = sizes.get(rank, 0) + math.prod(part.shard_sizes) * width
    return sizes


def _optimizer_in_backward(tables: EmbeddingTables) -> None:
    settings = tables.settings
    if tables.trainable is not None and settings.optimizer != "adamw":
        kind = RowWiseAdagrad if settings.optimizer == "rowwise_adagrad" else torch.optim.Adagrad
        options = {"lr": settings.learning_rate, "eps": settings.eps}
        apply_optimizer_in_backward(kind, tables.trainable.parameters(), options)
    if settings.optimizer == "adamw":
        # FBGEMM 1.8 registers the dense kernel's gradient in a way that torch 2.13 finds doubtful.
        # It is right: tests/embeddings/test_sharding.py compares it with a plain model's.
        warnings.filterwarnings("ignore", "fbgemm::dense_embedding.*autograd kernel", UserWarning)
    if tables.frozen is not None:
        # The kernels must have some optimizer. SGD keeps no state, and no backward ever runs.
        apply_optimizer_in_backward(torch.optim.SGD, tables.frozen.parameters(), {"lr": 0.0})


def _plan(
    model: nn.Module, tables: EmbeddingTables, device: torch.device, local_world_size: int
) -> ShardingPlan:
    memory = tables.settings.memory_per_rank_bytes
    if memory is not None:
        # The planner knows nothing of tables that are whole on every rank.
        memory = max(1, memory - tables.replicated_bytes)
    topology = TopologyFactory.create_topology(
        TrainerConfig(
            world_size=dist.get_world_size(),
            local_world_size=local_world_size,
            hbm_cap_bytes=memory if device.type == "cuda" else None,
            ddr_cap_bytes=memory if device.type == "cpu" else None,
        ),
        kernel_config=KernelConfig(compute_device=device.type),
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        constraints={
            module_name(name): _constraints(tables, name, device) for name in tables.specs
        },
        storage_reservation=FixedPercentageStorageReservation(_RESERVED_SHARE),
        stats=NoopEmbeddingStats(),
        debug=False,
    )
    plan = _planned_once(planner, model)
    if dist.get_rank() == 0:
        _warn_of_columns(tables)
    return plan


def _warn_of_columns(tables: EmbeddingTables) -> None:
    if tables.settings.optimizer == "rowwise_adagrad":
        for name, kind in tables.settings.sharding.items():
            if "column" in kind and name in tables.trainable_names:
                logger.warning(
                    "embeddings.sharding.%s = %r with rowwise_adagrad: results depend on the "
                    "number of shards, and checkpoints load only at the same number",
                    name,
                    kind,
                )


def _planned_once(planner: EmbeddingShardingPlanner, model: nn.Module) -> ShardingPlan:
    """Rank 0's plan on all ranks; TorchRec's own way leaves them waiting where rank 0 fails."""
    results: list[ShardingPlan | str | None] = [None]
    if dist.get_rank() == 0:
        try:
            results = [planner.plan(model, _sharders())]
        except PlannerError as error:
            results = [str(error)]
    dist.broadcast_object_list(results, src=0)
    if not isinstance(results[0], ShardingPlan):
        raise ConfigError(
            "embeddings: no placement of the tables fits; raise memory_per_rank_bytes, run on "
            f"more ranks or allow other shardings. The planner says: {results[0]}"
        )
    return results[0]


def _sharders() -> list[ModuleSharder[nn.Module]]:
    return [cast(ModuleSharder[nn.Module], EmbeddingBagCollectionSharder())]


def _constraints(tables: EmbeddingTables, name: str, device: torch.device) -> ParameterConstraints:
    settings = tables.settings
    if name in tables.trainable_names and settings.optimizer == "adamw":
        return ParameterConstraints(sharding_types=["data_parallel"], compute_kernels=["dense"])
    kinds, kernels = _CHOICES[device.type]
    asked = settings.sharding.get(name)
    if asked is None:
        return ParameterConstraints(
            sharding_types=kinds, compute_kernels=kernels, stochastic_rounding=_RANDOM_ROUNDING
        )
    if asked == _NOT_ON_CPU and device.type == "cpu":
        raise ConfigError(
            f"embeddings.sharding.{name}: row_wise needs CUDA; on CPU use table_wise, or "
            "column_wise with embeddings.optimizer = 'adagrad'"
        )
    return ParameterConstraints(
        sharding_types=[asked],
        compute_kernels=kernels,
        min_partition=_columns_per_shard(tables.specs[name].dim) if "column" in asked else None,
        stochastic_rounding=_RANDOM_ROUNDING,
    )


def _columns_per_shard(dim: int) -> int:
    """Columns of one shard, so that every rank gets one if `dim` can be cut so (multiples of 4)."""
    widths = [width for width in range(4, dim + 1, 4) if dim % width == 0]
    return next(width for width in widths if width * dist.get_world_size() >= dim)
