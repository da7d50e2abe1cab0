"""Who may work in a folder: one process at a time, and of the daily chain's attempts the latest.

    driver    admit(folder, attempt) -> wait while is_claimed(folder) -> submit
    process   claim(folder, attempt) -> work, until it ends, however it ends

A driver or submitter that was killed may leave processes behind. Those at work hold the folder,
`.<name>.lock`, and are waited for. Those that still start, wherever they waited, find another
attempt admitted, `.<name>.attempt`, and leave the folder alone: what was asked of them has been
asked of others since.
"""

import fcntl
import os
from pathlib import Path

from pipeline.errors import CheckpointError

__all__ = ["admit", "admitted_file", "claim", "is_claimed", "prepare_folder"]

# Folders that this process keeps others out of -> the lock's file handle.
_claimed: dict[Path, int] = {}


def admit(folder: Path, attempt: str) -> None:
    """Of the daily chain's processes, let those of one attempt alone claim `folder` from now on."""
    path = admitted_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(f"{attempt}\n")
    temporary.replace(path)


def claim(folder: Path, attempt: str = "") -> None:
    """Keep other processes out of `folder` until this one ends, however it ends.

    A submitter that was killed may leave its processes at work; two at once would write over each
    other. `attempt` is the daily chain's, empty for a process that it did not start.

    Raises:
        CheckpointError: another process has it, or another attempt has been admitted.
    """
    path = _beside(folder, "lock")
    if path in _claimed:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 100).decode(errors="replace").strip()
        os.close(lock)
        raise CheckpointError(
            f"{folder}: process {holder} is still at work there; wait for it, or end it, then run "
            "the same command again"
        ) from None
    # With the lock in hand: a driver admits first, then looks whether somebody holds it.
    if attempt and (admitted := _admitted(folder)) != attempt:
        os.close(lock)
        raise CheckpointError(
            f"{folder}: attempt {attempt} was given up by the daily chain, which has admitted "
            f"{admitted or 'none'} since; nothing was changed there, and nothing is to be done"
        )
    os.truncate(lock, 0)
    os.write(lock, f"{os.getpid()} on {os.uname().nodename}\n".encode())
    _claimed[path] = lock


def is_claimed(folder: Path) -> bool:
    """Whether a process is at work in a folder that `claim` keeps others out of."""
    try:
        lock = os.open(_beside(folder, "lock"), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def prepare_folder(root: Path) -> Path:
    """What prepare claims; it writes into many folders under the root."""
    return root / "prepare"


def admitted_file(folder: Path) -> Path:
    """Where it says which attempt may claim the folder; none where there is no such file."""
    return _beside(folder, "attempt")


def _admitted(folder: Path) -> str:
    path = admitted_file(folder)
    return path.read_text().strip() if path.exists() else ""


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}").absolute()
