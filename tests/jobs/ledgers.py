"""What tests of the ledger share: a day's stages, a clock that stands still, a look at the rows."""

import time
from datetime import UTC, date, datetime, timedelta

import pytest

from jobs.ledger.ledger import open_ledger
from jobs.ledger.records import StageKey

DAY = date(2024, 1, 5)
NEXT_DAY = date(2024, 1, 6)
STAGES = ("prepare", "test", "pretrain", "export", "rank", "gate", "publish")
KEY = StageKey(DAY, "rank", "ctr")
FROM = {"inputs": {"events": "d1"}, "config": "c1", "code": "v1"}
START = datetime(2024, 1, 6, 5, tzinfo=UTC)
PATIENCE_S = 60


class FakeClock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now

    def forward(self, seconds):
        self.now += timedelta(seconds=seconds)


class Promises:
    """Base of tests that hold on any database; `url`, a fixture of their module: a new ledger's."""

    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def ledger(self, url, clock):
        return open_ledger(url, clock)


def rows_of(ledger, table):
    with ledger._database.look() as transaction:
        return transaction.execute(f"SELECT * FROM {table}")


def write(ledger, sql, *values):
    """Change a row as no program does."""
    with ledger._database.change() as transaction:
        transaction.execute(sql, *values)


def wait_for(condition, pause_s=0.01):
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "in vain"
        time.sleep(pause_s)
