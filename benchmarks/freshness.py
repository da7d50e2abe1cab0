"""How fresh must tables and dense layers be? Day after day on a simulated marketplace.

    python -m benchmarks.freshness FOLDER [--users 1500] [--items 2000] [--cold 15] [--days 47]
                                          [--seeds 3]

Every variant starts from one cold run on the first `--cold` days and goes through the others, each
day's model being tested on the requests of the next day, which nothing has learned from. Ids are
hashed, so that tables of any day take rows of any other. Seeds are those of the marketplace and of
the models. Prints a table, and writes FOLDER/freshness.json; docs/freshness.md says what came out.
All figures are of SIMULATED data. A rerun goes on where the last one was interrupted.
"""

import argparse
import contextlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jobs import export, judge, prepare, pretrain, rank, simulate
from jobs.command import Arguments
from jobs.facts import machine
from jobs.judgements import judgement_path
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


# The first is what jobs.daily does by default.
VARIANTS = {
    "tables and dense go on": Variant("anew", "carried"),
    "tables' optimizer carried": Variant("carried", "carried"),
    "dense optimizer anew": Variant("anew", "anew"),
    f"dense cold, on {WINDOW.days} days": Variant("anew", "cold"),
    "old tables, dense goes on": Variant("old", "carried"),
    "new tables, old dense": Variant("anew", "old"),
    "old tables, old dense": Variant("old", "old"),
}


def main() -> None:
    """Run all variants and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--cold", type=int, default=15)
    parser.add_argument("--days", type=int, default=47)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    for seed in range(arguments.seeds):
        market = Market(arguments, seed)
        market.make()
        for number, (name, variant) in enumerate(VARIANTS.items()):
            found[name].append(market.run(f"variant-{number}", variant))
            print(f"seed {seed}, {name}: {fmean(found[name][-1]):.4f}", flush=True)
        (arguments.folder / "freshness.json").write_text(json.dumps(found, indent=2) + "\n")
    _print(found, arguments)


class Market:
    """The data of a seed, and the models of each variant in a root of its own."""

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        self.arguments, self.seed = arguments, seed
        self.folder: Path = arguments.folder / f"seed-{seed}"
        self.last = FIRST + timedelta(days=arguments.days - 1)
        self.start = FIRST + timedelta(days=arguments.cold - 1)
        # Each is tested on the day after it, whose labels need one more day to be final.
        self.days = days_between(self.start + ONE_DAY, self.last - 2 * ONE_DAY)

    def make(self) -> None:
        """Simulate, prepare all days, pretrain cold, then on from day to day in both ways."""
        a = self.arguments
        if not (self.folder / "events").exists():
            sizes = [f"--users={a.users}", f"--items={a.items}", f"--days={a.days}"]
            _quietly(simulate.main, [f"--out={self.folder}", *sizes, f"--seed={self.seed}"])
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

    def run(self, root: str, variant: Variant) -> list[float]:
        """A variant through all days: the AUC of each day's model on the next day's requests."""
        self._link(root, PREPARED, "carried")
        self._link_tables(root, variant)
        tested: list[Mapping[str, Any]] = []
        for day in [self.start, *self.days]:
            settings = self._ranking(root, variant, day)
            _quietly(rank.rank, Arguments(settings, resume=True))
            tested.append(self._test(root, day))
        return [found["all"]["auc"] for found in tested]

    def _settings(
        self, root: str, pretraining: tuple[date, date], ranking: tuple[date, date], *more: str
    ) -> JobSettings:
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
            "checks.min_rows=0",
            "checks.label_rate={}",
            f'days.pretraining=["{pretraining[0]}", "{pretraining[1]}"]',
            f'days.ranking=["{ranking[0]}", "{ranking[1]}"]',
            f"pretraining.training.seed={self.seed}",
            f"ranking.training.seed={self.seed}",
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
        path = judgement_path(settings, settings.judging.name)
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


def _print(found: Mapping[str, list[list[float]]], arguments: argparse.Namespace) -> None:
    first = next(iter(found.values()))
    print(
        f"SIMULATED: {arguments.users:,} users, {arguments.items:,} items, {len(first)} seeds, "
        f"{len(first[0])} days tested; {machine()}"
    )
    weeks = [slice(0, 7), slice(7, 14), slice(14, 21), slice(-7, None)]
    heads = ("week 1", "week 2", "week 3", "last 7")
    print(f"{'':28} {'AUC':>7} {'gap':>8} {'+/-':>7}" + "".join(f"{head:>9}" for head in heads))
    for name, of_seeds in found.items():
        gaps = [
            [mine - theirs for mine, theirs in zip(*both, strict=True)]
            for both in zip(of_seeds, first, strict=True)
        ]
        by_week = (fmean(fmean(days[week]) for days in gaps) for week in weeks)
        print(
            f"{name:28} {fmean(map(fmean, of_seeds)):7.4f} {fmean(map(fmean, gaps)):+8.4f} "
            f"{_error([fmean(days) for days in gaps]):7.4f}"
            + "".join(f"{gap:+9.4f}" for gap in by_week)
        )


def _error(means: Sequence[float]) -> float:
    """The standard error over seeds."""
    return stdev(means) / len(means) ** 0.5 if len(means) > 1 else math.nan


if __name__ == "__main__":
    main()
