"""One process at a time in a folder, and of the chain's attempts the one that was admitted last."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.claims import admit, claim, is_claimed
from pipeline.errors import CheckpointError

HOME = Path(__file__).parents[2]
CLAIM = """
import sys
from pathlib import Path
from jobs.claims import claim
claim(Path(sys.argv[1]), *sys.argv[2:])
print("claimed")
"""


def in_another_process(folder, *attempt):
    """What claiming a folder says there; the process ends with it."""
    command = [sys.executable, "-c", CLAIM, str(folder), *attempt]
    done = subprocess.run(command, cwd=HOME, check=False, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_a_folder_is_claimed_until_the_process_ends(tmp_path):
    folder = tmp_path / "run"
    assert not is_claimed(folder)
    assert in_another_process(folder) == "claimed"
    assert not is_claimed(folder)
    claim(folder)
    claim(folder)
    assert is_claimed(folder)
    assert "still at work there" in in_another_process(folder)


def test_of_the_chains_attempts_only_the_one_admitted_last_may(tmp_path):
    folder = tmp_path / "day"
    admit(folder, "first")
    assert in_another_process(folder, "first") == "claimed"
    admit(folder, "second")
    told = in_another_process(folder, "first")
    assert f"{folder}: attempt first was given up by the daily chain" in told
    assert "second" in told
    # Nor does it keep the other one out.
    claim(folder, "second")
    assert is_claimed(folder)


def test_an_attempt_that_was_never_admitted_may_not(tmp_path):
    with pytest.raises(CheckpointError, match="has admitted none since"):
        claim(tmp_path / "day", "first")
    assert not is_claimed(tmp_path / "day")


def test_who_runs_a_verb_by_hand_needs_nobodys_leave(tmp_path):
    admit(tmp_path / "day", "first")
    assert in_another_process(tmp_path / "day") == "claimed"
