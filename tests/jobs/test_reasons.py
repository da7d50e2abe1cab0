"""What a stage failed with, as its scheduler's logs have it."""

import os

import pytest

from jobs.reasons import reason_of

TRACEBACK = """Traceback (most recent call last):
  File "x.py", line 1
RuntimeError: Connection closed by peer
"""
# As torchrun ends it, after the lines of its ranks.
REPORT = """torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
jobs.pretrain FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 123)
  traceback : {traceback}
============================================================
"""
UNTOLD = REPORT.format(code=1, traceback="To enable traceback see: https://pytorch.org")
KILLED = REPORT.format(code=-9, traceback="Signal 9 (SIGKILL) received by PID 123")


@pytest.fixture
def logs(tmp_path):
    """Write a log, a second younger than the one before."""
    written = []

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
        os.utime(path, (len(written), len(written)))
        return path

    return write


def test_the_error_of_ours_before_what_other_ranks_saw_of_it(tmp_path, logs):
    first = logs("slurm-12-pretrain-abc-0.err", "[rank0]: ExportError: no such table\nmore\n")
    logs("slurm-12-pretrain-abc-1.err", TRACEBACK)
    assert reason_of(tmp_path) == f"ExportError: no such table\nIts output is in {first}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"[default1]:[rank1]: RuntimeError: no memory\n{UNTOLD}", "RuntimeError: no memory"),
        (f"{TRACEBACK}{KILLED}", "a rank was killed: Signal 9 (SIGKILL) received by PID 123"),
        (f"ConfigError: a setting\n{KILLED}", "ConfigError: a setting"),
        (
            UNTOLD,
            "no error is named, last is: traceback : To enable traceback see: https://pytorch.org",
        ),
    ],
)
def test_what_the_rank_says_before_what_torchrun_says_of_it(tmp_path, logs, text, reason):
    logs("session/app/0/stderr.log", text)
    assert reason_of(tmp_path).partition("\n")[0] == reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("slurm-12-export-abc-0.err", "slurm-13-export-abd-0.err"),
        ("session/frostrank-1/export/0/stderr.log", "session/frostrank-2/export/0/stderr.log"),
    ],
)
def test_nothing_that_an_earlier_job_said(tmp_path, logs, old, new):
    logs(old, "ConfigError: a setting\n")
    newest = logs(new, TRACEBACK)
    wanted = f"RuntimeError: Connection closed by peer\nIts output is in {newest}"
    assert reason_of(tmp_path) == wanted


def test_the_last_words_where_no_error_is_named(tmp_path, logs):
    log = logs("slurm-12-pretrain-abc-0.err", "first\nslurmstepd: cancelled\n\n")
    logs("slurm-12-pretrain-abc-1.err", "")
    first, second, *others = reason_of(tmp_path).splitlines()
    assert first == "no error is named, last is: slurmstepd: cancelled"
    assert second == f"the end of {log}:"
    assert others == ["first", "slurmstepd: cancelled"]


def test_not_a_word(tmp_path, logs):
    logs("slurm-12-export-abc-0.err", "\n")
    assert reason_of(tmp_path).startswith("it ended without a word, as what is killed does; ")


def test_no_log(tmp_path):
    assert reason_of(tmp_path).startswith("it wrote nothing under ")
