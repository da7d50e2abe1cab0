"""Disks of any size, to fill up: tmpfs mounted on a folder, for which one must be root."""

import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["small_disk_on"]


@contextmanager
def small_disk_on(folder: Path) -> Generator[Callable[[str], None]]:
    """Have `folder` on a disk of 64 KiB of its own; yields what changes that size ("16m").

    Skips the test where nothing may be mounted, as for a user who is not root.
    """

    def mount(options: str) -> subprocess.CompletedProcess[str]:
        arguments = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    def resize(size: str) -> None:
        resized = mount(f"remount,size={size}")
        assert not resized.returncode, resized.stderr

    mounted = mount("size=64k")
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield resize
    finally:
        # Lazily, for this process may still hold a lock on it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
