"""A simulated marketplace whose days arrive one by one, and the daily chain's commands on it."""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.chain.driver import ledger_of
from jobs.ledger.ledger import Ledger
from jobs.monitoring.push import textfile_path
from jobs.settings import JobSettings
from pipeline.settings import load_settings
from tests.integration.forked_scheduler import Server, Started
from tests.integration.processes import children
from tests.jobs.daily_root import FIRST, START, write_config

__all__ = [
    "BEFORE",
    "DAY_AFTER",
    "FAILED",
    "FIRST",
    "HELD",
    "LAST",
    "NUM_READY",
    "PUBLISHED",
    "REJECTED",
    "STAGES",
    "THREE_TASKS",
    "TODAY",
    "TOLD",
    "TOMORROW",
    "WAITING",
    "WHOLE",
    "WRONG",
    "YESTERDAY",
    "Market",
    "day_number",
    "flipped",
    "half",
    "simulate",
]

PUBLISHED, FAILED, WRONG, REJECTED, WAITING, HELD = 0, 1, 2, 3, 4, 75
NUM_READY = 4
TABLES = ("category_id", "brand_id")
# Few brands that decide what is clicked: a model of a few steps is far from chance.
SIMULATION = (
    *("--users", "120", "--items", "100", "--categories", "5", "--topics", "10", "--brands", "6"),
    *("--brand-pull", "2", "--quality-pull", "0", "--popularity-pull", "0", "--click-pull", "0.3"),
    *("--seed", "20", "--click-bias", "-1.5", "--position-bias", "0", "--sessions-per-day", "1.5"),
)
# More users, who buy more, so that each task's labels on a day say something.
THREE_TASKS = (
    *("--users", "300", "--cart-bias", "0", "--direct-bias", "-3", "--conversion-pull", "2"),
    *("--value-pull", "0", "--purchase-after-cart", "0.6"),
    *("--cart-delay-h", "1", "--purchase-delay-h", "4"),
)
OTHER_TASKS = """
[tasks.cart]
label_actions = ["cart"]
after = "ctr"
window = "6h"

[tasks.cvr]
label_actions = ["purchase"]
after = "ctr"
window = "12h"
"""


def day_number(number: int) -> date:
    """From 0, the first day of the chain."""
    return FIRST + timedelta(days=number)


BEFORE, YESTERDAY = (day_number(NUM_READY - number) for number in (2, 1))
TODAY, TOMORROW, DAY_AFTER, LAST = (day_number(NUM_READY + number) for number in range(4))
STAGES = ["prepare", "test", "pretrain", "export", "rank", "gate", "publish"]
WHOLE = [(stage, "succeeded") for stage in STAGES]
TOLD = {"succeeded": 2, "failed": 3, "rejected": 4}


def simulate(folder: Path, num_days: int, *more: str) -> Path:
    """A log of so many days of the chain, and those before it; returns its folder of events.

    Args:
        folder: a new one.
        num_days: of the chain.
        more: options of jobs.simulate, `THREE_TASKS` say.
    """
    total = (FIRST - START).days + num_days
    command = [sys.executable, "-m", "jobs.simulate", "--out", str(folder), "--days", str(total)]
    command += ["--first-day", str(START)]
    subprocess.run([*command, *SIMULATION, *more], check=True, capture_output=True)
    return folder / "events"


class Market:
    """A folder with a config, the days that have arrived, and all that the chain makes of them."""

    patience_s = 120.0
    """how long a command may take"""
    day_s: float | None = None
    """how long a day takes, about, where one that was measured elsewhere says nothing"""
    is_real = False
    """whether daily drivers keep torchx's own schedulers"""
    strikes: Mapping[str, Callable[[Random], bool]] = MappingProxyType({})
    """victims of its own: what strikes one, and says whether there was any"""

    def __init__(
        self,
        folder: Path,
        log: Path,
        server: Server,
        *,
        has_agents: bool = False,
        has_tasks: bool = False,
        overrides: Sequence[str] = (),
    ) -> None:
        """`log`: of `simulate`; `has_agents`: stages run under torchrun; `has_tasks`: three."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log, self.server, self.overrides = folder, log, server, overrides
        self.has_agents = has_agents
        self.remembers = False
        """what the scheduler does, see `ForkedRunner`"""
        self.config = write_config(folder)
        if has_tasks:
            text = self.config.read_text().replace("[ranking]", '[ranking]\ntask = "ctr"')
            # Of a few hundred clicks, not every model tells carts and purchases from chance, and at
            # a higher rate none does: all candidates get the same score, for good.
            text = text.replace("learning_rate = 2e-2", "learning_rate = 5e-3")
            text = text.replace("[daily.gates]", "[daily.gates]\nmin_auc = 0.0")
            self.config.write_text(text + OTHER_TASKS)
        (folder / "metrics").mkdir(exist_ok=True)
        self._num_started = 0

    def settings(self, *overrides: str) -> JobSettings:
        return load_settings(JobSettings, self.config, [*self.overrides, *overrides])

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def ledger(self) -> Ledger:
        return ledger_of(self.settings())

    def source(self, day: date) -> Path:
        """Where a day arrives."""
        return self.folder / "events" / f"day={day}"

    def bring(self, *days: date) -> None:
        """Let days arrive as they were simulated, those before the chain too; anew if there."""
        before = [START + timedelta(days=n) for n in range((FIRST - START).days)]
        missing = [day for day in before if not self.source(day).exists()]
        for day in (*missing, *days):
            shutil.rmtree(self.source(day), ignore_errors=True)
            shutil.copytree(self.log / f"day={day}", self.source(day))

    def start(
        self, verb: str, *arguments: str, dies: int | None = None, real: bool = False
    ) -> Started:
        """Fork a command, which has the config; see `Server.start`."""
        self._num_started += 1
        overrides = [part for override in self.overrides for part in ("--set", override)]
        runner = {"remembers": self.remembers, "has_agents": self.has_agents}
        return self.server.start(
            f"jobs.{verb}",
            ["--config", str(self.config), *overrides, *arguments],
            self.folder / "commands" / f"{self._num_started}-{verb}",
            runner=None if real or self.is_real else runner,
            dies=None if dies is None else (str(self.root), dies),
        )

    def run(self, verb: str, *arguments: str) -> tuple[int, str]:
        """Run a command to its end; exit code and output."""
        started = self.start(verb, *arguments)
        return started.end(self.patience_s), started.output

    def at_work(self, driver: Started) -> tuple[list[int], list[int]]:
        """Processes of stages: those that the scheduler runs, and the ranks of those."""
        stages = [pid for pid in self.server.running() if pid != driver.pid]
        return stages, [rank for stage in stages for rank in children(stage)]

    def daily(self, day: date, *arguments: str) -> tuple[int, str]:
        """`jobs.daily` of a day."""
        return self.run("daily", "--day", str(day), *arguments)

    def published(self) -> dict[str, Any]:
        """What serves, but for when it was published."""
        found = json.loads((self.root / "published" / "current.json").read_text())
        return {name: value for name, value in found.items() if name != "at"}

    def state(self, day: date) -> str:
        """Of a day, as the ledger has it."""
        record = self.ledger.day(day)
        return record.state if record else ""

    def attempts(self, day: date) -> list[tuple[str, str]]:
        """Stage and state of all attempts of a day, in their order."""
        return [(record.key.stage, record.state) for record in self.ledger.records(day, day)]

    def told(self, name: str, stage: str, task: str = "") -> float:
        """A figure as Prometheus would find it."""
        text = textfile_path(self.folder / "metrics", stage, task).read_text()
        (line,) = [line for line in text.splitlines() if line.startswith(f"frostrank_{name}{{")]
        return float(line.split()[-1])

    def change(self, day: date, change: Callable[[pa.Table], pa.Table]) -> None:
        """Rewrite the events of a day that has arrived: table -> table."""
        (path,) = self.source(day).glob("*.parquet")
        pq.write_table(change(pq.read_table(path)), path)


def half(table: pa.Table) -> pa.Table:
    """The events of every other user."""
    return table.filter(pa.array(user % 2 == 0 for user in table["user_id"].to_pylist()))


def flipped(table: pa.Table) -> pa.Table:
    """As many clicks as before, but on what was shown beside what was clicked."""
    rows = table.to_pylist()
    clicked: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["action"] == "click":
            clicked[row["request_id"]].add(row["item_id"])
    others: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        request = row["request_id"]
        if row["action"] == "impression" and row["item_id"] not in clicked[request]:
            others[request].append({name: row[name] for name in ("item_id", *TABLES)})
    for row in rows:
        if row["action"] == "click" and others[row["request_id"]]:
            row.update(others[row["request_id"]].pop())
    return pa.Table.from_pylist(rows, schema=table.schema)
