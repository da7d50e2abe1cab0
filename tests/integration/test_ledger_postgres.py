"""The ledger's promises on a real PostgreSQL server, which the tests start on a free local port.

They skip themselves without the server's programs (Debian: postgresql) or the package psycopg.
"""

import itertools
import os
import re
import shutil
import socket
import subprocess
import tempfile
from datetime import UTC
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import pytest

from jobs.ledger import postgres
from jobs.ledger.ledger import open_ledger
from pipeline.errors import LeaseHeldError, LeaseLostError, LedgerError
from tests.integration.test_ledger_processes import Driver, ProcessPromises, check_whole
from tests.jobs.ledgers import FROM, KEY, rows_of, wait_for, write
from tests.jobs.test_ledger import RecordPromises
from tests.jobs.test_ledger_leases import LeasePromises

psycopg = pytest.importorskip("psycopg", reason="needs psycopg: pip install 'psycopg[binary]'")

pytestmark = pytest.mark.integration

PASSWORD = "p/a:s@s"


class Server:
    """One server for all tests; each has a schema of its own."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._data, self._log = folder / "data", folder / "log"
        self._programs = programs
        # The server's programs refuse to run as root.
        self._user = "postgres" if os.getuid() == 0 else None
        self._numbers = itertools.count()
        password = folder / "password"
        password.write_text(PASSWORD)
        if self._user:
            for path in (folder, password):
                shutil.chown(path, self._user)
        arguments = ["--username=ledger", f"--pwfile={password}", "--auth=scram-sha-256"]
        self._run("initdb", *arguments, "--no-sync", "--encoding=UTF8", "--locale=C")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, "-D", self._data, *arguments]
        with self._log.with_suffix(f".{program}").open("a") as output:
            subprocess.run(
                command, user=self._user, stdout=output, stderr=output, cwd="/", check=True
            )

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self._run("pg_ctl", "-w", "-l", str(self._data / "log"), "-o", options, "start")

    def stop(self, mode: str) -> None:
        """`mode`: fast, or immediate, which is as a crash."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def new_url(self) -> str:
        """Of a ledger that is not there yet."""
        plain = f"postgresql://ledger:{quote(PASSWORD, safe='')}@127.0.0.1:{self._port}/postgres"
        schema = f"ledger_{next(self._numbers)}"
        with psycopg.connect(plain) as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
        return f"{plain}?options={quote(f'-csearch_path={schema}')}"


def programs_folder() -> Path:
    """Debian keeps them off the path."""
    found = shutil.which("initdb") or max(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=""
    )
    if not found:
        pytest.skip("needs PostgreSQL's own programs: apt-get install postgresql")
    return Path(found).resolve().parent


@pytest.fixture(scope="module")
def server():
    programs = programs_folder()
    # pytest's own folders let no other user in.
    folder = Path(tempfile.mkdtemp(prefix="frostrank-ledger-"))
    try:
        server = Server(folder, programs)
        server.start()
        try:
            yield server
        finally:
            server.stop("fast")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def url(server):
    return server.new_url()


class TestRecords(RecordPromises):
    """As on SQLite."""


class TestLeases(LeasePromises):
    """As on SQLite."""


class TestProcesses(ProcessPromises):
    """As on SQLite."""


def test_the_time_is_the_servers(url):
    ledger = open_ledger(url)

    def server_time():
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT clock_timestamp()").fetchone()[0]

    before = server_time()
    record = ledger.begin(KEY, **FROM)
    assert before <= record.started <= server_time()
    assert record.started.tzinfo == UTC


def test_the_time_is_that_after_the_wait_for_others(url):
    ledger = open_ledger(url)
    begun = []
    with ledger._database.change() as transaction:
        waiting = Thread(target=lambda: begun.append(ledger.begin(KEY, **FROM)))
        waiting.start()
        wait_for(lambda: is_anyone_waiting(url))
        while_waiting = transaction.execute("SELECT clock_timestamp() AS now")[0]["now"]
    waiting.join()
    assert begun[0].started > while_waiting


def is_anyone_waiting(url):
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with psycopg.connect(url) as connection:
        return connection.execute(waiting).fetchone()[0]


def test_names_and_errors_keep_the_password(url):
    name = open_ledger(url).name
    assert name.startswith("postgresql://ledger@127.0.0.1:")
    assert name.endswith("/postgres")
    wrong = url.replace(quote(PASSWORD, safe=""), "wrong-one")
    with pytest.raises(LedgerError, match="password authentication failed") as error:
        open_ledger(wrong)
    assert "wrong-one" not in str(error.value)


def test_a_change_that_never_ends_does_not_stop_the_others(url, monkeypatch):
    """A machine fell silent in the middle of a change: the server ends it."""
    ledger = open_ledger(url)
    soon = re.sub(r"(session_timeout) = '\d+s'", r"\1 = '50ms'", postgres._CHANGE)
    monkeypatch.setattr(postgres, "_CHANGE", soon)

    def never_end():
        with ledger._database.change() as transaction:
            monkeypatch.undo()
            transaction.insert("ledger_schema", {"version": 7})
            ledger.begin(KEY, **FROM)
            transaction.execute("SELECT 1")

    with pytest.raises(LedgerError, match="idle-in-transaction timeout"):
        never_end()
    assert [row["version"] for row in rows_of(ledger, "ledger_schema")] == [1]
    assert [record.attempt for record in ledger.live()] == [1]


def test_after_a_crash_of_the_server_all_that_was_told_is_there(server, url):
    driver = Driver("loop", url)
    told = [driver.first_word()]
    server.stop("immediate")
    try:
        told += driver.said()
        assert not driver.ended_well
        with pytest.raises(LedgerError, match="see that the server runs"):
            open_ledger(url)
    finally:
        server.start()
    check_whole(url, told)


def test_whether_a_lease_has_run_out_the_servers_clock_says(url):
    ledger = open_ledger(url)
    with ledger.lease("chain", 3600) as lease:
        write(ledger, "UPDATE ledger_leases SET machine = 'another'")
        with pytest.raises(LeaseHeldError), ledger.lease("chain"):
            pass
        write(ledger, "UPDATE ledger_leases SET expires = since")
        with ledger.lease("chain"), pytest.raises(LeaseLostError):
            lease.check()
