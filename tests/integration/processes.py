"""Which processes there are on this machine, for tests that kill some."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["above", "children", "stages_at"]


def children(pid: int) -> list[int]:
    """Processes that a process has started and that have not ended."""
    found: list[int] = []
    for each, path in _processes("stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            _, state, parent = _status(path)
            if parent == pid and state != "Z":
                found.append(each)
    return found


def above(pid: int, name: str) -> int | None:
    """The nearest process above this one that has a name, if it still has one."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while pid:
            pid = _status(Path(f"/proc/{pid}/stat"))[2]
            if pid and _status(Path(f"/proc/{pid}/stat"))[0] == name:
                return pid
    return None


def stages_at(word: str) -> dict[int, list[str]]:
    """Agents and ranks with this word on their command line: process -> that line."""
    found: dict[int, list[str]] = {}
    for each, path in _processes("cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            line = path.read_text(errors="replace").split("\0")
            if word in line and "python" in line[0]:
                found[each] = line
    return found


def _status(path: Path) -> tuple[str, str, int]:
    """A process's name, state and parent."""
    # The name is in brackets, and may hold anything.
    before, _, after = path.read_text().rpartition(")")
    state, parent = after.split()[:2]
    return before.partition("(")[2], state, int(parent)


def _processes(name: str) -> Iterator[tuple[int, Path]]:
    return ((int(path.parent.name), path) for path in Path("/proc").glob(f"[0-9]*/{name}"))
