"""Fourteen days through a real Slurm of two nodes, while drivers, agents and ranks are killed.

    python -m tests.integration.daily_slurm FOLDER NUM_KILLS [SEED [NUM_DAYS]]

The days of `test_daily_kills`, three tasks, every stage a job of Slurm that torchx submits, with
torchrun's agents and pretraining on both nodes. Besides drivers, agents and ranks the daemons of
Slurm that keep a job or a node are killed, with SIGKILL, and somebody cancels jobs. What it
publishes must be, bit for bit, what stages that are forked on this machine publish undisturbed.
Needs root for the full disk, and an hour.
"""

import os
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import get_args

from jobs.chain.settings import Submitted
from tests.integration.daily_comparison import LONG, disturbed, go_back, undisturbed
from tests.integration.daily_market import THREE_TASKS, Market, simulate
from tests.integration.forked_scheduler import Server, Started
from tests.integration.processes import above, children, stages_at
from tests.integration.slurm_cluster import NODES, Cluster, slurm_cluster
from tests.jobs.ledgers import wait_for

__all__ = ["SlurmMarket"]

# Drivers die at their writes besides.
VICTIMS = (
    *("driver", "driver by TERM", "all", "stage", "stage", "rank", "rank", "rank"),
    *("job", "job's daemon", "job's daemon", "node's daemon"),
)
# A node is without its daemon for up to this long.
MOST_AWAY_S = 20.0
TASKS = "daily.parallel_tasks=3"
# As many ranks as through Slurm, so that sums are over as many parts.
FORKED = (TASKS, "daily.stages.pretrain.processes=2")
# Slurm takes a job whose daemon is gone for one that runs, so that its time alone ends it.
TIMEOUTS = tuple(f"daily.stages.{stage}.timeout=3m" for stage in get_args(Submitted))
THROUGH_SLURM = (TASKS, "daily.scheduler=slurm", "daily.stages.pretrain.nodes=2", *TIMEOUTS)
HOME = Path(__file__).parents[2]


class SlurmMarket(Market):
    """Whose daily drivers, forked, keep torchx's Runner, and Slurm its jobs."""

    patience_s = 3600.0
    day_s = 240.0
    is_real = True

    def __init__(self, cluster: Cluster, like: Market) -> None:
        super().__init__(
            like.folder, like.log, like.server, has_tasks=True, overrides=THROUGH_SLURM
        )
        self.cluster = cluster
        self.strikes = {
            "job": self._cancel_one,
            "job's daemon": self._kill_daemon_of_job,
            "node's daemon": self._kill_daemon_of_node,
        }
        self._num_started = like._num_started

    def at_work(self, driver: Started) -> tuple[list[int], list[int]]:
        """torchrun's agents on both nodes, and their ranks."""
        del driver
        agents = [pid for pid, line in self.processes().items() if "torchrun" in line[1]]
        return agents, [rank for agent in agents for rank in children(agent)]

    def processes(self) -> dict[int, list[str]]:
        """Agents and ranks of any stage: process -> command line."""
        return stages_at(str(self.config))

    def _cancel_one(self, random: Random) -> bool:
        """As somebody might."""
        jobs = self.cluster.call("squeue", "--noheader", "--format=%A").split()
        if jobs:
            self.cluster.call("scancel", random.choice(jobs))
        return bool(jobs)

    def _kill_daemon_of_job(self, random: Random) -> bool:
        """Its processes go on, and nobody tells Slurm how they end."""
        daemons = {above(process, "slurmstepd") for process in self.processes()} - {None}
        if daemons:
            with suppress(ProcessLookupError):
                os.kill(random.choice(sorted(daemons)), signal.SIGKILL)
        return bool(daemons)

    def _kill_daemon_of_node(self, random: Random) -> bool:
        """The node cannot be reached for a while; its jobs go on."""
        node = random.choice(NODES)
        self.cluster.kill_node(node)
        time.sleep(random.random() * MOST_AWAY_S)
        self.cluster.start_node(node)
        return True


def check_jobs(market: SlurmMarket) -> None:
    """No attempt was submitted twice, and nothing of any is left."""
    wait_for(lambda: market.cluster.call("squeue", "--noheader") == "")
    wait_for(lambda: not market.processes())
    listed = market.cluster.call("sacct", "-X", "-n", "-P", "--format=JobName").splitlines()
    # A job of two nodes has a part on each, whose names end in their numbers.
    assert [name for name, times in Counter(listed).items() if times > 1] == []


def run_with_kills(
    folder: Path, num_kills: int, num_days: int, troubles: dict[str, int], seed: int
) -> Counter[str]:
    """The days undisturbed on this machine, then through Slurm; counts of what happened."""
    log = simulate(folder / "log", num_days, *THREE_TASKS)
    with ExitStack() as stack:
        (folder / "slurm").mkdir()
        cluster = stack.enter_context(slurm_cluster(folder / "slurm", one_core_a_node=True))
        os.environ |= {"SLURM_CONF": cluster.environment["SLURM_CONF"], "PYTHONPATH": str(HOME)}
        server = stack.enter_context(Server(folder / "socket"))
        forked = Market(
            folder / "market", log, server, has_agents=True, has_tasks=True, overrides=FORKED
        )
        before = undisturbed(forked, num_days, troubles)
        go_back(forked, stack, troubles)
        market = SlurmMarket(cluster, forked)
        loop = disturbed(market, before, troubles, num_kills, seed, VICTIMS)
        check_jobs(market)
    return loop.counts


def main() -> None:
    folder, num_kills, *more = Path(sys.argv[1]).absolute(), *map(int, sys.argv[2:])
    seed, num_days = [*more, *(0, 14)[len(more) :]]
    troubles = {kind: number for kind, number in LONG.items() if number + 1 < num_days}
    counts = run_with_kills(folder, num_kills, num_days, troubles, seed)
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")


if __name__ == "__main__":
    main()
