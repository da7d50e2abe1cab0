"""How fast prepare turns a day's events into sequences, requests and the next state, day after day.

    python -m benchmarks.prepare [--users N] [--items N] [--days N] [--tasks ctr,cart,cvr]
                                   [--folder DIR]

Simulates a marketplace's log, then builds it one day at a time as a daily run does, each day from
the state that the day before left, and prints a line a day: its events, the seconds from source
files to clean events, from those to everything that is published (and the processor's for the
latter, which say more where something else is running), and events a second of the latter and of
both. The rate must not fall with the number of days that came before. Peak memory is the whole
process's, the simulation left out.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pipeline.day_chain
import pipeline.prepare
from jobs.facts import machine
from pipeline.engine import EngineSettings
from pipeline.partitions import days_between
from pipeline.preparation import Preparation
from pipeline.requests import RequestSettings
from pipeline.schema import DaySettings, FeatureSettings
from pipeline.sequences import SequenceSettings
from pipeline.source import SourceSettings
from pipeline.tasks import TaskSettings

FIRST_DAY = date(2024, 1, 1)
FEATURES = tuple(
    FeatureSettings(name=name, dtype="int64") for name in ("item_id", "category_id", "brand_id")
)
TASKS = {
    "ctr": TaskSettings(label_actions=("click",), same_request=True, window="1h"),
    "cart": TaskSettings(label_actions=("cart",), after="ctr", window="12h"),
    "cvr": TaskSettings(label_actions=("purchase",), after="ctr", window="12h"),
}


class Seconds(NamedTuple):
    """What a stage took."""

    wall: float
    processor: float
    """of all threads"""


def main() -> None:
    """Simulate, build, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--tasks", default=",".join(TASKS), help="those to label requests for")
    parser.add_argument("--memory-limit", help="DuckDB's, '4GB' say")
    parser.add_argument("--folder", type=Path, help="keep the log there, and use one that is there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "market"
        simulate(folder, arguments.users, arguments.items, arguments.days)
        with tempfile.TemporaryDirectory() as root:
            settings = EngineSettings(memory_limit=arguments.memory_limit)
            print(
                f"SIMULATED log, {arguments.users:,} users, {arguments.items:,} items, tasks "
                f"{arguments.tasks}; {machine()}"
            )
            tasks = {name: TASKS[name] for name in arguments.tasks.split(",")}
            measure(folder / "events", Path(root), arguments.days, tasks, settings)


def simulate(folder: Path, users: int, items: int, days: int) -> None:
    """Write the log, unless it is there. One day more than is built: labels look ahead."""
    sizes = {"users": users, "items": items, "days": days + 1, "first-day": FIRST_DAY}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "jobs.simulate", "--out", str(folder), *options]
    if not (folder / "truth" / "summary.json").exists():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(
    source: Path,
    root: Path,
    num_days: int,
    tasks: dict[str, TaskSettings],
    settings: EngineSettings,
) -> None:
    """Build day after day in one run, and print what each took."""
    seconds = _time_stages()
    last = FIRST_DAY + timedelta(days=num_days - 1)
    made = Preparation(
        root=root,
        source=SourceSettings(path=source),
        features=FEATURES,
        days=DaySettings(
            pretraining=(FIRST_DAY, last - timedelta(days=2)),
            ranking=(FIRST_DAY, last - timedelta(days=2)),
            validation=(last - timedelta(days=1), last - timedelta(days=1)),
            test=(last, last),
        ),
        sequences=SequenceSettings(),
        requests=RequestSettings(candidates="events", actions=("impression",)),
        tasks=tasks,
    )
    # A day a block, as if each were built on its own morning.
    pipeline.day_chain.EVENTS_PER_BLOCK = 1
    start = time.perf_counter()
    report = pipeline.prepare.prepare(made, settings)
    total = time.perf_counter() - start
    num_events = report.num_rows["events"]
    cleaned = seconds["clean"][0].wall / num_events
    print(
        f"{'day':<12}{'events':>12}{'clean s':>9}{'build s':>9}{'cpu s':>9}{'events/s':>12}"
        f"{'with clean':>12}"
    )
    built = days_between(FIRST_DAY, last)
    for day, (taken, processor) in zip(built, seconds["build"], strict=True):
        events = pipeline.prepare.event_manifests(root, [day])[day].num_rows
        both = taken + cleaned * events
        print(
            f"{day!s:<12}{events:>12,}{cleaned * events:>9.2f}{taken:>9.2f}{processor:>9.2f}"
            f"{events / taken:>12,.0f}{events / both:>12,.0f}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    written = sum(path.stat().st_size for path in root.rglob("*.parquet")) / 2**30
    print(
        f"all: {num_events:,} events in {total:.1f} s, {num_events / total:,.0f} a second; peak "
        f"memory {peak:.2f} GiB; {written:.2f} GiB written; {os.cpu_count()} cores"
    )


def _time_stages() -> dict[str, list[Seconds]]:
    """Seconds of cleaning (all days together) and of each block, as they are taken."""
    seconds: dict[str, list[Seconds]] = {"clean": [], "build": []}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            wall, processor = time.perf_counter(), time.process_time()
            result = function(*arguments, **options)
            taken = Seconds(time.perf_counter() - wall, time.process_time() - processor)
            seconds[name].append(taken)
            return result

        return call

    pipeline.prepare.clean_events = timed("clean", pipeline.prepare.clean_events)
    pipeline.prepare.build_block = timed("build", pipeline.prepare.build_block)
    return seconds


if __name__ == "__main__":
    main()
