"""Days that arrive one by one, good and bad, while what runs them is killed.

A loop runs each day until it is settled, as a timer would; `daily_comparison` sets an undisturbed
and a disturbed one side by side.
"""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from random import Random
from typing import Any

from embeddings.manifests import read_export
from jobs.chain.published import folders_in_use, published_now
from jobs.checkpoint_files import problem_of
from tests.integration.daily_market import (
    FAILED,
    PUBLISHED,
    REJECTED,
    TOLD,
    WAITING,
    Market,
    day_number,
    flipped,
    half,
)
from tests.integration.forked_scheduler import Started

__all__ = ["VICTIMS", "Loop"]

VICTIMS = ("driver", "driver", "stage", "rank", "all", "driver by TERM")
"""The last is asked to end, the others are killed: a stage is what its scheduler runs, torchrun's
agent where it has one"""
ENDS_DRIVER = ("driver", "all", "driver by TERM")

MOST_TRIES = 40
# That a full disk still has: too little for a day's data.
ROOM_BYTES = 100_000
# What a driver says of what it finds.
SAID = {
    "found at its scheduler": "jobs found at their scheduler",
    "left by a driver that is gone": "stages left by a driver",
    "still at work there; waiting": "stages still at work, and waited for",
}


class Loop:
    """Runs days until they are settled, kills what runs them, notes what was published."""

    def __init__(self, market: Market, days: Sequence[date], troubles: dict[str, int]) -> None:
        """Troubles: kind -> number of the day, from 0; only what is poisoned is, until told so."""
        self.market, self.days = market, days
        self.poisoned = [day_number(n) for kind, n in troubles.items() if kind == "poisoned"]
        self.troubles: dict[date, str] = {}
        self.kills: Counter[date] = Counter()
        self.random = Random(0)
        self.victims: Sequence[str] = VICTIMS
        self.seconds = 60.0
        self.num_file_events = 1
        self.counts: Counter[str] = Counter()
        self.published: dict[date, Any] = {}
        self.expected: dict[date, Any] = {}
        """what must be, where that is known"""
        self.states: dict[date, str] = {}

    def run(self) -> None:
        for day, next_day in zip(self.days, [*self.days[1:], None], strict=True):
            # Most kills are for the day as it should be, which takes longer.
            kills, self.kills[day] = self.kills[day], min(self.kills[day], 1)
            self._trouble(day)
            self.kills[day] += kills - min(kills, 1)
            self._bring(day)
            started_s = time.monotonic()
            self._until(day, PUBLISHED, REJECTED)
            self.seconds = min(self.seconds, time.monotonic() - started_s)
            if next_day is not None:
                # Those that came too late.
                self.kills[next_day] += self.kills.pop(day, 0)
            self.published[day] = self.market.published()
            assert self.published[day] == self.expected.get(day, self.published[day]), day
            self.states[day] = self.market.state(day)
            if self.states[day] == "rejected":
                self._must_be_told("gate", "rejected", "ctr")

    def _bring(self, day: date) -> None:
        self.market.bring(day)
        if day in self.poisoned:
            self.market.change(day, flipped)

    def _trouble(self, day: date) -> None:
        """What is wrong with a day at first."""
        kind = self.troubles.get(day)
        if kind == "corrupt":
            self._bring(day)
            (path,) = self.market.source(day).glob("*.parquet")
            path.write_bytes(path.read_bytes()[:-100])
            assert "CorruptFileError" in self._until(day, FAILED)
            self._must_be_told("prepare", "failed")
        elif kind == "late":
            for _ in range(2):
                assert "no such day yet" in self._until(day, WAITING)
        elif kind == "half":
            self._bring(day)
            self.market.change(day, half)
            assert "checks.max_rows_change" in self._until(day, REJECTED)
            self._must_be_told("prepare", "rejected")
        elif kind == "disk":
            self._bring(day)
            free = shutil.disk_usage(self.market.root).free
            ballast = self.market.root / "ballast"
            ballast.write_bytes(bytes(free - ROOM_BYTES))
            # The ledger is on that disk, too, so the output alone can say so.
            assert "ShortageError" in self._until(day, FAILED)
            self.counts["disks full"] += 1
            ballast.unlink()

    def _must_be_told(self, stage: str, state: str, task: str = "") -> None:
        """To Prometheus, whose rules alert by it."""
        assert self.market.told("run_state", stage, task) == TOLD[state]

    def _until(self, day: date, *wanted: int) -> str:
        """Run a day until a driver ends by itself, with one of these codes; its output."""
        output = ""
        for _ in range(MOST_TRIES):
            driver, killed = self._run(day)
            code, output = driver.end(self.market.patience_s), driver.output
            for words, what in SAID.items():
                self.counts[what] += output.count(words)
            self._check_what_serves()
            if code in wanted and (code != FAILED or not killed):
                if code == PUBLISHED and not killed:
                    self.num_file_events = max(self.num_file_events, driver.num_file_events)
                return output
            # A stage that was killed twice, or met one that lives on, fails the day.
            assert killed or code == FAILED, output
            self.counts["tries more"] += 1
        raise AssertionError(f"{day} is not settled:\n{output}")

    def _run(self, day: date) -> tuple[Started, bool]:
        """A driver, and whether it or a stage of its was killed."""
        market = self.market
        market.remembers = self.random.random() < 0.5
        if not self.kills[day]:
            return market.start("daily", "--day", str(day), dies=0), False
        at_file = self.random.random() < 0.4
        number = self.random.randint(1, self.num_file_events) if at_file else None
        driver = market.start("daily", "--day", str(day), dies=number)
        is_killed = is_over = False
        while self.kills[day] > 0 and not is_over and self._outlives_a_while(driver):
            victim = self.random.choice(self.victims)
            is_hit = self._strike(victim, driver)
            self._killed(day, f"{victim} at a time", is_hit)
            is_killed, is_over = is_killed or is_hit, victim in ENDS_DRIVER
        if at_file and not is_over and driver.end(market.patience_s) == -signal.SIGKILL:
            self._killed(day, "driver at a file", is_killed := True)
        return driver, is_killed

    def _outlives_a_while(self, driver: Started) -> bool:
        # Rather short: a day that was killed before has less left to be done.
        end_s = time.monotonic() + self.random.random() ** 2 * self.seconds
        while time.monotonic() < end_s and driver.code is None:
            time.sleep(0.01)
        return driver.code is None

    def _strike(self, victim: str, driver: Started) -> bool:
        """Whether anything was there to be killed."""
        stages, ranks = self.market.at_work(driver)
        drivers = [driver.pid] if driver.code is None else []
        if victim in self.market.strikes:
            return self.market.strikes[victim](self.random)
        targets = {
            "driver": drivers,
            "driver by TERM": drivers,
            "stage": self.random.sample(stages, min(1, len(stages))),
            "rank": self.random.sample(ranks, min(1, len(ranks))),
            "all": [*drivers, *stages, *(rank for rank in ranks if self.random.random() < 0.5)],
        }[victim]
        number = signal.SIGTERM if victim.endswith("TERM") else signal.SIGKILL
        return sum(_signal(pid, number) for pid in targets) > 0

    def _killed(self, day: date, what: str, is_killed: bool) -> None:
        if is_killed:
            self.kills[day] -= 1
            self.counts[f"killed: {what}"] += 1

    def _check_what_serves(self) -> None:
        """Whole at any moment."""
        root = self.market.root
        published = published_now(root)
        assert published
        for ranker in published.rankers.values():
            assert problem_of(root / ranker.checkpoint) is None
            assert read_export(root / ranker.export).content_digest == ranker.export_digest
        assert all(folder.is_dir() for folder in folders_in_use(root))


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
