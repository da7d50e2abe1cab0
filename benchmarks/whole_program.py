"""`jobs.rank` on Parquet, all of it, against its bare steps: `python -m benchmarks.whole_program`.

    python -m benchmarks.whole_program FOLDER [--users 15000] [--items 20000] [--days 8]
                                       [--architecture L4H64A4] [--epochs 3] [--core 0]
                                       [--json FILE]

Writes a simulated marketplace under FOLDER (once), prepares it, and measures on one core:

    whole   the command, from its start to its end: imports, reading, training, validation each
            epoch, checkpoints
    bare    the same model and loop over the same data's batches, which are in memory already

Both in turns, so that a machine that is slow for a while is so for both. The bare loop's figures
have their floor beside them, as in `benchmarks.training`.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.bare_loop import step_seconds
from benchmarks.measured import Measured
from benchmarks.processes import answer_of, environment
from benchmarks.synthetic import Case
from jobs import prepare, simulate
from jobs.distributed import join_world
from jobs.facts import machine
from jobs.ranker import build_ranking_model
from jobs.readers import requests_reader
from jobs.settings import JobSettings
from pipeline.settings import load_settings

FIRST = date(2024, 1, 1)
ONE_DAY = timedelta(days=1)
CONFIG = Path("deploy/configs/daily.toml")
# Batches that the bare loop holds in memory.
NUM_BATCHES = 64


def main() -> None:
    """Prepare, measure in turns, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=15_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--architecture", default="L4H64A4")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    facts = machine()  # before it has one core only
    os.sched_setaffinity(0, {arguments.core})
    if arguments.bare:
        print(json.dumps(asdict(bare(arguments))))
        return
    make(arguments)
    wholes, bares = list[Whole](), list[Measured]()
    for _ in range(arguments.turns):
        bares.append(Measured(**answer_of("benchmarks.whole_program", *sys.argv[1:], "--bare")))
        wholes.append(whole(arguments))
        print(wholes[-1], flush=True)
    of_bare = median(found.samples_per_s for found in bares)
    of_whole = median(found.samples_per_s for found in wholes)
    print(
        f"SIMULATED data, {arguments.architecture}, one core of {facts}: bare "
        f"{of_bare:,.0f} samples/s, whole {of_whole:,.0f}: {of_whole / of_bare:.0%}; the bare "
        f"step's floor is {median(found.floor_share for found in bares):.0%} of it"
    )
    if arguments.json:
        turns: dict[str, Any] = {
            "whole": [{**asdict(found), "samples_per_s": found.samples_per_s} for found in wholes],
            "bare": [found.facts() for found in bares],
        }
        arguments.json.write_text(json.dumps({"machine": facts, **turns}, indent=1) + "\n")


def overrides(arguments: argparse.Namespace) -> list[str]:
    """Ranking days before the last two, which are validation and what its labels wait for."""
    last = FIRST + (arguments.days - 3) * ONE_DAY
    return [
        f"data.root={arguments.folder / 'root'}",
        f"source.path={arguments.folder / 'events'}",
        f'days.pretraining=["{FIRST}", "{last}"]',
        f'days.ranking=["{FIRST + ONE_DAY}", "{last}"]',
        f'days.validation=["{last + ONE_DAY}", "{last + ONE_DAY}"]',
        f"ranking.architecture={arguments.architecture}",
        "ranking.strategy=NT",
        f"ranking.training.epochs={arguments.epochs}",
        "ranking.training.warmup_steps=0",
        "ranking.training.batch_size=512",
        "checks.max_rows_change=10.0",
        "checks.max_action_drift=1.0",
    ]


def settings_of(arguments: argparse.Namespace) -> JobSettings:
    """The config that both run with."""
    return load_settings(JobSettings, CONFIG, overrides(arguments))


def make(arguments: argparse.Namespace) -> None:
    """Simulate and prepare, where that is not done."""
    with contextlib.redirect_stdout(io.StringIO()):
        if not (arguments.folder / "events").exists():
            sizes = [f"--{name}={getattr(arguments, name)}" for name in ("users", "items", "days")]
            simulate.main([f"--out={arguments.folder}", *sizes])
        prepare.prepare_all(settings_of(arguments))


@dataclass(frozen=True)
class Whole:
    """What the whole command did."""

    samples: int
    seconds: float
    steps_seconds: float
    """of these in steps, with waiting for the reader"""

    @property
    def samples_per_s(self) -> float:
        """Of the whole command."""
        return self.samples / self.seconds

    def __str__(self) -> str:
        """One line."""
        return (
            f"whole: {self.samples:,} samples in {self.seconds:.1f} s, {self.steps_seconds:.1f} s "
            "of them steps; the rest is imports, validation, checkpoints and the result"
        )


def whole(arguments: argparse.Namespace) -> Whole:
    """Run the command."""
    settings = settings_of(arguments)
    command = [sys.executable, "-m", "jobs.rank", "--config", str(CONFIG)]
    for override in overrides(arguments):
        command += ["--set", override]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment("cpu"))
    seconds = time.perf_counter() - started
    result = json.loads(
        (settings.ranking_folder(settings.ranking.strategy) / "result.json").read_text()
    )
    return Whole(result["samples"], seconds, result["train_seconds"])


def bare(arguments: argparse.Namespace) -> Measured:
    """The loop without a reader and without hooks."""
    settings = settings_of(arguments)
    training = settings.ranking.training
    names = settings.item_features + settings.context_features
    specs = settings.table_specs(names, settings.ranking.architecture)
    with join_world() as world:
        reader = requests_reader(settings, world, specs, "ranking")
        batches = list(islice(reader.batches(0), NUM_BATCHES))
        model = build_ranking_model(settings, specs, settings.ranking.strategy, world)
        num_steps = 4 * len(batches)
        seconds = step_seconds(
            world, model, lambda batch, _: model(batch), batches, training, num_steps
        )
    # The first time through all of them warms up. Batches differ in size: the mean step, so that
    # samples a second are those of all.
    measured = seconds[len(batches) :]
    case = Case(task="ranking", architecture=arguments.architecture, precision=training.precision)
    return Measured.of(case, batches, [mean(measured)], world.device)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
