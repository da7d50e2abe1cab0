"""What must not change does not: checks before training, and proof after it.

Follows `embeddings.transfer`. TorchRec ignores `requires_grad=False` on sharded tables, so frozen
tables are looked up without gradient instead (`embeddings.tables`); these functions check that
this holds for the very tables that a strategy freezes.
"""

from collections.abc import Mapping, Sequence

from torch import nn
from torchrec.optim.fused import FusedOptimizerModule

from embeddings.digests import content_digests
from embeddings.parameters import table_in
from embeddings.tables import tables_of
from pipeline.errors import DigestError, ExportError

__all__ = ["check_frozen", "prove_unchanged"]


def check_frozen(model: nn.Module, names: Sequence[str]) -> None:
    """Check that `names`, and no other tables, are frozen: no gradient, no optimizer state.

    Raises:
        ExportError: with the first table for which this is not so.
    """
    tables = tables_of(model)
    for name in names:
        if name not in tables.frozen_names:
            raise ExportError(f"table {name} is to be frozen, but it would be trained")
    for name in tables.frozen_names:
        if name not in names:
            raise ExportError(f"table {name} is frozen, though it is not among those to freeze")
    _check_no_state(model, names)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and table_in(name) in names:
            raise ExportError(f"table {table_in(name)} is frozen, but has received a gradient")


def prove_unchanged(model: nn.Module, digests: Mapping[str, str]) -> dict[str, str]:
    """The digests of the tables in `digests`, all equal to what is given there.

    A collective: all ranks call it and return the same.

    Raises:
        DigestError: one bit of one of these tables has changed.
    """
    found = content_digests(model, digests)
    for name, digest in digests.items():
        if found[name] != digest:
            raise DigestError(
                f"frozen table {name} has changed: digest {digest} when it was loaded, "
                f"{found[name]} now; the results of this run are not to be used"
            )
    return found


def _check_no_state(model: nn.Module, names: Sequence[str]) -> None:
    optimizer = getattr(model, "fused_optimizer", None)
    if not isinstance(model, FusedOptimizerModule) or optimizer is None:
        return
    for key, state in optimizer.state_dict()["state"].items():
        if state and table_in(key) in names:
            raise ExportError(
                f"table {table_in(key)} is frozen, but has optimizer state {sorted(state)}"
            )
