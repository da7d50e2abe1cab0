"""Drivers that race for the ledger, and drivers that are killed at any moment.

    python -m tests.integration.test_ledger_processes URL NUM_KILLS [SEED]

does the latter as often as one likes.
"""

import random
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from jobs.ledger.ledger import open_ledger
from jobs.ledger.records import LIVE
from tests.jobs.ledgers import DAY, Promises

ROOT = Path(__file__).parents[2]
ORDER = ("submitted", "running", "succeeded")

pytestmark = pytest.mark.integration


@pytest.fixture
def url(tmp_path):
    return tmp_path / "ledger.sqlite"


class Driver:
    """A process of tests/jobs/ledger_drivers.py."""

    def __init__(self, verb, url, *arguments):
        line = [sys.executable, "-m", "tests.jobs.ledger_drivers", verb, str(url)]
        self.process = subprocess.Popen(
            [*line, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )

    def first_word(self):
        """Wait until it says something; empty if it ended."""
        return self.process.stdout.readline().rstrip()

    def said(self):
        """What it says up to its end, line by line."""
        with self.process.stdout:
            return self.process.stdout.read().splitlines()

    @property
    def ended_well(self):
        return self.process.wait() == 0


class ProcessPromises(Promises):
    def test_of_those_who_begin_at_once_one_does(self, ledger, url, tmp_path):
        racers = [Driver("race", url, tmp_path, 3, 20) for _ in range(3)]
        began = [line for racer in racers for line in racer.said()]
        assert all(racer.ended_well for racer in racers)
        assert sorted(began) == sorted(f"began {number}" for number in range(20))

    def test_of_those_who_want_the_lease_one_has_it(self, ledger, url, tmp_path):
        drivers = [Driver("contend", url, tmp_path, 8) for _ in range(3)]
        epochs = [line for driver in drivers for line in driver.said()]
        assert all(driver.ended_well for driver in drivers)
        in_order = (tmp_path / "epochs").read_text().split()
        assert in_order == [str(epoch) for epoch in range(1, 25)]
        assert sorted(epochs) == sorted(in_order)

    def test_whenever_a_driver_is_killed_all_it_was_told_is_there(self, ledger, url):
        kill_drivers(url, 6, seed=5)


class TestOnSqlite(ProcessPromises):
    """All of the above."""


def kill_drivers(url, num_kills, seed):
    """Each next one takes the lease at once, though the one before had it for an hour."""
    chance = random.Random(seed)
    zombie = None
    for _ in range(num_kills):
        driver = Driver("loop", url)
        told = [driver.first_word()]
        assert told != [""], "it was not let in"
        if zombie:
            zombie.process.wait()
        time.sleep(chance.uniform(0, 0.1))
        driver.process.kill()
        told += driver.said()
        check_whole(url, told)
        zombie = driver
    zombie.process.wait()


def check_whole(url, told):
    """What was told is there or has gone on since, and there is nothing that cannot be."""
    ledger = open_ledger(url)
    attempts = defaultdict(list)
    for record in ledger.records(DAY, DAY):
        attempts[record.key.stage].append(record)
    for records in attempts.values():
        assert [record.attempt for record in records] == list(range(1, len(records) + 1))
        assert not any(record.state in LIVE for record in records[:-1])
    assert len(ledger.live()) <= 1
    for line in told:
        what, number, *state = line.split()
        if what == "day":
            assert ledger.day(DAY).change >= int(number)
        else:
            assert is_so(attempts[what][int(number) - 1], *state)
    if isinstance(url, Path):
        with closing(sqlite3.connect(url)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def is_so(record, state):
    if state not in ORDER or record.state not in ORDER:
        return state == record.state
    return ORDER.index(record.state) >= ORDER.index(state)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    where = arguments[0] if "://" in arguments[0] else Path(arguments[0])
    kill_drivers(where, int(arguments[1]), int((*arguments, 0)[2]))
    print(f"{arguments[1]} drivers killed, all that they were told was there")
