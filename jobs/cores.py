"""How many cores a process may use, for `jobs.distributed` and for what reports say of a machine.

A container on a machine of 64 cores sees all of them and may have the time of four: as many threads
as cores would wait for each other.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["num_cores"]


def num_cores(own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may run on, or whose time its control groups (version 2) allow."""
    return max(1, min([len(os.sched_getaffinity(0)), *_limits(own, groups)]))


def _limits(own: Path, groups: Path) -> Iterator[int]:
    """What the process's group, and each group around it, allows."""
    lines = own.read_text().splitlines() if own.exists() else []
    name = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    # In a container the group's own folder is the root, whatever its name outside.
    folders = [groups / name, *(groups / name).parents]
    for folder in folders[: folders.index(groups) + 1]:
        limit = folder / "cpu.max"
        quota, _, period = limit.read_text().partition(" ") if limit.exists() else ("max", "", "")
        if quota != "max":
            yield math.ceil(int(quota) / int(period))
