"""How long a rank lives: no longer than the launcher's process that started it.

    jobs/__init__.py    end_with_parent(), before anything that takes time is imported
    join_world          the same, and no waiting for a launcher that had ended before that

Ranks that live on would hold the run's folder against the next attempt.
"""

import ctypes
import os
import signal

__all__ = ["end_with_parent", "is_rank"]

# Of prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def is_rank() -> bool:
    """Whether torchrun's agent started this very process, not one of its ranks or a user's shell.

    A rank's own processes inherit its environment, but only ranks get a session each.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and os.getsid(0) == os.getpid()


def end_with_parent() -> None:
    """Have the kernel end this process when its parent is killed."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), signal.SIGKILL)
