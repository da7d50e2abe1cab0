"""Which database a URL names, and what is SQLite's alone."""

import sqlite3
import sys
from contextlib import closing

import pytest

from jobs.ledger import database
from jobs.ledger.ledger import open_ledger
from pipeline.errors import ConfigError, LedgerError, ShortageError
from tests.disk import small_disk_on
from tests.jobs.ledgers import FROM, KEY


@pytest.fixture
def url(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(url):
    return open_ledger(url)


@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
def test_a_ledger_is_a_file(tmp_path, prefix):
    path = tmp_path / "made" / "for it.sqlite"
    assert open_ledger(f"{prefix}{path}").name == str(path)
    assert path.is_file()


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///a/b", "mysql://user:secret@host/db", "Postgresql://a/b"]
)
def test_another_kind_of_url_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="expected a file's path, sqlite:") as error:
        open_ledger(url)
    assert "secret" not in str(error.value)


def test_a_server_needs_psycopg(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    needs = r"postgresql://me@host:5432/db: .* needs the package psycopg .* pip install"
    with pytest.raises(ConfigError, match=needs) as error:
        open_ledger("postgresql://me:secret@host:5432/db?password=secret")
    assert "secret" not in str(error.value)


def test_another_file_is_no_ledger(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_text("day,stage\n" * 1000)
    with pytest.raises(
        LedgerError, match=r"ledger\.sqlite: .*; it is no ledger: name another file"
    ):
        open_ledger(path)
    with pytest.raises(LedgerError, match="its folder cannot be made"):
        open_ledger(path / "below.sqlite")
    with pytest.raises(LedgerError, match="its folder must exist, and be one"):
        open_ledger(tmp_path)


def test_a_file_that_stays_locked_is_told(ledger, url, monkeypatch):
    monkeypatch.setattr(database, "WAIT_S", 0.01)
    with closing(sqlite3.connect(url, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="database is locked; a process kept it locked"):
            ledger.begin(KEY, **FROM)
    assert ledger.begin(KEY, **FROM).attempt == 1


def test_every_commit_is_synced_and_needs_no_shared_memory(ledger, url):
    with closing(sqlite3.connect(url)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    with closing(ledger._database._connect()) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 3


def test_a_full_disk_is_told_and_harms_nothing(tmp_path):
    with small_disk_on(tmp_path) as resize:
        resize("256k")
        ledger = open_ledger(tmp_path / "ledger.sqlite")
        first = ledger.begin(KEY, **FROM)
        filler = tmp_path / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(b"0" * 2**18)
        with pytest.raises(ShortageError, match=r"ledger\.sqlite: no space left on its disk"):
            ledger.finish(first, "succeeded")
        assert ledger.live() == [first]
        filler.unlink()
        assert ledger.finish(first, "succeeded").state == "succeeded"
