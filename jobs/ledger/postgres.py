"""A ledger on a PostgreSQL server, for several machines that submit; needs the package psycopg."""

import importlib
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from jobs.ledger.database import WAIT_S, Clock, Row, Transaction
from pipeline.errors import ConfigError, LedgerError, ShortageError

__all__ = ["PostgresDatabase"]

_CONNECT_S = 10
# A look at what is there: each statement sees what was kept when it began.
_LOOK = f"""
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SET LOCAL statement_timeout = '{WAIT_S}s';
    SET LOCAL idle_in_transaction_session_timeout = '{WAIT_S}s'"""
# The number is the ledger's among a database's advisory locks. It is held to the transaction's end,
# which the server brings about if this machine falls silent.
_CHANGE = f"""{_LOOK};
    SET LOCAL synchronous_commit = on;
    SELECT pg_advisory_xact_lock(5201314007)"""


class PostgresDatabase:
    """A database of a server, and its time, so that the clocks of those who submit matter not."""

    catalogue = "SELECT 1 AS found WHERE to_regclass('ledger_schema') IS NOT NULL"

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        """`clock` in place of the server's, for tests.

        Raises:
            ConfigError: psycopg is not installed.
        """
        self.name = _without_secrets(url)
        self._url, self._clock = url, clock
        try:
            self._psycopg: Any = importlib.import_module("psycopg")
        except ImportError as error:
            raise ConfigError(
                f"{self.name}: a ledger on PostgreSQL needs the package psycopg ({error}); "
                "pip install 'psycopg[binary]', or keep the ledger in a file"
            ) from None

    def change(self) -> AbstractContextManager[Transaction]:
        """A transaction that no other change overlaps; see `Database`."""
        return self._transaction(_CHANGE)

    def look(self) -> AbstractContextManager[Transaction]:
        """A transaction that only reads; see `Database`."""
        return self._transaction(_LOOK)

    @contextmanager
    def _transaction(self, prelude: str) -> Generator[Transaction]:
        try:
            # Kept at the end of the block, or rolled back by what leaves it early.
            with self._connect() as connection:
                connection.execute(prelude)
                yield Transaction(partial(_execute, connection), self._now(connection))
        except self._psycopg.errors.DiskFull as error:
            raise ShortageError(
                f"{self.name}: the server's disk is full; what the ledger held is whole; make "
                "space, then run the same command again"
            ) from error
        except self._psycopg.Error as error:
            raise LedgerError(
                f"{self.name}: {str(error).strip()}; see that the server runs and lets this user "
                "create and write tables, then run the same command again"
            ) from error

    def _connect(self) -> Any:
        return self._psycopg.connect(
            self._url,
            connect_timeout=_CONNECT_S,
            # A server that fell silent is given up, too.
            tcp_user_timeout=WAIT_S * 1000,
            row_factory=self._psycopg.rows.dict_row,
        )

    def _now(self, connection: Any) -> datetime:
        if self._clock is not None:
            return self._clock()
        # Not now(), which is when the transaction began to wait for its turn.
        return connection.execute("SELECT clock_timestamp() AS now").fetchone()["now"]


def _execute(connection: Any, sql: str, *values: str | int) -> list[Row]:
    cursor = connection.execute(sql.replace("?", "%s"), values)
    return cursor.fetchall() if cursor.description else []


def _without_secrets(url: str) -> str:
    """Not the password, nor the options, which may hold it."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"
