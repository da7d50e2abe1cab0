"""Killed at any moment, over days good and bad, the chain publishes what it would undisturbed.

    python -m tests.integration.test_daily_kills FOLDER NUM_KILLS [SEED [NUM_DAYS]]

Days arrive one by one and a loop runs each until it is settled, as a timer would. One is poisoned
(its clicks moved to what was not clicked), and a gateway is down, in two runs: one undisturbed, and
one in which besides a day is corrupt at first, one late, one half, the disk is full on another, and
the driver, torchrun's agents, their ranks or all of them are killed: after a random time, or when
the driver touches the chain's files for the n-th time, inside a publication say. Of NUM_KILLS, some
come when all is done. Three tasks are ranked side by side, and two processes pretrain; the test
has one task, and stages without agents. `daily_slurm` does the same through Slurm.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.daily_comparison import LONG, SHORT, disturbed, go_back, undisturbed
from tests.integration.daily_market import THREE_TASKS, Market, simulate
from tests.integration.forked_scheduler import Server

NUM_KILLS, NUM_DAYS = 3, 4
SIDE_BY_SIDE = ("daily.parallel_tasks=3", "daily.stages.pretrain.processes=2")


def run_with_kills(
    folder: Path, num_kills: int, num_days: int, troubles: dict[str, int], seed: int
) -> dict[str, int]:
    """One task, a process a stage; counts of what happened."""
    log = simulate(folder / "log", num_days)
    with Server(folder / "socket") as server:
        market = Market(folder / "market", log, server)
        return run_twice(market, num_kills, num_days, troubles, seed)


def run_twice(
    market: Market, num_kills: int, num_days: int, troubles: dict[str, int], seed: int
) -> dict[str, int]:
    """The days undisturbed, then once more with troubles and kills."""
    with ExitStack() as stack:
        before = undisturbed(market, num_days, troubles)
        go_back(market, stack, troubles)
        return dict(disturbed(market, before, troubles, num_kills, seed).counts)


def main() -> None:
    folder, num_kills, *more = Path(sys.argv[1]).absolute(), *map(int, sys.argv[2:])
    seed, num_days = [*more, *(0, 14)[len(more) :]]
    troubles = {kind: number for kind, number in LONG.items() if number + 1 < num_days}
    log = simulate(folder / "log", num_days, *THREE_TASKS)
    with Server(folder / "socket") as server:
        market = Market(
            folder / "market", log, server, has_agents=True, has_tasks=True, overrides=SIDE_BY_SIDE
        )
        # Others may be at work on the machine, for as long as this takes.
        market.patience_s = 1800
        counts = run_twice(market, num_kills, num_days, troubles, seed)
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")


@pytest.mark.slow
@pytest.mark.integration
def test_killed_at_random_moments_the_days_are_published_as_if_undisturbed(tmp_path):
    counts = run_with_kills(tmp_path, NUM_KILLS, NUM_DAYS, SHORT, seed=0)
    # Some come too late, when the last day is done.
    assert any(what.startswith("killed") for what in counts)


if __name__ == "__main__":
    main()
