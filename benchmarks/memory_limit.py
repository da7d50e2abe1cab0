"""Whether `prepare` stays within `engine.memory_limit` on a day whose output is larger than it.

    python -m benchmarks.memory_limit --limit 500MB --requests 800000

generates clicks of one day and impressions of the next, so that every request has a history of 100
events, and prepares them in a process of its own. It prints the bytes of the requests (as Arrow
holds them), the limit, the peak of the process's resident memory, the same with next to no events
(that is Python and what it imports), and the time.

The data is simulated: drawn uniformly from a seed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.partitions import day_folder, file_paths, read_manifest

FIRST, SECOND = date(2024, 1, 1), date(2024, 1, 2)
DAY_US = 86_400_000_000
HISTORY = 100
CANDIDATES = 2
NUM_ITEMS = 50_000
CONFIG = """
[data]
root = "{folder}/root"

[source]
path = "{folder}/events"
missing_days = "allow"

[engine]
memory_limit = "{limit}"
threads = {threads}

[[features]]
name = "item_id"
dtype = "int64"

[[features]]
name = "category_id"
dtype = "int64"

[days]
pretraining = ["2024-01-01", "2024-01-01"]
ranking = ["2024-01-02", "2024-01-02"]
validation = ["2024-01-03", "2024-01-03"]
test = ["2024-01-04", "2024-01-04"]

[requests]
candidates = "events"
actions = ["impression"]
max_history = 100

[tasks.ctr]
label_actions = ["click"]
same_request = true
window = "1h"

[pretraining]
architecture = "L1H16A2"

[ranking]
architecture = "L1H16A2"
transfer_tables = ["item_id", "category_id"]
"""

Int64Array = NDArray[np.int64]


class Figures(NamedTuple):
    """What one measurement found."""

    num_rows: int
    num_bytes: int
    """of the requests, as Arrow holds them"""
    seconds: float
    idle_bytes: int
    """peak of resident memory with next to no events"""
    peak_bytes: int
    """the same with all events"""


def write_day(folder: Path, day: date, events: dict[str, pa.Array]) -> None:
    """Write FOLDER/events/day=D; all events have their time, user and item."""
    target = folder / "events" / f"day={day}"
    target.mkdir(parents=True)
    table = pa.table(events)
    table = table.append_column("category_id", pa.array(events["item_id"].to_numpy() % 1000))
    pq.write_table(table, target / "part-0.parquet")


def times(random: np.random.Generator, day: date, num_events: int) -> Int64Array:
    """Microseconds since 1970, within the day but for its last hour, in order."""
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
    return np.sort(start + random.integers(0, DAY_US * 23 // 24, num_events))


def columns(
    users: Int64Array, items: Int64Array, at_us: Int64Array, action: str
) -> dict[str, pa.Array]:
    """Events of one action."""
    return {
        "user_id": pa.array(users).cast(pa.string()),
        "item_id": pa.array(items),
        "event_time": pa.array(at_us).cast(pa.timestamp("us", tz="UTC")),
        "action": pa.repeat(action, len(users)),
    }


def write_log(folder: Path, num_requests: int, num_users: int) -> None:
    """Clicks that fill every user's history on one day, impressions on the next."""
    random = np.random.default_rng(0)
    users = random.permutation(np.repeat(np.arange(num_users), HISTORY))
    items = random.integers(0, NUM_ITEMS, len(users))
    write_day(folder, FIRST, columns(users, items, times(random, FIRST, len(users)), "click"))
    users = np.repeat(random.integers(0, num_users, num_requests), CANDIDATES)
    at_us = np.repeat(times(random, SECOND, num_requests), CANDIDATES)
    items = random.integers(0, NUM_ITEMS, len(users))
    shown = columns(users, items, at_us, "impression")
    numbers = pa.array(np.repeat(np.arange(num_requests), CANDIDATES))
    write_day(folder, SECOND, shown | {"request_id": numbers.cast(pa.string())})


def write_config(folder: Path, limit: str, num_threads: int) -> Path:
    """Write FOLDER/config.toml."""
    path = folder / "config.toml"
    path.write_text(CONFIG.format(folder=folder, limit=limit, threads=num_threads))
    return path


def prepare(config: Path) -> tuple[float, int]:
    """Run the verb to its end: seconds, and the peak of its resident memory in bytes."""
    arguments = [sys.executable, "-m", "jobs.prepare", "--config", str(config)]
    started = time.monotonic()
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {process.returncode}")
    return time.monotonic() - started, usage.ru_maxrss * 1024


def output_bytes(root: Path) -> tuple[int, int]:
    """Of the second day's requests: rows, and bytes in Arrow's own form."""
    folder = day_folder(root, "requests", SECOND)
    num_rows = num_bytes = 0
    for path in file_paths(folder, read_manifest(folder)):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                num_rows += batch.num_rows
                num_bytes += batch.get_total_buffer_size()
    return num_rows, num_bytes


def measure(
    folder: Path, limit: str, num_requests: int, num_users: int, num_threads: int
) -> Figures:
    """Prepare next to nothing, then the day, both under FOLDER and within the limit."""
    peaks: list[int] = []
    seconds = 0.0
    sizes = {"small": (10, 2), "large": (num_requests, num_users)}
    for name, (requests, users) in sizes.items():
        write_log(folder / name, requests, users)
        config = write_config(folder / name, limit, num_threads)
        seconds, peak_bytes = prepare(config)
        peaks.append(peak_bytes)
    num_rows, num_bytes = output_bytes(folder / "large/root")
    return Figures(num_rows, num_bytes, seconds, *peaks)


def main() -> None:
    """Write, prepare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", default="500MB", help="engine.memory_limit")
    parser.add_argument("--requests", type=int, default=800_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2, help="engine.threads")
    parser.add_argument("--folder", type=Path, help="where to work; else a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        found = measure(Path(made), given.limit, given.requests, given.users, given.threads)
    print(
        f"{found.num_rows:,} requests of simulated events, {found.num_bytes / 1e6:,.0f} MB as Arrow"
    )
    print(f"engine.memory_limit {given.limit}, {given.threads} threads")
    print(
        f"peak resident {found.peak_bytes / 1e6:,.0f} MB; "
        f"{found.idle_bytes / 1e6:,.0f} MB with next to no events"
    )
    print(f"{found.seconds:,.0f} s")


if __name__ == "__main__":
    main()
