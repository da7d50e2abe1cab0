"""Joining the other ranks, and leaving them."""

import subprocess
import sys

# A reference cycle holds the process group, as models do, and one of its threads comes back to
# Python when the program has nothing more to do.
ENDS_WITH_AN_EXCHANGE = """
import time
import torch
import torch.distributed as dist
from jobs.distributed import join_world

class Model:
    pass

def work():
    with join_world() as world:
        model = Model()
        model.itself, model.group = model, dist.group.WORLD
        if not world.is_first:
            time.sleep(1)
        exchange = dist.all_reduce(torch.ones(10), async_op=True)
        if world.is_first:
            exchange.get_future().then(lambda _: time.sleep(0.5))
        else:
            exchange.wait()

work()
"""


def test_a_process_ends_after_the_threads_of_its_group(tmp_path):
    path = tmp_path / "exchange.py"
    path.write_text(ENDS_WITH_AN_EXCHANGE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node=2", "--no-python", sys.executable, str(path)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
