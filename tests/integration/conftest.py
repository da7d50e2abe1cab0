"""One run of the whole chain on the small shop, shared by the tests that look at it."""

import sys
from pathlib import Path

import pytest

from jobs import evaluate, export, prepare, pretrain, rank
from jobs.command import Arguments
from jobs.settings import JobSettings
from jobs.strategies import Strategy
from pipeline.settings import load_settings
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


def torchrun(processes: int, verb: str, config: Path, *arguments: str) -> list[str]:
    """The command line of a verb in several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return [*launcher, "-m", f"jobs.{verb}", "--config", str(config), *arguments]
