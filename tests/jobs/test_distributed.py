import os
import subprocess
import sys
from pathlib import Path

import pytest

THREADS = r"""
import os
from pathlib import Path
from jobs.distributed import join_world
with join_world() as world:
    world.wait_for_all()
    for task in Path("/proc/self/task").iterdir():
        name = (task / "comm").read_text().strip()
        # At once, so that the other rank's lines do not come between.
        os.write(1, f"{world.rank} {name} {os.sched_getscheduler(int(task.name))}\n".encode())
    world.wait_for_all()
"""


@pytest.fixture
def script(tmp_path):
    path: Path = tmp_path / "threads.py"
    path.write_text(THREADS)
    return path


def policies(command):
    """What threads of gloo are scheduled as: (rank, policy)."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    printed = subprocess.check_output([sys.executable, *command], env=environment, text=True)
    threads = [line.split(" ") for line in printed.splitlines()]
    return {(int(rank), int(policy)) for rank, *name, policy in threads if "gloo" in "".join(name)}


def test_ranks_that_meet_over_gloo_do_not_interrupt_each_others_sending(script):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert policies([*launcher, script]) == {(0, os.SCHED_BATCH), (1, os.SCHED_BATCH)}


def test_a_world_of_one_is_scheduled_as_it_was(script):
    assert policies([script]) == {(0, os.sched_getscheduler(0))}
