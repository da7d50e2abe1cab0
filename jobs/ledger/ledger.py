"""The ledger of the daily chain: what ran, on what, with what outcome, and who is at work.

jobs.daily, jobs.backfill, jobs.publish -> Ledger -> jobs.status

A driver takes a lease, then for each stage: `begin`, submit, `set_handle`, `finish`. Killed at any
point it leaves a live attempt behind, which the next driver finds by `live` and adopts, and watches
or finishes as lost, before it begins another. Each change is one transaction: nothing is recorded
by half.
"""

import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs.ledger.database import Clock, Database, SqliteDatabase, Transaction, create_tables
from jobs.ledger.leases import Lease, LeaseHolder, holder_of
from jobs.ledger.postgres import PostgresDatabase
from jobs.ledger.records import (
    LIVE,
    SETTLED,
    DayRecord,
    DayState,
    EndState,
    Record,
    StageKey,
    difference,
)
from jobs.ledger.rows import (
    add_attempt,
    add_day,
    latest_attempt,
    read_attempts,
    read_days,
    rewrite,
    same_attempt,
)
from pipeline.errors import ConfigError, LedgerError

__all__ = ["Ledger", "look_at_ledger", "open_ledger"]


def open_ledger(url: str | Path, clock: Clock | None = None) -> "Ledger":
    """Open a ledger, or make one.

    Args:
        url: a file's path, also as sqlite:////absolute/path, or postgresql://user:pass@host/db.
        clock: in place of the machine's or the server's, for tests.

    Raises:
        ConfigError: a URL of another kind, or psycopg is needed and not installed.
        LedgerError: it cannot be opened, is no ledger, or a newer version made it.
    """
    path = _path_of(str(url))
    if path is None:
        database: Database = PostgresDatabase(str(url), clock)
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"{path}: its folder cannot be made: {error}") from None
        database = SqliteDatabase(path, clock)
    create_tables(database)
    return Ledger(database)


@contextmanager
def look_at_ledger(url: str | Path) -> Generator["Ledger"]:
    """Open a ledger to look at; where there is no file yet, an empty one that is nowhere.

    Raises:
        ConfigError, LedgerError: as `open_ledger`.
    """
    path = _path_of(str(url))
    if path is None or path.exists():
        yield open_ledger(url)
        return
    with TemporaryDirectory(prefix="frostrank-") as folder:
        yield open_ledger(Path(folder) / path.name)


def _path_of(url: str) -> Path | None:
    """The file; None for a PostgreSQL server."""
    scheme = re.match(r"[^/:]*(?=://)", url)
    if scheme and scheme.group() in ("postgresql", "postgres"):
        return None
    path = Path(url.removeprefix("sqlite:///"))
    if not url or (scheme and (scheme.group() != "sqlite" or not path.is_absolute())):
        # Not the URL itself, which may hold a password.
        raise ConfigError(
            f"the ledger's URL{f' {scheme.group()}://...' if scheme else ''}: expected a file's "
            "path, sqlite:////absolute/path or postgresql://user:password@host/database"
        )
    return path


class Ledger:
    """All that is recorded, and the only way to change it. Threads and processes may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def name(self) -> str:
        """The file, or the server without the password."""
        return self._database.name

    def lease(self, name: str, seconds: float = 60) -> Lease:
        """For `with`: have `name` ("day=2024-01-05", say) to oneself; see `jobs.ledger.leases`."""
        return Lease(self._database, name, seconds)

    def holder(self, name: str) -> LeaseHolder | None:
        """Who holds the lease of `name`; None if nobody does."""
        with self._database.look() as transaction:
            return holder_of(transaction, name)

    def begin(
        self,
        key: StageKey,
        *,
        inputs: Mapping[str, str],
        config: str,
        code: str,
        lease: Lease | None = None,
    ) -> Record:
        """Record the next attempt, before it is submitted.

        Args:
            key: what is to be done.
            inputs: name of what it reads -> digest.
            config: digest of its settings.
            code: version of the code.
            lease: under which to do it.

        Raises:
            LedgerError: an attempt at it is live.
            LeaseLostError: another process has taken the lease over.
        """
        with self._database.change() as transaction:
            if lease is not None:
                lease.renew(transaction)
            before = latest_attempt(transaction, key)
            if before is not None and before.is_live:
                raise LedgerError(
                    f"{self.name}: {before.standing}, watched by {before.driver}; wait for its "
                    "end, or if the scheduler has it no more, record it as lost"
                )
            record = Record(
                key=key,
                attempt=before.attempt + 1 if before else 1,
                inputs=inputs,
                config=config,
                code=code,
                host=os.uname().nodename,
                pid=os.getpid(),
                epoch=lease.epoch if lease else 0,
                facts={},
                started=transaction.now,
            )
            return add_attempt(transaction, record)

    def set_handle(self, record: Record, handle: str) -> Record:
        """Record that the scheduler has it, and under which name.

        Raises:
            LedgerError: it has ended, has another handle, or another driver watches over it now.
        """
        with self._database.change() as transaction:
            now = self._check_ours(transaction, record)
            if now.handle not in ("", handle):
                raise LedgerError(
                    f"{self.name}: {now.standing}, so it cannot be {handle}, too; cancel one of "
                    "the two"
                )
            return rewrite(transaction, replace(now, state="running", handle=handle))

    def finish(
        self,
        record: Record,
        state: EndState,
        *,
        error: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> Record:
        """Record how it ended, and what it measured.

        Raises:
            LedgerError: it has ended before, or another driver watches over it now.
        """
        with self._database.change() as transaction:
            now = self._check_ours(transaction, record)
            ended = replace(now, state=state, error=error, facts=facts or {}, ended=transaction.now)
            return rewrite(transaction, ended)

    def adopt(self, record: Record, lease: Lease) -> Record:
        """Watch over a live attempt that another driver, now gone, began.

        Raises:
            LedgerError: it has ended, or somebody else has adopted it.
            LeaseLostError: another process has taken the lease over.
        """
        with self._database.change() as transaction:
            lease.renew(transaction)
            now = self._check_ours(transaction, record)
            host, pid = os.uname().nodename, os.getpid()
            return rewrite(transaction, replace(now, host=host, pid=pid, epoch=lease.epoch))

    def latest(self, key: StageKey, *, begun_by: datetime | None = None) -> Record | None:
        """The newest attempt, or the newest of those that had begun by a moment."""
        with self._database.look() as transaction:
            return latest_attempt(transaction, key, begun_by)

    def difference(
        self, key: StageKey, *, inputs: Mapping[str, str], config: str, code: str
    ) -> str:
        """Why it is to be done, in words; empty if the newest attempt did just that.

        An older attempt that did does not count: the newest may have replaced what it made.
        """
        return difference(self.latest(key), inputs, config, code)

    def succeeded_with(
        self, key: StageKey, *, inputs: Mapping[str, str], config: str, code: str
    ) -> Record | None:
        """The newest attempt, if it did just that: then there is nothing to be done."""
        record = self.latest(key)
        return None if difference(record, inputs, config, code) else record

    def live(self) -> list[Record]:
        """Attempts that may still be at work, oldest first."""
        with self._database.look() as transaction:
            return read_attempts(transaction, "state IN (?, ?) ORDER BY started", *LIVE)

    def records(self, first: date, last: date) -> list[Record]:
        """All attempts of a range of days, its ends included, by day and start."""
        with self._database.look() as transaction:
            where = "day >= ? AND day <= ? ORDER BY day, started, stage, task, attempt"
            return read_attempts(transaction, where, first.isoformat(), last.isoformat())

    def set_day(
        self, day: date, state: DayState, note: str = "", *, lease: Lease | None = None
    ) -> DayRecord:
        """Record what became of a day; what was recorded before is kept, too.

        Raises:
            LeaseLostError: another process has taken the lease over.
        """
        with self._database.change() as transaction:
            if lease is not None:
                lease.renew(transaction)
            return add_day(transaction, day, state, note)

    def day(self, day: date) -> DayRecord | None:
        """What became of a day; None if nothing was ever recorded."""
        return next(iter(self.days(day, day)), None)

    def settled(self, day: date) -> DayRecord | None:
        """How a day was last settled, also where it was run again since; None if it never was."""
        with self._database.look() as transaction:
            return next(iter(read_days(transaction, day, day, SETTLED)), None)

    def days(self, first: date, last: date) -> list[DayRecord]:
        """What became of each day of a range, its ends included, that anything is recorded of."""
        with self._database.look() as transaction:
            return read_days(transaction, first, last)

    def _check_ours(self, transaction: Transaction, record: Record) -> Record:
        """The attempt as it stands; it must be live, and this driver's."""
        now = same_attempt(transaction, record)
        if now is None:
            raise LedgerError(f"{self.name}: holds no attempt {record.attempt} at {record.key}")
        if not now.is_live:
            raise LedgerError(f"{self.name}: {now.standing}; begin another attempt")
        if now.epoch != record.epoch:
            raise LedgerError(
                f"{self.name}: {now.standing}, and {now.driver} watches over it now; leave it be"
            )
        return now
