"""The process's place among its peers: the only module that reads launcher variables.

Device-specific choices (NCCL or gloo, which device, how many threads) are made here.
"""

import atexit
import gc
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from jobs.cores import num_cores
from jobs.lifetime import end_with_parent
from pipeline.errors import StageError

__all__ = ["World", "join_world"]


# Ranks wait for each other while one checks or takes in days of data, which may take long.
_TIMEOUT = timedelta(hours=2)
# The store where they meet is there before them, or with the first of them.
_JOIN_TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class World:
    """This process's rank, how many there are, and the device it works on."""

    rank: int
    size: int
    local_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prints and writes what is written once."""
        return self.rank == 0

    def say(self, text: str | None) -> None:
        """Print a line, once; nothing for None."""
        if self.is_first and text is not None:
            print(text, flush=True)

    def sum_over_ranks(self, tensor: Tensor) -> None:
        """Replace `tensor`, in place, by its sum over all ranks."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""
        if self.size > 1:
            dist.barrier()

    def gather_objects(self, value: object) -> list[object]:
        """Every rank's `value`, by rank, on all ranks; for small things, not for tensors."""
        gathered: list[object] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered


@contextmanager
def join_world() -> Generator[World]:
    """Join the process group that torchrun describes, or be a world of one without it.

    Threads are cores over processes on this machine: more of them fight over the cores and cost
    three to five times.
    """
    rank = int(os.environ.get("RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, num_cores() // local_size))
    if torch.cuda.is_available():
        device, backend = torch.device("cuda", local_rank), "nccl"
        torch.cuda.set_device(device)
    else:
        device, backend = torch.device("cpu"), "gloo"
    if "RANK" in os.environ:
        _join_launched(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    _collect_at_exit()
    try:
        yield World(rank=rank, size=size, local_size=local_size, device=device)
    finally:
        dist.destroy_process_group()


def _collect_at_exit() -> None:
    """Have gloo's threads end before the interpreter does.

    They end with the last reference to the process group, and models in cycles outlive
    `destroy_process_group`. A thread that still gives back the tensor of the last exchange when the
    interpreter goes away aborts a process that has done all its work.
    """
    atexit.unregister(gc.collect)
    atexit.register(gc.collect)


def _join_launched(backend: str) -> None:
    """Meet the other ranks at the store that torchrun's variables name.

    Raises:
        StageError: the launcher has been killed already.
    """
    end_with_parent()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _check_launcher(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    store, rank, size = next(dist.rendezvous("env://", timeout=_JOIN_TIMEOUT))
    store.set_timeout(_TIMEOUT)
    # The same prefix as torch's own way has, beside what the launcher keeps there.
    store = dist.PrefixStore("default_pg", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)


def _check_launcher(host: str, port: int) -> None:
    """A launcher that ended before this process could ask to end with it: only its store is missed.

    It has the store before it starts a rank, and torch would ask again and again.
    """
    try:
        socket.create_connection((host, port), timeout=_JOIN_TIMEOUT.total_seconds()).close()
    except OSError as error:
        raise StageError(
            f"the launcher of this process has ended: nothing answers at {host}:{port} ({error}); "
            "run the same command again"
        ) from None
