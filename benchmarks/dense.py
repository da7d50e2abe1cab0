"""The dense part of training steps by itself, with its floor: no tables, so no FBGEMM.

The process of `benchmarks.gpu` that measures where FBGEMM has nothing for the device, as
`benchmarks.step` is where it has: its argument is a case and its output the figures, both JSON.
Everything but the tables is the jobs': model, losses, their backward pass, clipping, AdamW. The
steps are those of `jobs.loop` in one process, written out, since that module imports the tables.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.device import confine, now_s
from benchmarks.measured import Measured
from benchmarks.model import forward_of, model_of
from benchmarks.synthetic import NUM_CATEGORIES, Case, draw_all, num_tokens
from jobs.optimizers import dense_optimizer
from jobs.sections import TrainingSettings
from models.architecture import Architecture
from models.losses import LossSums

__all__ = ["GivenVectors", "measure"]


@dataclass(frozen=True, slots=True)
class _Vectors:
    """What `models.inputs.Vectors` asks for."""

    distinct: Tensor
    inverse: Tensor


class GivenVectors(nn.Module):
    """Stands in for the tables: every id that is asked for has a vector, there already.

    Gradients by the vectors are computed, as tables would need them, and dropped.
    """

    def __init__(self, num_vectors: int, width: int, device: torch.device) -> None:
        super().__init__()
        self._given = 0.02 * torch.randn(num_vectors, width, device=device)

    def lookup(self, ids: Mapping[str, Tensor]) -> dict[str, _Vectors]:
        """(M,) ids a table -> the first M vectors, whatever the ids are."""
        return {name: self._of(table_ids) for name, table_ids in ids.items()}

    def _of(self, ids: Tensor) -> _Vectors:
        places = torch.arange(ids.numel(), device=ids.device)
        return _Vectors(self._given[: ids.numel()].detach().requires_grad_(), places)


def main() -> None:
    """Measure the case given on the command line."""
    case = Case(**json.loads(sys.argv[1]))
    confine(case.device, case.core)
    print(json.dumps(asdict(measure(case))))


def measure(case: Case) -> Measured:
    """Train for some steps; the first quarter only warms up."""
    device, architecture = torch.device(case.device), Architecture.parse(case.architecture)
    batches = draw_all(case, np.random.default_rng(0))
    most = max(map(num_tokens, batches)) + max(case.num_negatives, NUM_CATEGORIES)
    torch.manual_seed(0)
    vectors = GivenVectors(most, architecture.width, device)
    model = model_of(case, architecture, vectors).to(device)
    on_device = [batch.to(device) for batch in batches]
    seconds = _step_seconds(case, model, forward_of(case, model), on_device, device)
    return Measured.of(case, batches, seconds[case.steps // 4 :], device)


def _step_seconds(
    case: Case,
    model: nn.Module,
    forward: Callable[[Any, int], LossSums],
    batches: Sequence[Any],
    device: torch.device,
) -> list[float]:
    settings = TrainingSettings(precision=case.precision)  # pyright: ignore[reportArgumentType]
    parameters = dict(model.named_parameters())
    optimizer = dense_optimizer({"dense": (parameters, 1e-3, 0.1)}, settings.betas)
    seconds, is_bf16 = list[float](), case.precision == "bf16"
    for step in range(case.steps):
        start_s = now_s(device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16):
            sums = forward(batches[step % len(batches)], step)
        (sums.sums / sums.counts.clamp(min=1)).sum().backward()
        norm = nn.utils.clip_grad_norm_(parameters.values(), settings.clip_norm)
        assert norm.isfinite()
        optimizer.step()
        seconds.append(now_s(device) - start_s)
    return seconds


if __name__ == "__main__":
    main()
