"""Where a ledger's tables are kept: short transactions, one at a time, on SQLite or PostgreSQL.

Both run the same SQL; what differs is here and in `jobs.ledger.postgres`. Each transaction has a
connection of its own, so threads share nothing, and a server may restart in between. Changes wait
for each other, on SQLite by its lock on the file, on PostgreSQL by an advisory lock.

SQLite keeps its rollback journal, since a write-ahead log needs memory shared by all who write,
which a network file system does not have.
"""

import sqlite3
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import LedgerError, ShortageError

__all__ = ["WAIT_S", "Clock", "Database", "SqliteDatabase", "Transaction", "create_tables"]

WAIT_S = 30
"""How long a change waits for others, which take milliseconds each."""

_VERSION = 1
_TABLES = (
    """CREATE TABLE ledger_schema (version BIGINT NOT NULL)""",
    """CREATE TABLE ledger_stages (
        day TEXT NOT NULL, stage TEXT NOT NULL, task TEXT NOT NULL, attempt BIGINT NOT NULL,
        state TEXT NOT NULL CHECK (state IN (
            'submitted', 'running', 'succeeded', 'failed', 'cancelled', 'rejected', 'lost')),
        inputs TEXT NOT NULL, config TEXT NOT NULL, code TEXT NOT NULL, handle TEXT NOT NULL,
        host TEXT NOT NULL, pid BIGINT NOT NULL, epoch BIGINT NOT NULL, error TEXT NOT NULL,
        facts TEXT NOT NULL, started TEXT NOT NULL, ended TEXT NOT NULL,
        PRIMARY KEY (day, stage, task, attempt))""",
    """CREATE UNIQUE INDEX ledger_live ON ledger_stages (day, stage, task)
        WHERE state IN ('submitted', 'running')""",
    """CREATE TABLE ledger_days (
        day TEXT NOT NULL, change BIGINT NOT NULL,
        state TEXT NOT NULL CHECK (state IN (
            'running', 'published', 'rejected', 'failed', 'waiting')),
        note TEXT NOT NULL, who TEXT NOT NULL, at TEXT NOT NULL,
        PRIMARY KEY (day, change))""",
    """CREATE TABLE ledger_leases (
        name TEXT PRIMARY KEY, epoch BIGINT NOT NULL UNIQUE, token TEXT NOT NULL,
        host TEXT NOT NULL, machine TEXT NOT NULL, pid BIGINT NOT NULL, born TEXT NOT NULL,
        since TEXT NOT NULL, expires TEXT NOT NULL)""",
)

# By how SQLite's names of errors start.
_REMEDIES = {
    "SQLITE_BUSY": f"a process kept it locked for over {WAIT_S} s: find and end that one",
    "SQLITE_CANTOPEN": "its folder must exist, and be one that this user may write to",
    "SQLITE_CORRUPT": "it is damaged: bring back a copy, or move it away to begin anew",
    "SQLITE_NOTADB": "it is no ledger: name another file, or move it away",
    "SQLITE_READONLY": "this user must be allowed to write to it and to its folder",
}
_OTHER = "look at its disk, then run the same command again"

Clock = Callable[[], datetime]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction: all of it is kept, or nothing."""

    execute: Callable[..., list[Row]]
    """SQL with ? for each value, then the values -> rows"""
    now: datetime
    """the moment when its turn had come"""

    def insert(self, table: str, columns: Mapping[str, str | int]) -> None:
        """Add a row."""
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        self.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", *columns.values())  # noqa: S608 (names are ours)


class Database(Protocol):
    """What holds the tables."""

    name: str
    """for messages: the file, or the server without the password"""
    catalogue: str
    """SQL that gives a row where a ledger was made"""

    def change(self) -> AbstractContextManager[Transaction]:
        """A transaction that no other change overlaps.

        Raises:
            LedgerError: the database cannot be reached, read or written.
            ShortageError: its disk is full.
        """
        ...

    def look(self) -> AbstractContextManager[Transaction]:
        """A transaction that only reads.

        Raises:
            LedgerError: the database cannot be reached or read.
        """
        ...


def create_tables(database: Database) -> None:
    """Create the tables where there are none; a ledger that is there is only looked at.

    Raises:
        LedgerError: a newer version of this program made it.
    """
    with database.look() as transaction:
        found = _version(transaction, database)
    if not found:
        with database.change() as transaction:
            # Asked again, for another process may have come first.
            found = _version(transaction, database) or _create(transaction)
    if found > _VERSION:
        raise LedgerError(
            f"{database.name}: its tables are of version {found}, made by a newer version of this "
            f"program, which knows {_VERSION}; update the program on this machine"
        )


def _version(transaction: Transaction, database: Database) -> int:
    """Of the tables that are there; 0 if there are none."""
    if not transaction.execute(database.catalogue):
        return 0
    return transaction.execute("SELECT version FROM ledger_schema")[0]["version"]


def _create(transaction: Transaction) -> int:
    for statement in _TABLES:
        transaction.execute(statement)
    transaction.insert("ledger_schema", {"version": _VERSION})
    return _VERSION


class SqliteDatabase:
    """A file. Its time is the machine's: if several share it, their clocks must agree."""

    catalogue = "SELECT name FROM sqlite_master WHERE name = 'ledger_schema'"

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.name = str(path.absolute())
        self._clock = clock or (lambda: datetime.now(UTC))

    def change(self) -> AbstractContextManager[Transaction]:
        """A transaction that no other change overlaps; see `Database`."""
        return self._transaction("BEGIN IMMEDIATE")

    def look(self) -> AbstractContextManager[Transaction]:
        """A transaction that only reads; see `Database`."""
        return self._transaction("BEGIN")

    @contextmanager
    def _transaction(self, begin: str) -> Generator[Transaction]:
        try:
            with closing(self._connect()) as connection:
                connection.execute(begin)
                yield Transaction(partial(_execute, connection), self._clock())
                connection.execute("COMMIT")  # not reached after an error: closing rolls back
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.name, timeout=WAIT_S, isolation_level=None)
        connection.row_factory = sqlite3.Row
        # Some other program may have changed it.
        connection.execute("PRAGMA journal_mode = DELETE")
        # A change that was told as done must outlive a power cut: the folder is synced, too.
        connection.execute("PRAGMA synchronous = EXTRA")
        return connection

    def _explained(self, error: sqlite3.Error) -> LedgerError | ShortageError:
        kind = getattr(error, "sqlite_errorname", "")
        if kind == "SQLITE_FULL":
            return ShortageError(
                f"{self.name}: no space left on its disk; what it held is whole; make space, then "
                "run the same command again"
            )
        remedy = next((text for start, text in _REMEDIES.items() if kind.startswith(start)), _OTHER)
        return LedgerError(f"{self.name}: {error}; {remedy}")


def _execute(connection: sqlite3.Connection, sql: str, *values: str | int) -> list[Row]:
    return [dict(row) for row in connection.execute(sql, values)]
