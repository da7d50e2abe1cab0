"""torchrun's own agent and real ranks, forked from a server that has imported everything.

Ten seconds of imports a run are saved; all else is as on the command line: the agent, its store,
its ranks in sessions of their own, and what each of them does when another is killed. The daily
chain's stages run in the same way, see `forked_server`.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from tests.distributed import PRELOAD

__all__ = ["Death", "Forked", "be_agent", "is_alive"]

MODULES = ["tests.integration.forked_torchrun", "jobs.pretrain", "jobs.export", "jobs.rank"]
FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}


@dataclass(frozen=True)
class Death:
    """SIGKILL when a rank touches files under a folder for the n-th time."""

    rank: int
    number: int
    victim: str
    """rank: itself; all: every rank; submitter: the agent alone"""


class Forked:
    """A run of one verb in two processes."""

    def __init__(self, arguments: list[str], notes: Path, watched: Path, death: Death | None):
        """`notes`: an empty folder for the log, and what each rank writes down of itself."""
        notes.mkdir(parents=True)
        self.notes = notes
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*PRELOAD, *MODULES])
        self.process = context.Process(target=_agent, args=(arguments, notes, watched, death))
        self.process.start()
        assert self.process.pid
        self.agent = self.process.pid

    @property
    def log(self) -> str:
        return (self.notes / "log").read_text() if (self.notes / "log").exists() else ""

    @property
    def ranks(self) -> list[int]:
        """Processes of the ranks that have been started."""
        return [int(path.name) for path in self.notes.glob("[0-9]*")]

    def num_file_events(self, rank: int) -> int:
        """How often a rank that came to its end touched files in the watched folder."""
        return int((self.notes / f"rank-{rank}").read_text())

    def kill(self, victim: str, rank: int) -> None:
        """SIGKILL now."""
        ranks = self.ranks
        targets = {"rank": ranks[rank : rank + 1], "all": ranks, "submitter": [self.agent]}
        for pid in targets[victim]:
            _kill(pid)

    def end(self, timeout_s: float = 60) -> int | None:
        """Wait for the agent's end; its exit code."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"still at work:\n{self.log}"
        return self.process.exitcode

    def kill_what_is_left(self) -> int:
        """SIGKILL to everything that lives; how many ranks that were."""
        if self.process.is_alive():
            _kill(self.agent)
        alive = [pid for pid in self.ranks if is_alive(pid)]
        for pid in alive:
            _kill(pid)
        while any(is_alive(pid) for pid in alive):
            time.sleep(0.01)
        return len(alive)


def is_alive(pid: int) -> bool:
    """Whether a process is there, and not only waits for its parent to look at its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _agent(arguments: list[str], notes: Path, watched: Path, death: Death | None) -> None:
    log = os.open(notes / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["OMP_NUM_THREADS"] = "1"
    be_agent(arguments, 2, notes, (watched, death))


def be_agent(
    arguments: list[str], num_ranks: int, notes: Path, dies: tuple[Path, Death | None]
) -> None:
    """Be torchrun's agent, whose ranks are forked from this process; ends as torchrun does."""

    def popen(self: Any, command: tuple[str, ...], env: dict[str, str]) -> "_Child":
        words = list(command[command.index("-m") + 1 :])
        return _Child(command, lambda: _rank(words, env, notes, dies))

    SubprocessHandler._popen = popen  # type: ignore[method-assign]
    run.main(["--standalone", f"--nproc-per-node={num_ranks}", "-m", *arguments])


class _Child:
    """What subprocess.Popen is to torch's agent: a forked process."""

    def __init__(self, args: tuple[str, ...], work: Callable[[], NoReturn]):
        self.args = args
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            work()

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout if timeout is not None else 1e9)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.01)
        return self.returncode or 0


def _rank(
    words: list[str], env: dict[str, str], notes: Path, dies: tuple[Path, Death | None]
) -> NoReturn:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    (notes / str(os.getpid())).touch()
    count = _watch_files(notes, *dies)
    sys.argv = words
    code: Any = 1
    try:
        importlib.import_module(words[0]).main()
        code = 0
        (notes / f"rank-{os.environ['RANK']}").write_text(str(count()))
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001 - the interpreter would print it and exit with 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch_files(notes: Path, watched: Path, death: Death | None) -> Callable[[], int]:
    num_events = 0
    is_due = death is not None and int(os.environ["RANK"]) == death.rank

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal num_events
        if event not in FILE_EVENTS or not str(arguments[0]).startswith(str(watched)):
            return
        num_events += 1
        if death is not None and is_due and num_events == death.number:
            _die(death.victim, notes)

    sys.addaudithook(see)
    return lambda: num_events


def _die(victim: str, notes: Path) -> None:
    (notes / "died").write_text(victim)
    if victim == "submitter":
        _kill(os.getppid())
        return
    if victim == "all":
        for path in notes.glob("[0-9]*"):
            if path.name != str(os.getpid()):
                _kill(int(path.name))
    _kill(os.getpid())
