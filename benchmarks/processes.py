"""Benchmarks' processes: each figure comes from processes that measure nothing else."""

import json
import os
import subprocess
import sys
from typing import Any

__all__ = ["answer_of", "environment"]


def answer_of(module: str, *arguments: str, processes: int = 1, device: str = "cpu") -> Any:
    """What a module prints last, which is JSON, run in processes of its own on a device."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes), "-m"]
    command += [module, *arguments]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment(device)
    )
    return json.loads(done.stdout.splitlines()[-1])


def environment(device: str) -> dict[str, str]:
    """For a process that is to use the device: the jobs take a GPU wherever they see one."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**os.environ, **hidden}
