"""What a training step was found to take, beside the least that it can take."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.device import peak_memory_bytes
from benchmarks.floor import copy_rate, floor_ms, matmul_rate, work
from benchmarks.synthetic import Case
from models.architecture import Architecture

__all__ = ["Measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came out; a sample is a sequence in pretraining, a (history, candidate) pair else."""

    samples_per_s: float
    tokens_per_s: float
    """events and candidates that go through the Transformer, of all processes"""
    step_ms: float
    flops: float
    """of a step, like the bytes, in each process"""
    num_bytes: float
    matmul_flops_per_s: float
    copy_bytes_per_s: float
    peak_memory_bytes: int

    @classmethod
    def of(
        cls,
        case: Case,
        batches: Sequence[Any],
        seconds: Sequence[float],
        device: torch.device,
        peak: int | None = None,
    ) -> "Measured":
        """Figures from the seconds of steps on batches like these, the median step's.

        `peak`: of memory, in bytes, where something else may have taken more since the steps.
        """
        peak, step_s = peak or peak_memory_bytes(device), statistics.median(seconds)
        done = work(case, Architecture.parse(case.architecture), batches)
        num_samples = statistics.mean(batch.num_samples for batch in batches)
        return cls(
            samples_per_s=case.processes * num_samples / step_s,
            tokens_per_s=case.processes * done.num_tokens / step_s,
            step_ms=1000 * step_s,
            flops=done.flops,
            num_bytes=done.num_bytes,
            matmul_flops_per_s=matmul_rate(case.precision, device),
            copy_bytes_per_s=copy_rate(device),
            peak_memory_bytes=peak,
        )

    @property
    def floor_ms(self) -> float:
        """What the step would take at the measured rates."""
        rates = self.matmul_flops_per_s, self.copy_bytes_per_s
        return floor_ms(self.flops, self.num_bytes, *rates)

    @property
    def floor_share(self) -> float:
        """The floor over what the step took."""
        return self.floor_ms / self.step_ms

    @property
    def matmul_share(self) -> float:
        """The step's operations a second over those of the product of large matrices."""
        return self.flops / (self.step_ms / 1000) / self.matmul_flops_per_s

    def facts(self) -> dict[str, Any]:
        """All of it, by name."""
        derived = ("floor_ms", "floor_share", "matmul_share")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}
