"""Digests of source files that were read before, so that old days are not read again every day.

    path -> sha256, out of ROOT/.source_digests.json while the file's status is what it was

A file counts as unchanged while its size, inode and both of its times (of content and of status,
which no program can set back) are the same, as git and rsync do it. What was written within the
last seconds before it was read is not remembered: a clock's tick may hide a change.
"""

import json
import os
import time
from pathlib import Path

from pipeline.digests import file_sha256

__all__ = ["SourceDigests"]

_TICK_NS = 2 * 10**9


class SourceDigests:
    """What is remembered under one root; `save` keeps it for the next run."""

    def __init__(self, root: Path) -> None:
        self._path = Path(root) / ".source_digests.json"
        self._known = _read(self._path)
        self._is_changed = False

    def digest(self, path: Path) -> str:
        """The file's sha256, remembered or read."""
        key, status = str(path.absolute()), _status(path)
        known = self._known.get(key)
        if known is not None and known[:-1] == status:
            return known[-1]
        digest = file_sha256(path)
        self._is_changed = True
        if _status(path) == status and time.time_ns() - max(map(int, status[2:])) > _TICK_NS:
            self._known[key] = [*status, digest]
        else:
            self._known.pop(key, None)
        return digest

    def save(self) -> None:
        """Keep what was learned; a reader sees the old file or the new one."""
        if not self._is_changed:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self._known, indent=0))
        temporary.replace(self._path)


def _status(path: Path) -> list[str]:
    """As texts: JSON readers may round numbers of this size."""
    status = path.stat()
    return [str(n) for n in (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)]


def _read(path: Path) -> dict[str, list[str]]:
    """Nothing where there is none, or it is damaged: files are then read again."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
