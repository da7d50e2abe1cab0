"""Which processes there are on this machine, for tests that kill some."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["children", "stages_at"]


def children(pid: int) -> list[int]:
    """Processes that a process has started and that have not ended."""
    found: list[int] = []
    for each, path in _processes("stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # Past the name in brackets, which may hold anything: the state, then the parent.
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(each)
    return found


def stages_at(word: str) -> dict[int, list[str]]:
    """Agents and ranks with this word on their command line: process -> that line."""
    found: dict[int, list[str]] = {}
    for each, path in _processes("cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            line = path.read_text(errors="replace").split("\0")
            if word in line and "python" in line[0]:
                found[each] = line
    return found


def _processes(name: str) -> Iterator[tuple[int, Path]]:
    return ((int(path.parent.name), path) for path in Path("/proc").glob(f"[0-9]*/{name}"))
