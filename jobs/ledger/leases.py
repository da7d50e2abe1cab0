"""Leases: one process at a time at work on a day or a chain, and a way to notice that it is gone.

A holder renews its lease from a thread, every third of its length. One that is killed or cut off
stops renewing, and when the lease has run out another process may take it over. On the same machine
a holder whose process is gone is replaced at once. Each taking gets a new epoch, higher than all
before in this ledger. Whoever was only slow finds its lease lost at its next change or check.

Leases trust one clock: PostgreSQL's, or for a SQLite file that of the machine, which several
machines must keep within seconds of each other. A clock that jumps ahead can cost a live holder its
lease, which it then notices as said.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from jobs.ledger.database import Database, Row, Transaction
from jobs.ledger.records import moment_text
from pipeline.errors import FrostrankError, LeaseHeldError, LeaseLostError

__all__ = ["Lease", "LeaseHolder", "holder_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHolder:
    """Who holds a lease, for whoever asks who is at work."""

    host: str
    pid: int
    epoch: int
    """of its lease: that of the attempts that it watches over"""
    since: datetime


@dataclass(frozen=True, slots=True)
class _Holder:
    """A process, so that another on the same machine can tell whether it is gone."""

    host: str
    machine: str
    """one boot of one machine, and there the name space of process numbers (of a container)"""
    pid: int
    born: str
    """clock ticks from the boot to the start of the process: numbers are used again"""

    @classmethod
    def this(cls) -> "_Holder":
        return cls(os.uname().nodename, _machine(), os.getpid(), _born(os.getpid()) or "")

    @property
    def is_gone(self) -> bool:
        """Whether it has surely ended; of another machine nobody can say."""
        return self.machine == _machine() and _born(self.pid) not in (self.born, None)


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _born(pid: int) -> str | None:
    """When the process started; empty if there is none that runs, None if that is hidden."""
    try:
        # Past the name in brackets, which may hold anything: the state, and 19 further the start.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if _is_hidden(pid) else ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def _is_hidden(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Lease:
    """A name that one process holds, inside `with`; see `Ledger.lease`."""

    def __init__(self, database: Database, name: str, seconds: float) -> None:
        self.name = name
        self.epoch = 0
        self._database = database
        self._length = timedelta(seconds=seconds)
        self._token = secrets.token_hex(16)
        self._is_over = Event()
        self._thread = Thread(target=self._keep, name=f"lease of {name}", daemon=True)

    def __enter__(self) -> Self:
        """Take it.

        Raises:
            LeaseHeldError: another process has it, or this one already.
        """
        with self._database.change() as transaction:
            self._check_free(transaction)
            self._take(transaction)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()
        # What went wrong inside matters more than what goes wrong here: the lease runs out anyway.
        with suppress(FrostrankError) if error else nullcontext():
            self._give_back()

    def check(self) -> None:
        """Renew the lease; call it before what must not be done twice.

        Raises:
            LeaseLostError: another process has taken it over.
        """
        with self._database.change() as transaction:
            self.renew(transaction)

    def renew(self, transaction: Transaction) -> None:
        """Renew the lease in a transaction, which then is one of its holder or fails.

        Raises:
            LeaseLostError: another process has taken it over, or it was given back.
        """
        row = _row(transaction, self.name)
        if row is None or row["token"] != self._token:
            raise LeaseLostError(
                f"{self._database.name}: the lease of {self.name} is lost{_by(row, ', taken over')}"
                "; end this process: whoever holds it goes on with what is there"
            )
        self._write(transaction, {**row, "expires": moment_text(transaction.now + self._length)})

    def _check_free(self, transaction: Transaction) -> None:
        row = _row(transaction, self.name)
        if row is None or not _is_held(transaction, row):
            return
        raise LeaseHeldError(
            f"{self._database.name}: {self.name} is held{_by(row)} until "
            f"{_clock_time(row['expires'])}, unless it is renewed; wait for that process or end "
            "it, which frees it at once on the same machine, elsewhere when it has run out"
        )

    def _take(self, transaction: Transaction) -> None:
        # Rows stay when a lease is given back, so the highest epoch is never forgotten.
        highest = transaction.execute("SELECT max(epoch) AS epoch FROM ledger_leases")[0]["epoch"]
        self.epoch = (highest or 0) + 1
        row = {"name": self.name, "epoch": self.epoch, "token": self._token}
        expires = moment_text(transaction.now + self._length)
        times = {"since": moment_text(transaction.now), "expires": expires}
        self._write(transaction, {**row, **asdict(_Holder.this()), **times})

    def _write(self, transaction: Transaction, row: Row) -> None:
        transaction.execute("DELETE FROM ledger_leases WHERE name = ?", self.name)
        transaction.insert("ledger_leases", row)

    def _keep(self) -> None:
        while not self._is_over.wait(self._length.total_seconds() / 3):
            try:
                self.check()
            except LeaseLostError:
                return
            except FrostrankError:
                continue  # the database is out of reach; the holder's next change says so

    def _give_back(self) -> None:
        with self._database.change() as transaction:
            transaction.execute(
                "UPDATE ledger_leases SET token = '' WHERE name = ? AND token = ?",
                self.name,
                self._token,
            )


def holder_of(transaction: Transaction, name: str) -> LeaseHolder | None:
    """Who holds it; None if nobody does, or it has run out, or its holder is gone."""
    row = _row(transaction, name)
    if row is None or not _is_held(transaction, row):
        return None
    since = datetime.fromisoformat(row["since"])
    return LeaseHolder(host=row["host"], pid=row["pid"], epoch=row["epoch"], since=since)


def _is_held(transaction: Transaction, row: Row) -> bool:
    if not row["token"] or row["expires"] <= moment_text(transaction.now):
        return False
    return not _Holder(row["host"], row["machine"], row["pid"], row["born"]).is_gone


def _row(transaction: Transaction, name: str) -> Row | None:
    rows = transaction.execute("SELECT * FROM ledger_leases WHERE name = ?", name)
    return rows[0] if rows else None


def _by(row: Mapping[str, Any] | None, verb: str = "") -> str:
    if row is None or not row["token"]:
        return ""
    return f"{verb} by process {row['pid']} on {row['host']}, since {_clock_time(row['since'])}"


def _clock_time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"
