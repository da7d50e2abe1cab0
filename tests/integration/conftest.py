"""What many tests look at: the whole chain run on the small shop, and a market with days ready."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import evaluate, export, prepare, pretrain, rank
from jobs.command import Arguments
from jobs.settings import JobSettings
from jobs.strategies import Strategy
from pipeline.settings import load_settings
from tests.integration.daily_market import (
    FIRST,
    NUM_READY,
    PUBLISHED,
    Market,
    day_number,
    simulate,
)
from tests.integration.forked_scheduler import Server
from tests.jobs.small_shop import write_shop


def settings_of(config: Path, *overrides: str) -> JobSettings:
    return load_settings(JobSettings, config, overrides)


def run(verb, config: Path, *overrides: str, resume: bool = False) -> None:
    verb(Arguments(settings_of(config, *overrides), resume))


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Path:
    """The config of a shop whose days are prepared."""
    config = write_shop(tmp_path_factory.mktemp("shop"))
    prepare.prepare_all(settings_of(config))
    return config


@pytest.fixture(scope="session")
def chain(shop) -> Path:
    """The config of a shop through which the whole chain has run, in this process."""
    run(pretrain.pretrain, shop)
    run(export.export, shop)
    for strategy in Strategy:
        run(rank.rank, shop, f"ranking.strategy={strategy.value}")
    run(evaluate.evaluate, shop)
    return shop


@pytest.fixture(scope="session")
def ready(tmp_path_factory) -> Iterator[Market]:
    """A market whose first days are published: one by itself, the others by backfill."""
    log = simulate(tmp_path_factory.mktemp("log"), NUM_READY + 4)
    with Server(tmp_path_factory.mktemp("server") / "socket") as server:
        market = Market(tmp_path_factory.mktemp("daily") / "market", log, server)
        market.bring(FIRST)
        code, output = market.daily(FIRST)
        assert code == PUBLISHED, output
        others = [day_number(number) for number in range(1, NUM_READY)]
        market.bring(*others)
        days = ("--from", str(others[0]), "--to", str(others[-1]))
        code, output = market.run("backfill", *days, "--parallel-days", "2")
        assert code == PUBLISHED, output
        shutil.copytree(market.folder, market.folder.with_name("kept"))
        yield market


@pytest.fixture
def market(ready) -> Market:
    """The same, as it was then: what is recorded of it holds in this place only."""
    shutil.rmtree(ready.folder)
    shutil.copytree(ready.folder.with_name("kept"), ready.folder)
    ready.remembers = False
    return ready


def torchrun(processes: int, verb: str, config: Path, *arguments: str) -> list[str]:
    """The command line of a verb in several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return [*launcher, "-m", f"jobs.{verb}", "--config", str(config), *arguments]
