"""Why a stage failed, in one line, from what its processes wrote.

the folder of a stage's logs --reason_of--> the ledger, the screen

torchrun's own words come last: it says that a rank failed, and the rank says why.
"""

import re
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path

from pipeline import errors

__all__ = ["reason_of"]

_LAST_LINES = 40
# What torchrun puts before the lines of its ranks, and they before those of their tracebacks.
_RANK = r"(?:\[\w+\]:\s*)*"


def reason_of(log_folder: Path) -> str:
    """The error that a rank of the newest job ended with, or, where there is none, its last words.

    On any of its nodes: where one rank fails, the others only see that it is gone.
    """
    found = (*log_folder.rglob("stderr.log"), *log_folder.glob("slurm-*.err"))
    logs = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    if not logs:
        return f"it wrote nothing under {log_folder}; look at the scheduler's logs"
    newest = (log for log in logs if _job_of(log) == _job_of(logs[0]))
    lines = {log: log.read_text(errors="replace").rstrip().splitlines() for log in newest}
    for error_in in (_our_error, _signal, _other_error):
        for log, said in lines.items():
            if error := error_in(said):
                return f"{error}\nIts output is in {log}"
    log, said = max(lines.items(), key=lambda item: bool(item[1]))
    if not said:
        return f"it ended without a word, as what is killed does; its output is in {log.parent}"
    last = next((line for line in reversed(said) if re.search(r"\w", line)), "")
    named = f"no error is named, last is: {last.strip()}"
    return "\n".join((named, f"the end of {log}:", *said[-_LAST_LINES:]))


def _job_of(log: Path) -> str:
    """Which job wrote a log: torchx has a folder for each, Slurm a number in the name."""
    return str(log.parents[1]) if log.name == "stderr.log" else log.name.split("-")[1]


def _our_error(lines: Sequence[str]) -> str:
    named = "|".join(errors.__all__)
    found = (re.search(rf"(?:^|[:\s])((?:{named}): .*)", line) for line in lines)
    return next((match.group(1) for match in found if match), "")


def _signal(lines: Sequence[str]) -> str:
    """By which the rank that failed first was killed, as torchrun reports it."""
    report = dropwhile(lambda line: "Root Cause" not in line, lines)
    found = (re.search(r"Signal \d+ \(\w+\) received by PID \d+", line) for line in report)
    return next((f"a rank was killed: {match.group()}" for match in found if match), "")


def _other_error(lines: Sequence[str]) -> str:
    """The last line of the last traceback."""
    found = (re.match(rf"{_RANK}\s*([\w.]+(?:Error|Exception)\b.*)", line) for line in lines)
    named = [match.group(1) for match in found if match]
    return next((error for error in reversed(named) if "ChildFailedError" not in error), "")
