import os
import subprocess
import sys

THREADS = r"""
import os
from pathlib import Path
from jobs.distributed import join_world
with join_world() as world:
    world.wait_for_all()
    for task in Path("/proc/self/task").iterdir():
        priority = os.getpriority(os.PRIO_PROCESS, int(task.name))
        # At once, so that the other rank's lines do not come between.
        os.write(1, f"{world.rank} {priority} {(task / 'comm').read_text()}".encode())
    world.wait_for_all()
"""


def test_what_reads_gloos_sockets_does_not_interrupt_the_rest_of_a_rank(tmp_path):
    script = tmp_path / "threads.py"
    script.write_text(THREADS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    printed = subprocess.check_output([*launcher, str(script)], env=environment, text=True)
    threads = [line.split(" ", 2) for line in printed.splitlines()]
    reading = sorted((rank, int(own)) for rank, own, name in threads if name == "gloo_tcp_loop")
    others = {int(own) for _, own, name in threads if name != "gloo_tcp_loop"}
    assert reading == [("0", 19), ("1", 19)]
    assert others == {os.getpriority(os.PRIO_PROCESS, 0)}
