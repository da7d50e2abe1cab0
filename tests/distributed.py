"""Runs a test's function in several gloo processes on this machine."""

import multiprocessing
import multiprocessing.connection
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["run_distributed"]

# Imported once by a server process; workers are forked from it, which saves each several seconds.
PRELOAD = ["tests.distributed", "embeddings.sharding", "torch.distributed.checkpoint"]


def run_distributed(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 120
) -> list[Any]:
    """Call `function(*args)` in `world_size` processes that share a gloo process group.

    `function` and `args` must be picklable (a module's function, plain values). Returns what each
    rank returned, in rank order. The first exception of a worker is raised here, with the worker's
    traceback as a note; the other workers are then stopped.

    Raises:
        TimeoutError: the workers were not done in time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    processes: list[Any] = []
    pipes: dict[multiprocessing.connection.Connection, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank in range(world_size):
                ours, theirs = context.Pipe(duplex=False)
                store = f"file://{Path(folder) / 'store'}"
                target = (theirs, store, rank, world_size, function, args)
                process = context.Process(target=_work, args=target, daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                pipes[ours] = rank
            return _collect(pipes, time.monotonic() + timeout_s)
        finally:
            for process in processes:
                process.join(timeout=1)
                process.kill()
                process.join()


def _collect(pipes: dict[Any, int], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    world_size = len(pipes)
    while pipes:
        ready = multiprocessing.connection.wait(list(pipes), deadline - time.monotonic())
        if not ready:
            raise TimeoutError(f"ranks {sorted(pipes.values())} were not done in time")
        for pipe in ready:
            rank = pipes.pop(pipe)  # type: ignore[index]
            try:
                succeeded, value, trace = pipe.recv()  # type: ignore[union-attr]
            except EOFError:
                raise RuntimeError(f"rank {rank} died without an exception") from None
            if not succeeded:
                value.add_note(f"on rank {rank}:\n{trace}")
                raise value
            results[rank] = value
    return [results[rank] for rank in range(world_size)]


def _work(
    pipe: Any, store: str, rank: int, world_size: int, function: Callable[..., Any], args: Any
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=60),
        )
        value = function(*args)
        dist.barrier()
        dist.destroy_process_group()
        pipe.send((True, value, ""))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        pipe.send((False, error, traceback.format_exc()))
    finally:
        pipe.close()
