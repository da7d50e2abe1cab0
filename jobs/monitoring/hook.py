"""What training shows while it goes on: an HTTP endpoint of rank 0, with all ranks' values.

    step reports of each rank --one sum over ranks, now and then--> rank 0 --> Prometheus

Between two such sums a step costs a few additions. `jobs.monitoring.metrics` names them all.
"""

import errno
import threading
import time
from bisect import bisect_left
from typing import Any
from wsgiref.simple_server import WSGIServer

import torch
from prometheus_client import start_http_server

from jobs.distributed import World
from jobs.loop import Measuring, StepReport, TrainingLoop
from jobs.monitoring.metrics import (
    STEP_BUCKETS_S,
    TRAINING_METRICS,
    Histogram,
    Sample,
    Shown,
    registry_of,
)
from jobs.monitoring.settings import MonitoringSettings
from pipeline.batches import RankingBatch, SequenceBatch

__all__ = ["Endpoint", "MonitoringHook", "num_tokens"]

_NUM_BUCKETS = len(STEP_BUCKETS_S) + 1
# After the buckets: seconds, samples, tokens; then the seconds that each rank waited.
_NUM_SUMS = 3


class MonitoringHook:
    """Adds up what steps took and did; the last of a loop's hooks, as it shows what others measure.

    Args:
        stage: "pretrain" or "rank".
        task: what ranking is about, "" of pretraining.
        every_steps: how often values are summed over ranks and shown.
    """

    def __init__(
        self, settings: MonitoringSettings, stage: str, task: str, every_steps: int
    ) -> None:
        self._settings = settings
        self._labels = (stage, task)
        self._every_steps = every_steps
        self._num_steps = 0
        self._mine: list[float] = []
        self._totals: list[float] = []
        self._endpoint: Endpoint | None = None

    def after_step(self, loop: TrainingLoop, report: StepReport) -> None:
        """Take the step in; every so many steps, show."""
        if not self._settings.port:
            return
        if not self._mine:
            self._start(loop.world)
        self._add(loop.world.rank, report)
        finished = loop.progress.step == loop.total_steps
        if loop.progress.step % self._every_steps == 0 or finished:
            self._sum_up(loop.world)
            if self._endpoint is not None:
                self._endpoint.shown.show(self._samples(loop))
        if finished and self._endpoint is not None:
            self._endpoint.close()

    def _start(self, world: World) -> None:
        self._mine = [0.0] * (_NUM_BUCKETS + _NUM_SUMS + world.size)
        self._totals = list(self._mine)
        if world.is_first:
            self._endpoint = Endpoint.open(self._settings, world)

    def _add(self, rank: int, report: StepReport) -> None:
        self._num_steps += 1
        mine = self._mine
        mine[bisect_left(STEP_BUCKETS_S, report.seconds)] += 1
        mine[_NUM_BUCKETS] += report.seconds
        mine[_NUM_BUCKETS + 1] += report.num_samples
        mine[_NUM_BUCKETS + 2] += num_tokens(report.batch)
        mine[_NUM_BUCKETS + _NUM_SUMS + rank] += report.waited_seconds

    def _sum_up(self, world: World) -> None:
        """One call for all values; every rank makes it, whether it serves anything or not."""
        sums = torch.tensor(self._mine, dtype=torch.float64, device=world.device)
        world.sum_over_ranks(sums)
        added = zip(self._totals, sums.tolist(), strict=True)
        self._totals = [total + more for total, more in added]
        self._mine = [0.0] * len(self._mine)

    def _samples(self, loop: TrainingLoop) -> list[Sample]:
        counts, sums = self._totals[:_NUM_BUCKETS], self._totals[_NUM_BUCKETS:]
        seconds, samples, tokens, *waited = sums
        values: dict[str, float | Histogram] = {
            "step_seconds": Histogram(tuple(counts), seconds),
            "steps_total": self._num_steps,
            "samples_total": samples,
            "tokens_total": tokens,
            "ranks": loop.world.size,
            "done_ratio": loop.progress.step / loop.total_steps,
            "last_step_timestamp_seconds": time.time(),
        }
        for hook in loop.hooks:
            if isinstance(hook, Measuring):
                values |= hook.figures
        shown = [self._sample(name, value) for name, value in values.items()]
        name = "reader_wait_seconds_total"
        return shown + [self._sample(name, s, str(rank)) for rank, s in enumerate(waited)]

    def _sample(self, name: str, value: float | Histogram, *rank: str) -> Sample:
        return Sample(TRAINING_METRICS["training_" + name], (*self._labels, *rank), value)


class Endpoint:
    """An HTTP server in a thread, and what it shows: GET /metrics."""

    def __init__(self, shown: Shown, server: WSGIServer, thread: threading.Thread) -> None:
        self.shown = shown
        self._server, self._thread = server, thread

    @classmethod
    def open(cls, settings: MonitoringSettings, world: World) -> "Endpoint | None":
        """Listen on the first of the ports that is free.

        None, and a line that says why, if none is: nobody's training fails for want of a port.
        """
        shown, reason = Shown(), ""
        for port in range(settings.port, min(settings.port + settings.num_ports, 65_536)):
            try:
                server, thread = start_http_server(port, settings.address, registry_of(shown))
            except OSError as error:
                reason = error.strerror or str(error)
                if error.errno != errno.EADDRINUSE:
                    break
            else:
                world.say(f"metrics: http://{settings.address}:{port}/metrics")
                return cls(shown, server, thread)
        world.say(
            f"warning: no metrics are served, as {settings.address}, from port {settings.port} on, "
            f"cannot be listened on ({reason}); training goes on; change monitoring.port, "
            "monitoring.num_ports or monitoring.address"
        )
        return None

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def num_tokens(batch: Any) -> int:
    """Events of a batch's histories and candidates."""
    if isinstance(batch, SequenceBatch):
        return _length(batch.tokens)
    assert isinstance(batch, RankingBatch)
    return _length(batch.history) + _length(batch.candidates)


def _length(features: dict[str, torch.Tensor]) -> int:
    """Every feature has a value an event."""
    return next(iter(features.values())).numel()
