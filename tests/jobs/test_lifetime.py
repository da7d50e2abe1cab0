import os
import select
import signal
import subprocess
import sys

import pytest

SIGNAL_OF_PARENT = """
import ctypes
import jobs
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))
print(number.value)
"""
LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True).wait()
"""
RANK = """
import os, signal
import jobs
print(os.getpid(), flush=True)
signal.pause()
"""
LAUNCHED = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}


@pytest.mark.parametrize(
    ("environment", "has_session", "expected"),
    [
        (LAUNCHED, True, signal.SIGKILL),
        # What a rank starts inherits its environment, and may come from a thread that ends first.
        (LAUNCHED, False, 0),
        (None, True, 0),
    ],
)
def test_importing_jobs_ends_only_ranks_with_their_parent(environment, has_session, expected):
    command = [sys.executable, "-c", SIGNAL_OF_PARENT]
    printed = subprocess.check_output(command, env=environment, start_new_session=has_session)
    assert int(printed) == expected


def test_a_rank_that_has_only_imported_jobs_ends_with_its_launcher():
    command = [sys.executable, "-c", LAUNCHER, RANK]
    launcher = subprocess.Popen(command, env=LAUNCHED, stdout=subprocess.PIPE)
    assert launcher.stdout
    rank = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    # The rank holds the other end of the pipe until it ends.
    has_ended = select.select([launcher.stdout], [], [], 60)[0]
    if not has_ended:
        os.kill(rank, signal.SIGKILL)
    launcher.stdout.close()
    assert has_ended
