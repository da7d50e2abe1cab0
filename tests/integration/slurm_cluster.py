"""A real Slurm of two nodes on this machine, for tests.

    with slurm_cluster(folder) as cluster:
        subprocess.run(["srun", "-N2", "hostname"], env=cluster.environment)

Made of Debian's slurm-wlm, slurmdbd, munge and mariadb-server. Everything is in the folder and on
free ports of loopback, and ends with the block; no service of the machine is touched, and no
cgroups are needed. The accounting is there because torchx asks `sacct` how a job stands.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Cluster", "missing_part", "slurm_cluster"]

PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "srun")
# Daemons lie where the path of a user who is not root may not lead.
SEARCH_PATH = f"{os.defpath}:/usr/sbin:/sbin"

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
# With munge this is no password but the socket, on the way to the accounting.
AccountingStoragePass={folder}/munge.socket
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core,CR_LLN
# More CPUs than there are: several jobs of two each are to fit.
SlurmdParameters=config_overrides
# Jobs of several groups, which torchx submits, are started by the backfill scheduler alone.
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_interval=1
ReturnToService=2
KillWait=5
"""
# Their names are addresses of loopback: the ranks of a job meet at the name of its first node, and
# so need no line in /etc/hosts. Slurm takes no two nodes of one host name.
NODES = ("127.0.0.2", "127.0.0.3")
NODE = "NodeName={name} Port={port} CPUs=8 RealMemory=32000\n"
PARTITION = "PartitionName=days Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"

SLURMDBD_CONF = """
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser={user}
StorageLoc=accounting
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that runs."""

    folder: Path
    environment: dict[str, str]
    """the environment in which Slurm's commands find it"""
    one_core_a_node: bool = False
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """each node's"""

    def call(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip()

    def start_node(self, node: str) -> None:
        """Start a node's daemon; jobs that its last one left go on under it."""
        self.daemons[node] = daemon = _popen(self, "slurmd", "-D", "-N", node)
        if self.one_core_a_node:
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(daemon.pid, {cores[NODES.index(node) % len(cores)]})

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon; what runs there goes on."""
        self.daemons[node].kill()
        self.daemons[node].wait()


def missing_part() -> str | None:
    """Why no cluster can be started here; None if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
    if absent:
        packages = "slurm-wlm slurmdbd munge mariadb-server"
        return f"no {', '.join(absent)}; on Debian: apt-get install {packages}"
    return None


@contextmanager
def slurm_cluster(folder: Path, *, one_core_a_node: bool = False) -> Generator[Cluster]:
    """Start a cluster whose configuration, state and logs are in `folder`; stop it at the end.

    Args:
        folder: a new one.
        one_core_a_node: what a node runs sees one of this machine's cores only, and so takes one
            thread a process.
    """
    values = {"folder": folder, "host": socket.gethostname(), "user": getpass.getuser()}
    names = ("controller_port", "accounting_port", "database_port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    _configure(folder, values | ports)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    cluster = Cluster(folder, environment, one_core_a_node)
    with ExitStack() as stack:
        _start_munge(stack, cluster)
        _start_database(stack, cluster, ports["database_port"])
        _start(stack, cluster, "slurmdbd", "-D")
        _until(lambda: _answers(cluster, "sacctmgr", "-n", "list", "cluster"), cluster)
        cluster.call("sacctmgr", "-i", "add", "cluster", "test")
        for node in NODES:
            cluster.start_node(node)
            stack.callback(lambda node=node: _stop(cluster.daemons[node]))
        _start(stack, cluster, "slurmctld", "-D")
        _until(lambda: _idle(cluster), cluster)
        stack.callback(_end_jobs, cluster)
        yield cluster


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _configure(folder: Path, values: dict[str, object]) -> None:
    lines = [
        NODE.format(name=name, port=port)
        for name, port in zip(NODES, free_ports(len(NODES)), strict=True)
    ]
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text("".join([SLURM_CONF.format(**values), *lines, PARTITION]))
    accounting = folder / "slurmdbd.conf"
    # Slurm refuses a file that others could read.
    accounting.touch(mode=0o600)
    accounting.write_text(SLURMDBD_CONF.format(**values))


def _start_munge(stack: ExitStack, cluster: Cluster) -> None:
    key = cluster.folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    places = {
        "key-file": key,
        "socket": cluster.folder / "munge.socket",
        "pid-file": cluster.folder / "munged.pid",
        "seed-file": cluster.folder / "munged.seed",
        "log-file": cluster.folder / "munge.log",
    }
    # --force: the folder of a test is its user's alone, and munged would have others reach it.
    options = [f"--{name}={path}" for name, path in places.items()]
    _start(stack, cluster, "munged", "--foreground", "--force", *options)
    _until(places["socket"].exists, cluster)


def _start_database(stack: ExitStack, cluster: Cluster, port: int) -> None:
    """An empty MariaDB, open to whoever reaches loopback, with nothing but this test's records."""
    place = [f"--datadir={cluster.folder / 'database'}", f"--user={getpass.getuser()}"]
    install = [_program("mariadb-install-db"), "--no-defaults", "--skip-test-db", *place]
    subprocess.run(install, check=True, capture_output=True)
    files = [
        f"--socket={cluster.folder / 'database.socket'}",
        f"--pid-file={cluster.folder / 'database.pid'}",
    ]
    network = ["--bind-address=127.0.0.1", f"--port={port}", "--skip-grant-tables"]
    _start(stack, cluster, "mariadbd", "--no-defaults", *place, *files, *network)
    _until(lambda: _listens(port), cluster)


def _start(stack: ExitStack, cluster: Cluster, name: str, *arguments: str) -> None:
    """Start a daemon in the foreground; stop it, the last one first, when the block ends."""
    stack.callback(_stop, _popen(cluster, name, *arguments))


def _popen(cluster: Cluster, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    with (cluster.folder / f"{name}.output").open("a") as output:
        return subprocess.Popen(
            [_program(name), *arguments],
            env=cluster.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_jobs(cluster: Cluster) -> None:
    """Cancel what still runs, so that no step outlives its node's daemon."""
    subprocess.run(["scancel", "--user", getpass.getuser()], env=cluster.environment, check=False)
    with contextlib.suppress(TimeoutError):
        _until(lambda: cluster.call("squeue", "--noheader") == "", cluster)


def _program(name: str) -> str:
    path = shutil.which(name, path=SEARCH_PATH)
    assert path is not None, missing_part()
    return path


def _answers(cluster: Cluster, *command: str) -> bool:
    done = subprocess.run(command, env=cluster.environment, capture_output=True, check=False)
    return done.returncode == 0


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _idle(cluster: Cluster) -> bool:
    """Whether both nodes wait for work."""
    command = ["sinfo", "--noheader", "--Node", "--format=%T"]
    done = subprocess.run(
        command, env=cluster.environment, capture_output=True, text=True, check=False
    )
    return done.stdout.split() == ["idle", "idle"]


def _until(ready: Callable[[], bool], cluster: Cluster, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:.0f} s; the logs are in {cluster.folder}")
        time.sleep(0.1)
