"""A scheduler for the daily chain, and its commands, as processes that `forked_server` forks.

Stands in for torchx's Runner: a stage is the same verb with the same arguments, but one process
without torchrun, so that it takes a second and not twenty; or, where that is asked for, torchrun's
agent and its ranks, forked like all else. Its output goes where local_cwd would put it. A
`ForkedRunner` either remembers, as Slurm does: any driver may ask after any handle; or forgets, as
local_cwd does: what a killed driver has started works on, unknown to the next one.
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torchx.schedulers.api import ListAppResponse
from torchx.specs import AppDef, AppState, AppStatus

__all__ = ["ForkedRunner", "Server", "Started"]

PATIENCE_S = 120
_POLL_S = 0.01
# As jobs.components sets it.
_ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
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
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | _ENVIRONMENT
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.forked_server", str(self.address)],
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
        name: str = "",
        ranks: int = 0,
        runner: dict[str, bool] | None = None,
        dies: tuple[str, int] | None = None,
    ) -> Started:
        """Fork a command.

        Args:
            module: whose `main` it is.
            arguments: of the command line.
            folder: for its output.
            name: to find it by.
            ranks: so many under torchrun's agent; 0: the one process alone.
            runner: what the `ForkedRunner` is told that it gets in place of torchx's; None: it
                keeps torchx's, and works in `folder`.
            dies: SIGKILL when it touches files under this folder for the n-th time; 0: never, but
                count how often it does.
        """
        folder.mkdir(parents=True, exist_ok=True)
        pid = self.ask(
            ask="start",
            module=module,
            arguments=list(arguments),
            folder=str(folder.absolute()),
            name=name,
            ranks=ranks,
            runner=runner,
            dies=dies,
        )
        return Started(self, pid, folder)

    def running(self) -> dict[int, list[str]]:
        """Process -> command line, of all that have not ended; oldest first."""
        return {int(pid): line for pid, line in self.ask(ask="running").items()}

    def submitted(self) -> dict[int, tuple[str, list[str]]]:
        """Process -> name and command line, of all that had a name, ended or not."""
        found = self.ask(ask="submitted")
        return {int(pid): (name, line) for pid, (name, line) in found.items()}

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

    def __init__(self, server: Server, *, remembers: bool, has_agents: bool) -> None:
        self._server, self._remembers, self._has_agents = server, remembers, has_agents
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
        ranks = int(words[words.index("--nproc_per_node") + 1]) if self._has_agents else 0
        started = self._server.start(module, arguments, folder, name=app.name, ranks=ranks)
        self._started.append(started)
        return f"forked://{scheduler}/{started.pid}"

    def list(self, scheduler: str) -> list[ListAppResponse]:
        """All there ever were."""
        return [
            ListAppResponse(name, AppState.UNKNOWN, f"forked://{scheduler}/{pid}")
            for pid, (name, _) in self._server.submitted().items()
        ]

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
