"""Which parameters and which state belong to whom, after `embeddings.sharding.shard`.

    dense_parameters    what the dense optimizer steps in any case
    table_parameters    what it steps as well, with `embeddings.optimizer = "adamw"`
    checkpoint_state    what a checkpoint holds of the model: everything that training changes
    table_in            which table a name in any of these is about

All other parameters of the model are frozen tables, or tables whose optimizer runs inside the
backward pass; no other optimizer may see them.
"""

from typing import Any

from torch import nn
from torchrec.distributed.model_parallel import get_unwrapped_module
from torchrec.optim.fused import FusedOptimizerModule

from embeddings.tables import EmbeddingTables, module_name, table_name, tables_of

__all__ = ["checkpoint_state", "dense_parameters", "table_in", "table_parameters"]


def dense_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All trained parameters outside the tables, by name."""
    inside = _prefix(model)
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(inside)
    }


def table_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable tables that the dense optimizer steps, by name; none unless adamw."""
    if tables_of(model).settings.optimizer != "adamw":
        return {}
    inside = f"{_prefix(model)}trainable."
    return {
        name: parameter for name, parameter in model.named_parameters() if name.startswith(inside)
    }


def checkpoint_state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """{"model", "table_optimizer"}: what `torch.distributed.checkpoint` saves and loads.

    The tensors are the live ones, so loading into this dictionary restores the model in place.
    Frozen tables are left out: the export they came from has them. A checkpoint loads at another
    world size or sharding, except that column-wise shards with row-wise Adagrad need the same
    number of shards, each of which keeps its own sums of squares.
    """
    frozen = (f"{_prefix(model)}frozen.", f"{_prefix(model)}replicated.")
    weights = {
        name: value for name, value in model.state_dict().items() if not name.startswith(frozen)
    }
    return {"model": weights, "table_optimizer": _optimizer_state(tables_of(model))}


def table_in(name: str) -> str:
    """`x.embedding_bags.table_T.weight` or `x.replicated.table_T` -> T; other names unchanged."""
    parts = [part for part in name.split(".") if part.startswith(module_name(""))]
    return table_name(parts[-1]) if parts else name


def _optimizer_state(tables: EmbeddingTables) -> dict[str, Any]:
    if not isinstance(tables.trainable, FusedOptimizerModule):
        return {}
    return dict(tables.trainable.fused_optimizer.state_dict()["state"])


def _prefix(model: nn.Module) -> str:
    """How the names of all tables' parameters begin; those leave out what wraps the model."""
    return next(
        f"{name}." if name else ""
        for name, module in get_unwrapped_module(model).named_modules()
        if isinstance(module, EmbeddingTables)
    )
