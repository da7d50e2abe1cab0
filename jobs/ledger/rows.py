"""Attempts and days as rows of the ledger's tables: read, added and replaced in a transaction."""

import os
import pwd
from collections.abc import Sequence
from datetime import date, datetime

from jobs.ledger.database import Transaction
from jobs.ledger.records import DayRecord, DayState, Record, StageKey, moment_text

__all__ = [
    "add_attempt",
    "add_day",
    "latest_attempt",
    "read_attempts",
    "read_days",
    "rewrite",
    "same_attempt",
]

_OF_KEY = "day = ? AND stage = ? AND task = ?"
_OF_ATTEMPT = f"{_OF_KEY} AND attempt = ?"


def read_attempts(transaction: Transaction, where: str, *values: str | int) -> list[Record]:
    """Those for which an SQL condition holds; it may end in ORDER BY."""
    sql = f"SELECT * FROM ledger_stages WHERE {where}"  # noqa: S608 (conditions are ours)
    return [Record.of(row) for row in transaction.execute(sql, *values)]


def latest_attempt(
    transaction: Transaction, key: StageKey, begun_by: datetime | None = None
) -> Record | None:
    """The newest, or the newest of those that had begun by a moment."""
    begun = (moment_text(begun_by),) if begun_by else ()
    where = f"{_OF_KEY}{' AND started <= ?' if begun else ''} ORDER BY attempt DESC LIMIT 1"
    return next(iter(read_attempts(transaction, where, *key.columns, *begun)), None)


def same_attempt(transaction: Transaction, record: Record) -> Record | None:
    """The attempt as it stands now."""
    values = (*record.key.columns, record.attempt)
    return next(iter(read_attempts(transaction, _OF_ATTEMPT, *values)), None)


def add_attempt(transaction: Transaction, record: Record) -> Record:
    """Add one; returns it as recorded."""
    transaction.insert("ledger_stages", record.columns)
    return Record.of(record.columns)


def rewrite(transaction: Transaction, record: Record) -> Record:
    """Put it in the place of what is recorded of that attempt; returns it as recorded."""
    sql = f"DELETE FROM ledger_stages WHERE {_OF_ATTEMPT}"  # noqa: S608 (the condition is ours)
    transaction.execute(sql, *record.key.columns, record.attempt)
    return add_attempt(transaction, record)


def read_days(
    transaction: Transaction, first: date, last: date, states: Sequence[DayState] = ()
) -> list[DayRecord]:
    """The newest change, or the newest to one of `states`, of each day of the range."""
    marks = f" AND state IN ({', '.join('?' * len(states))})" if states else ""
    sql = (
        "SELECT * FROM ledger_days AS one WHERE day >= ? AND day <= ? AND change = "  # noqa: S608
        f"(SELECT max(change) FROM ledger_days WHERE day = one.day{marks}) ORDER BY day"
    )
    return [
        DayRecord.of(row)
        for row in transaction.execute(sql, first.isoformat(), last.isoformat(), *states)
    ]


def add_day(transaction: Transaction, day: date, state: DayState, note: str) -> DayRecord:
    """A change of a day's state, by this user and process."""
    before = read_days(transaction, day, day)
    record = DayRecord(
        day=day,
        change=before[0].change + 1 if before else 1,
        state=state,
        note=note,
        who=_who(),
        at=transaction.now,
    )
    transaction.insert("ledger_days", record.columns)
    return DayRecord.of(record.columns)


def _who() -> str:
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:  # in a container, say
        name = f"user {user}"
    return f"{name}, process {os.getpid()} on {os.uname().nodename}"
