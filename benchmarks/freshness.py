"""How fresh must tables and dense layers be? Day after day on a simulated marketplace.

    python -m benchmarks.freshness FOLDER [--users 4000] [--items 4000] [--days 28] [--seed 0]

Every variant starts from one cold run on the first half of the days and goes through the second
half, each day's model being tested on the requests of the next day, which nothing has learned from.
Ids are hashed, so that tables of any day take rows of any other. Prints a table, and writes
FOLDER/freshness.json; docs/freshness.md says what came out. All figures are of SIMULATED data. A
rerun goes on where the last one was interrupted.
"""

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jobs import export, judge, prepare, pretrain, rank, simulate
from jobs.command import Arguments
from jobs.facts import machine
from jobs.settings import JobSettings
from pipeline.partitions import days_between
from pipeline.settings import load_settings

FIRST = date(2024, 1, 1)
ONE_DAY = timedelta(days=1)
CONFIG = Path("deploy/configs/daily.toml")
PREPARED = ("catalogue", "history", "sequences", "tails", "increments", "requests", "held_out")
# How later days train: an epoch at a level rate.
LEVEL = ("epochs=1", "warmup_steps=0", "schedule=constant", "learning_rate=1e-3")
# Dense layers that start cold every day learn from a week.
WINDOW = timedelta(days=7)
# Learns nothing, for dense layers that stay as they are.
STILL = "ranking.training.learning_rate=1e-12"


@dataclass(frozen=True)
class Variant:
    """What is made anew each day."""

    tables: str
    """carried: pretrained on with the optimizer's state; anew: without it; old: the first day's"""
    dense: str
    """carried, anew (goes on without the optimizer's state), cold (from random), old"""


VARIANTS = {
    "tables and dense go on": Variant("carried", "carried"),
    "dense optimizer anew": Variant("carried", "anew"),
    "tables' optimizer anew": Variant("anew", "carried"),
    f"dense cold, on {WINDOW.days} days": Variant("carried", "cold"),
    "old tables, dense goes on": Variant("old", "carried"),
    "new tables, old dense": Variant("carried", "old"),
    "old tables, old dense": Variant("old", "old"),
}


def main() -> None:
    """Run all variants and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    market = Market(arguments)
    market.make()
    found: dict[str, Any] = {}
    for number, (name, variant) in enumerate(VARIANTS.items()):
        found[name] = market.run(f"variant-{number}", variant)
        print(f"{name}: {fmean(found[name]['auc']):.4f}", flush=True)
        (market.folder / "freshness.json").write_text(json.dumps(found, indent=2) + "\n")
    _print(found, arguments)


class Market:
    """The data, and the models of each variant in a root of its own."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder: Path = arguments.folder
        self.last = FIRST + timedelta(days=arguments.days - 1)
        self.start = FIRST + timedelta(days=arguments.days // 2 - 1)
        # Each is tested on the day after it, whose labels need one more day to be final.
        self.days = days_between(self.start + ONE_DAY, self.last - 2 * ONE_DAY)

    def make(self) -> None:
        """Simulate, prepare all days, pretrain cold, then on from day to day in both ways."""
        a = self.arguments
        if not (self.folder / "events").exists():
            sizes = [f"--users={a.users}", f"--items={a.items}", f"--days={a.days}"]
            _quietly(simulate.main, [f"--out={self.folder}", *sizes, f"--seed={a.seed}"])
        # Up to the start, for what is open that evening, and to the end.
        for last in (self.start, self.last):
            days = (FIRST, last)
            _quietly(prepare.prepare_all, self._settings("carried", days, days))
        self._link("anew", PREPARED, "carried")
        for way in ("carried", "anew"):
            self._pretrain(self._settings(way, (FIRST, self.start), (self.start, self.start)))
            for day in self.days:
                going_on = [
                    "pretraining.data=increments",
                    f"pretraining.continue_from={day - ONE_DAY}",
                    f"pretraining.carry_optimizer={'true' if way == 'carried' else 'false'}",
                    *(f"pretraining.training.{setting}" for setting in LEVEL),
                ]
                self._pretrain(self._settings(way, (day, day), (day, day), *going_on))

    def run(self, root: str, variant: Variant) -> dict[str, list[float]]:
        """A variant through all days: each day's model on the next day's requests."""
        self._link(root, PREPARED, "carried")
        self._link_tables(root, variant)
        tested: list[Mapping[str, Any]] = []
        for day in [self.start, *self.days]:
            settings = self._ranking(root, variant, day)
            _quietly(rank.rank, Arguments(settings, resume=True))
            tested.append(self._test(root, day))
        return {
            "auc": [found["all"]["auc"] for found in tested],
            "log_loss": [found["all"]["log_loss"] for found in tested],
        }

    def _settings(
        self, root: str, pretraining: tuple[date, date], ranking: tuple[date, date], *more: str
    ) -> JobSettings:
        seed = self.arguments.seed
        overrides = [
            f"data.root={self.folder / root}",
            f"source.path={self.folder / 'events'}",
            "features.0.headroom=0.0",
            f"features.0.hash_rows={2 * self.arguments.items}",
            *(f"features.{number}.hash_rows=256" for number in (1, 2)),
            "pretraining.softmax.full_softmax_rows=256",
            "pretraining.softmax.num_negatives=512",
            "pretraining.training.epochs=10",
            "checks.max_rows_change=10.0",
            "checks.max_action_drift=1.0",
            f'days.pretraining=["{pretraining[0]}", "{pretraining[1]}"]',
            f'days.ranking=["{ranking[0]}", "{ranking[1]}"]',
            f"pretraining.training.seed={seed}",
            f"ranking.training.seed={seed}",
            *more,
        ]
        return load_settings(JobSettings, CONFIG, overrides)

    def _ranking(self, root: str, variant: Variant, day: date) -> JobSettings:
        """Of one day's ranker; requests are final a day later."""
        if day == self.start:
            return self._settings(root, (day, day), (day - WINDOW, day - ONE_DAY))
        if variant.dense == "cold":
            return self._settings(root, (day, day), (day - WINDOW, day - ONE_DAY))
        going_on = [
            f"ranking.continue_from={day - ONE_DAY}",
            f"ranking.carry_optimizer={'true' if variant.dense == 'carried' else 'false'}",
            *(f"ranking.training.{setting}" for setting in LEVEL),
        ]
        if variant.dense == "old":
            going_on.append(STILL)
        return self._settings(root, (day, day), (day - ONE_DAY, day - ONE_DAY), *going_on)

    def _pretrain(self, settings: JobSettings) -> None:
        if not (settings.export_folder / "manifest.json").exists():
            _quietly(pretrain.pretrain, Arguments(settings, resume=True))
            _quietly(export.export, Arguments(settings, resume=False))

    def _test(self, root: str, day: date) -> Mapping[str, Any]:
        following = day + ONE_DAY
        asked = [
            f'judging.models=["{day}"]',
            f'judging.days=["{following}", "{following}"]',
            "judging.kind=all",
        ]
        settings = self._settings(root, (day, day), (day, day), *asked)
        path = judge.judgement_path(settings, settings.judging.name)
        if not path.exists():
            _quietly(judge.judge, Arguments(settings, resume=False))
        return json.loads(path.read_text())["models"][str(day)]

    def _link(self, root: str, kinds: tuple[str, ...], source: str) -> None:
        for kind in kinds:
            target, there = self.folder / root / kind, (self.folder / source / kind).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            if there.exists() and not target.exists():
                target.symlink_to(there)

    def _link_tables(self, root: str, variant: Variant) -> None:
        """The variant's tables of each day; old ones are those of the start."""
        way = "anew" if variant.tables == "anew" else "carried"
        (self.folder / root / "tables").mkdir(parents=True, exist_ok=True)
        for day in [self.start, *self.days]:
            of = self.start if variant.tables == "old" else day
            target = self.folder / root / "tables" / f"day={day}"
            if not target.exists():
                target.symlink_to((self.folder / way / "tables" / f"day={of}").resolve())


def _quietly(work: Callable[..., Any], *arguments: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        work(*arguments)


def _print(found: Mapping[str, Mapping[str, list[float]]], arguments: argparse.Namespace) -> None:
    first = next(iter(found.values()))["auc"]
    print(
        f"SIMULATED: {arguments.users:,} users, {arguments.items:,} items, seed {arguments.seed}, "
        f"{len(first)} days tested; {machine()}"
    )
    columns = f"{'AUC':>7} {'gap':>8} {'+/-':>7} {'first 3':>8} {'last 3':>8}"
    print(f"{'':28} {columns}")
    for name, result in found.items():
        gaps = [mine - theirs for mine, theirs in zip(result["auc"], first, strict=True)]
        error = stdev(gaps) / len(gaps) ** 0.5
        print(
            f"{name:28} {fmean(result['auc']):7.4f} {fmean(gaps):+8.4f} {error:7.4f} "
            f"{fmean(gaps[:3]):+8.4f} {fmean(gaps[-3:]):+8.4f}"
        )


if __name__ == "__main__":
    main()
