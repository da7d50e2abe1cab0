"""The device that a benchmark measures on: the one place that knows a GPU from a processor."""

import importlib
import os
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["best_s", "confine", "describe", "fbgemm_fault", "now_s", "peak_memory_bytes"]


def now_s(device: torch.device) -> float:
    """Seconds of a clock, read when the device has done everything that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def best_s(function: Callable[[], Any], device: torch.device, repeats: int = 8) -> float:
    """Seconds that a call takes, the least of some."""
    taken = list[float]()
    for _ in range(repeats):
        start_s = now_s(device)
        function()
        taken.append(now_s(device) - start_s)
    return min(taken)


def peak_memory_bytes(device: torch.device) -> int:
    """The most so far: on a GPU of what PyTorch gave out there, else of the process's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def confine(device: str, core: int) -> None:
    """Leave a process that measures a CPU one core and one thread; a GPU is fed by all there are.

    Of several processes each has the core after the one before.
    """
    if device == "cpu":
        os.sched_setaffinity(0, {core + int(os.environ.get("LOCAL_RANK", "0"))})
        torch.set_num_threads(1)


def describe(device: torch.device) -> str:
    """The device and the PyTorch that drives it."""
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else f"one core of {platform.machine()}"
    return f"{name}, PyTorch {torch.__version__}"


def fbgemm_fault(device: torch.device) -> str | None:
    """Why FBGEMM cannot work on the device; None where it can."""
    try:
        importlib.import_module("fbgemm_gpu")
        lengths = torch.ones(2, dtype=torch.int64, device=device)
        torch.ops.fbgemm.asynchronous_complete_cumsum(lengths)
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None
