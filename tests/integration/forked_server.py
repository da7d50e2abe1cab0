"""Forks commands of this project, having imported all that they need.

    python -m tests.integration.forked_server SOCKET

One question a connection, one JSON line each way; `forked_scheduler` asks. Whoever started it holds
its standard input: when that ends, it ends, and all that it forked.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tests.integration.forked_scheduler import ForkedRunner, Server
from tests.integration.forked_torchrun import be_agent

MODULES = [
    *("jobs.daily", "jobs.backfill", "jobs.status", "jobs.publish"),
    *("jobs.prepare", "jobs.pretrain", "jobs.export", "jobs.rank", "jobs.judge"),
    # What these import only when they are used.
    *("pipeline.duckdb_engine", "pandas", "torch.distributed.checkpoint", "sqlite3"),
]
FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "sqlite3.connect"}


def main() -> None:
    """Serve until standard input ends; then end everything that was forked."""
    for module in MODULES:
        importlib.import_module(module)
    address = Path(sys.argv[1])
    codes: dict[int, int | None] = {}
    lines: dict[int, list[str]] = {}
    names: dict[int, str] = {}
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
                answer = _answer(question, codes, lines, names, address)
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
    names: dict[int, str],
    address: Path,
) -> Any:
    if question["ask"] == "code":
        return codes.get(question["pid"], -signal.SIGKILL)
    if question["ask"] == "running":
        return {pid: lines[pid] for pid, code in codes.items() if code is None}
    if question["ask"] == "submitted":
        return {pid: (name, lines[pid]) for pid, name in names.items()}
    pid = os.fork()
    if not pid:
        _work(question, address)
    codes[pid] = None
    lines[pid] = [question["module"], *question["arguments"]]
    if question["name"]:
        names[pid] = question["name"]
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
    if question["runner"] is not None:
        _replace_runner(Server(address), **question["runner"])
    elif not question["name"]:
        # Where torchx and Slurm leave their notes.
        os.chdir(folder)
    num_events = _watch_files(*question["dies"]) if question["dies"] else int
    sys.argv = [question["module"], *question["arguments"]]
    code: Any = 1
    try:
        if question["ranks"]:
            be_agent(sys.argv, question["ranks"], folder, (folder, None))
        else:
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
    sys.modules["jobs.chain.orphans"].__dict__["_POLL_S"] = 0.05


def _replace_runner(server: Server, *, remembers: bool, has_agents: bool) -> None:
    sys.modules["jobs.launch"].__dict__["_POLL_S"] = 0.05
    for name in ("jobs.chain.driver", "jobs.chain.preview"):
        sys.modules[name].__dict__["get_runner"] = lambda: ForkedRunner(
            server, remembers=remembers, has_agents=has_agents
        )
    if remembers:
        sys.modules["jobs.launch"].__dict__["_FORGETFUL"] = ()


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
