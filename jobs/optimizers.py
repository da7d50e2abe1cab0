"""The dense optimizer: AdamW over everything that no fused table optimizer trains.

Its state is made at once, by parameter name, so that a checkpoint can be read into it and so that
names, not positions, decide what belongs to what.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["dense_optimizer", "optimizer_state"]


def dense_optimizer(
    groups: Mapping[str, tuple[Mapping[str, nn.Parameter], float, float]],
    betas: tuple[float, float],
) -> torch.optim.AdamW:
    """AdamW over named groups of (parameters by name, peak learning rate, weight decay).

    Vectors (norms, biases) do not decay. Each torch group keeps its peak under "peak" for the
    schedule, and its parameters' names under "names".
    """
    torch_groups = []
    for parameters, peak, weight_decay in groups.values():
        for decays in (True, False):
            chosen = {name: p for name, p in parameters.items() if (p.ndim > 1) == decays}
            if chosen:
                torch_groups.append(
                    {
                        "params": list(chosen.values()),
                        "names": list(chosen),
                        "peak": peak,
                        "lr": peak,
                        "weight_decay": weight_decay if decays else 0.0,
                    }
                )
    # In one pass over memory; PyTorch's default on a CPU makes a pass for each of its operations.
    optimizer = torch.optim.AdamW(torch_groups, betas=betas, fused=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer


def optimizer_state(optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The live state tensors, `<parameter>.<moment>` -> tensor."""
    state = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for moment, tensor in optimizer.state[parameter].items():
                state[f"{name}.{moment}"] = tensor
    return state
