"""Exit codes and days of the chain's commands, and the version of its code."""

import argparse
import os
import shutil
import signal
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from jobs.chain import driver, version
from jobs.chain.driver import day_of, ended_by
from jobs.chain.version import program_version
from pipeline.errors import (
    ConfigError,
    CorruptFileError,
    LeaseHeldError,
    LeaseLostError,
    RejectedError,
    StageError,
    WaitingError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError, 2),
        (RejectedError, 3),
        (WaitingError, 4),
        (LeaseHeldError, 75),
        (LeaseLostError, 1),
        (StageError, 1),
        (CorruptFileError, 1),
    ],
)
def test_what_went_wrong_is_one_line_and_a_code(capsys, error, code):
    def work():
        raise error("look here")

    with pytest.raises(SystemExit) as ended:
        ended_by(work)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{error.__name__}: look here\n"


def test_nothing_went_wrong(capsys):
    ended_by(lambda: print("done"))
    assert capsys.readouterr() == ("done\n", "")


def test_an_error_of_our_own_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        ended_by(lambda: print(1 / 0))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_way_out_by_signals(capsys, number):
    with pytest.raises(SystemExit) as ended:
        ended_by(lambda: os.kill(os.getpid(), number))
    assert ended.value.code == 130
    assert "the same command goes on from here" in capsys.readouterr().err


class Evening(datetime):
    @classmethod
    def now(cls, tz=None):
        """Late on the first of March in UTC, the second already further east."""
        return datetime(2024, 3, 1, 23, 59, tzinfo=UTC).astimezone(tz)


def test_days(monkeypatch):
    assert day_of("2024-02-29") == date(2024, 2, 29)
    monkeypatch.setattr(driver, "datetime", Evening)
    assert day_of("yesterday") == date(2024, 2, 29)
    for text in ("2023-02-29", "today", "1", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="write 2024-01-31 or yesterday"):
            day_of(text)


def test_the_codes_version_changes_with_the_code(tmp_path, monkeypatch):
    here = Path(version.__file__).parents[2]
    for room in ("pipeline", "embeddings", "models", "jobs"):
        shutil.copytree(here / room, tmp_path / room)
    monkeypatch.setattr(version, "__file__", str(tmp_path / "jobs" / "chain" / "version.py"))
    # Each process asks once; uncached it is asked again.
    uncached = program_version.__wrapped__
    first = uncached()
    assert first == program_version()
    (tmp_path / "jobs" / "notes.txt").write_text("no code")
    assert uncached() == first
    path = tmp_path / "models" / "ranking.py"
    path.write_text(path.read_text() + "\n")
    changed = uncached()
    assert changed != first
    path.rename(path.with_name("ranker.py"))
    assert uncached() not in (first, changed)
