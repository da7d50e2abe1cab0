"""A scheduler for the daily chain, and its commands, forked from a server that has imported all.

    python -m tests.integration.forked_scheduler SOCKET

Stands in for torchx's Runner: a stage is the same verb with the same arguments, but one process
without torchrun, so that it takes a second and not twenty. Its output goes where local_cwd would
put it. A `ForkedRunner` either remembers, as Slurm does: any driver may ask after any handle; or
forgets, as local_cwd does: what a killed driver has started works on, unknown to the next one.
"""

import contextlib
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from torchx.specs import AppDef, AppState, AppStatus

__all__ = ["ForkedRunner", "Server", "Started"]

MODULES = [
    *("jobs.daily", "jobs.backfill", "jobs.status", "jobs.publish"),
    *("jobs.prepare", "jobs.pretrain", "jobs.export", "jobs.rank", "jobs.judge"),
    # What these import only when they are used.
    *("pipeline.duckdb_engine", "pandas", "torch.distributed.checkpoint", "sqlite3"),
]
FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "sqlite3.connect"}
PATIENCE_S = 120
_POLL_S = 0.01
_STATES = {
    None: AppState.RUNNING,
    0: AppState.SUCCEEDED,
    -signal.SIGTERM: AppState.CANCELLED,
}


@dataclass(frozen=True)
class Started:
    """A process that the server forked."""

    server: "Server"
    pid: int
    folder: Path

    @property
    def code(self) -> int | None:
        """Its exit code, below 0 for a signal; None while it runs."""
        return self.server.ask(ask="code", pid=self.pid)

    @property
    def output(self) -> str:
        """Both streams."""
        paths = [self.folder / f"{name}.log" for name in ("stdout", "stderr")]
        return "".join(path.read_text() for path in paths if path.exists())

    @property
    def num_file_events(self) -> int:
        """How often it touched files that were watched."""
        return int((self.folder / "file_events").read_text())

    def end(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; the exit code."""
        end_s = time.monotonic() + timeout_s
        while (code := self.code) is None:
            assert time.monotonic() < end_s, f"still at work:\n{self.output}"
            time.sleep(_POLL_S)
        return code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """At once; nothing if it has ended."""
        if self.code is None:
            os.kill(self.pid, number)


class Server:
    """The server as its clients see it; one that `with` starts ends with whoever started it."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.forked_scheduler", str(self.address)],
            stdin=subprocess.PIPE,
            env=environment,
        )
        end_s = time.monotonic() + PATIENCE_S
        while not self.address.exists():
            assert self._process.poll() is None, "the server did not come up"
            assert time.monotonic() < end_s, "the server takes too long"
            time.sleep(_POLL_S)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        *,
        remembers: bool | None = None,
        dies: tuple[str, int] | None = None,
    ) -> Started:
        """Fork a command.

        Args:
            module: whose `main` it is.
            arguments: of the command line.
            folder: for its output.
            remembers: of the runner that it gets in place of torchx's; None: it keeps torchx's.
            dies: SIGKILL when it touches files under this folder for the n-th time; 0: never, but
                count how often it does.
        """
        folder.mkdir(parents=True, exist_ok=True)
        pid = self.ask(
            ask="start",
            module=module,
            arguments=list(arguments),
            folder=str(folder.absolute()),
            remembers=remembers,
            dies=dies,
        )
        return Started(self, pid, folder)

    def running(self) -> dict[int, list[str]]:
        """Process -> command line, of all that have not ended; oldest first."""
        return {int(pid): line for pid, line in self.ask(ask="running").items()}

    def ask(self, **question: Any) -> Any:
        """One question, one answer."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.address))
            with client.makefile("rw") as stream:
                stream.write(json.dumps(question) + "\n")
                stream.flush()
                return json.loads(stream.readline())


class ForkedRunner:
    """What `jobs.launch` uses of torchx's Runner."""

    def __init__(self, server: Server, *, remembers: bool) -> None:
        self._server, self._remembers = server, remembers
        self._started: list[Started] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """As local_cwd, which ends with the driver that leaves in good order."""
        if not self._remembers:
            for started in self._started:
                started.kill()

    def run(self, app: AppDef, scheduler: str, options: dict[str, Any]) -> str:
        """Submit."""
        words = shlex.split(app.roles[0].args[1])
        module, *arguments = words[words.index("-m") + 1 :]
        folder = Path(options["log_dir"]) / f"session-{time.monotonic_ns()}" / app.name / "0"
        started = self._server.start(module, arguments, folder)
        self._started.append(started)
        return f"forked://{scheduler}/{started.pid}"

    def status(self, handle: str) -> AppStatus | None:
        """None for what it does not know."""
        pid = int(handle.rpartition("/")[2])
        if not self._remembers and pid not in [started.pid for started in self._started]:
            return None
        code = self._server.ask(ask="code", pid=pid)
        return AppStatus(state=_STATES.get(code, AppState.FAILED))

    def cancel(self, handle: str) -> None:
        """Ask it to end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(handle.rpartition("/")[2]), signal.SIGTERM)


def main() -> None:
    """Serve until standard input ends; then end everything that was forked."""
    for module in MODULES:
        importlib.import_module(module)
    address = Path(sys.argv[1])
    codes: dict[int, int | None] = {}
    lines: dict[int, list[str]] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        # Under another name until it listens: clients take its being there for a yes.
        listener.bind(f"{address}.new")
        listener.listen(64)
        Path(f"{address}.new").rename(address)
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
            assert ready
            with listener.accept()[0] as client, client.makefile("rw") as stream:
                question = json.loads(stream.readline())
                _reap(codes)
                answer = _answer(question, codes, lines, address)
                with contextlib.suppress(BrokenPipeError):
                    stream.write(json.dumps(answer) + "\n")
                    stream.flush()
    for pid, code in codes.items():
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    address.unlink(missing_ok=True)


def _reap(codes: dict[int, int | None]) -> None:
    while any(code is None for code in codes.values()):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        codes[pid] = os.waitstatus_to_exitcode(status)


def _answer(
    question: dict[str, Any],
    codes: dict[int, int | None],
    lines: dict[int, list[str]],
    address: Path,
) -> Any:
    if question["ask"] == "code":
        return codes.get(question["pid"], -signal.SIGKILL)
    if question["ask"] == "running":
        return {pid: lines[pid] for pid, code in codes.items() if code is None}
    pid = os.fork()
    if not pid:
        _work(question, address)
    codes[pid] = None
    lines[pid] = [question["module"], *question["arguments"]]
    return pid


def _work(question: dict[str, Any], address: Path) -> NoReturn:
    """In the forked process: the command, from its first line to its exit code."""
    os.setsid()
    folder = Path(question["folder"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, number)
        os.close(log)
    _make_light()
    if question["remembers"] is not None:
        _replace_runner(Server(address), remembers=question["remembers"])
    num_events = _watch_files(*question["dies"]) if question["dies"] else int
    sys.argv = [question["module"], *question["arguments"]]
    code: Any = 1
    try:
        sys.modules[question["module"]].main()
        code = 0
        (folder / "file_events").write_text(str(num_events()))
    except SystemExit as error:
        code = error.code or 0
    except BaseException:  # noqa: BLE001 - the interpreter would print it and exit with 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _make_light() -> None:
    """Without what takes long and decides nothing."""
    # A world of one takes a thread a core, which would fight over those that others use.
    os.sched_getaffinity = lambda _: {0}
    # The page of charts is a quarter of a small day's prepare.
    sys.modules["jobs.prepare"].__dict__["write_data_page"] = lambda _: None
    sys.modules["jobs.launch"].__dict__["_POLL_S"] = 0.05
    sys.modules["jobs.chain.stages"].__dict__["_POLL_S"] = 0.05


def _replace_runner(server: Server, *, remembers: bool) -> None:
    for name in ("jobs.chain.driver", "jobs.chain.preview"):
        sys.modules[name].__dict__["get_runner"] = lambda: ForkedRunner(server, remembers=remembers)


def _watch_files(folder: str, number: int) -> Callable[[], int]:
    """Die at the n-th event under a folder; returns what counts them."""
    count = 0

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in FILE_EVENTS and str(arguments[0]).startswith(folder):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(see)
    return lambda: count


if __name__ == "__main__":
    main()
