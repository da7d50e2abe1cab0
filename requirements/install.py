"""Makes `.venv` in the checkout hold exactly what a lock says: the work of `make setup`.

    python3 requirements/install.py [--lock cpu|cuda] [--exact-python]

Runs on the user's own Python, before anything is installed, so it uses the standard library only
and syntax that an old Python can still read, to say in one line that it is too old. It needs
neither git nor the ensurepip of Debian's python3-venv: the environment is made without pip, and
the user's pip installs into it from outside (`pip --python`, pip 22.3 or later).

The last thing written is a stamp with the digest of the locks; while it matches, a run changes
nothing. Without it the environment is half made, or made from other locks: it is made anew.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENVIRONMENT = os.path.join(ROOT, ".venv")
STAMP = os.path.join(ENVIRONMENT, "frostrank-setup.json")
OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 13)
OLDEST_PIP = (22, 3)
LOCKS = ("cpu", "cuda")
# Run inside the environment once everything is installed; torch's operators of FBGEMM load here.
PROBE = "import torch, fbgemm_gpu, torchrec"


class SetupError(Exception):
    """The environment cannot be made; the message says in one line what to do."""


def main():
    """Bring `.venv` up to date and return the exit code."""
    parser = argparse.ArgumentParser(description="Make .venv hold what a lock says.")
    parser.add_argument("--lock", choices=LOCKS, help="default: that of the present .venv, or cpu")
    parser.add_argument(
        "--exact-python", action="store_true", help="make .venv anew where it has another Python"
    )
    arguments = parser.parse_args()
    stamp = read_stamp()
    lock = arguments.lock or stamp.get("lock") or "cpu"
    whole = stamp.get("digest") == digest_of(lock) and os.path.exists(environment_python())
    if whole and (stamp.get("python") == python_version() or not arguments.exact_python):
        return 0
    try:
        make_environment(lock)
    except SetupError as error:
        print("setup: {}".format(error), file=sys.stderr)
        return 1
    return 0


def make_environment(lock):
    """Make `.venv` anew from a lock, telling on standard output what happens."""
    if os.path.islink(ENVIRONMENT):
        raise SetupError(
            "{} is a link to {}, which would be emptied; remove the link".format(
                ENVIRONMENT, os.path.realpath(ENVIRONMENT)
            )
        )
    check_python()
    check_pip()
    started_s = time.time()
    say("making .venv with Python {} from requirements/{}.lock".format(python_version(), lock))
    say(
        "two to four minutes; 0.5 GB to download the first time where there is a CPU build of torch"
    )
    run([user_python(), "-m", "venv", "--clear", "--without-pip", ENVIRONMENT], "making .venv")
    say("installing the locked packages")
    install("-r", lock_path(lock))
    say("checking that torch, fbgemm_gpu and torchrec load")
    if not check_torch(lock):
        check_torch(lock)
    say("adding the checkout itself (editable)")
    install("--no-build-isolation", "-e", ROOT)
    write_stamp(lock)
    say("done in {:.0f} s".format(time.time() - started_s))


def check_torch(lock):
    """True if torch and what is built on it load; adds CUDA's libraries if torch lacks them.

    Raises:
        SetupError: they do not load, for another reason or even with the libraries.
    """
    command = [environment_python(), "-c", PROBE]
    probe = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if probe.returncode == 0:
        return True
    reason = (probe.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    libraries = lock_path("cuda-runtime")
    if lock == "cuda" or not re.search(r"lib\w+\.so", reason) or os.path.exists(added_mark()):
        raise SetupError("the installed torch does not load: {}".format(reason))
    say("pip found torch's CUDA build only; it needs CUDA's libraries even on CPU: about 2 GB more")
    say("(PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS with torch 2.13.0 for CPU would spare them)")
    install("-r", libraries)
    open(added_mark(), "w").close()
    return False


def added_mark():
    """The file that says that CUDA's libraries were added to this environment."""
    return os.path.join(ENVIRONMENT, "frostrank-cuda-runtime")


def user_python():
    """The Python to work with; where `.venv` is active, the one that it was made from.

    That of `.venv` has no pip, and `.venv` is about to be emptied.
    """
    if os.path.realpath(sys.prefix) != os.path.realpath(ENVIRONMENT):
        return sys.executable
    return getattr(sys, "_base_executable", sys.executable)


def check_python():
    """Raise SetupError where this Python is too old, or newer than the locked wheels."""
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        raise SetupError(
            "Python 3.11, 3.12 or 3.13 is needed, {} is {}; try make PYTHON=python3.12".format(
                user_python(), python_version()
            )
        )


def check_pip():
    """Raise SetupError where this Python has no pip, or one without `--python`."""
    probe = subprocess.run(
        [user_python(), "-m", "pip", "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    found = re.match(r"pip (\d+)\.(\d+)", probe.stdout.decode(errors="replace"))
    if found is None:
        raise SetupError(
            "{} has no pip; on Debian or Ubuntu: apt-get install python3-pip".format(user_python())
        )
    if tuple(int(part) for part in found.groups()) < OLDEST_PIP:
        raise SetupError(
            "pip {}.{} or later is needed, {} has {}; try: {} -m pip install -U pip".format(
                OLDEST_PIP[0], OLDEST_PIP[1], user_python(), found.group()[4:], user_python()
            )
        )


def install(*arguments):
    """Install into `.venv` with the user's pip, resolving nothing."""
    pip = [user_python(), "-m", "pip", "--python", environment_python(), "install"]
    # pip's progress bars are for a terminal; a log gets this script's own lines.
    options = ["--no-deps", "--disable-pip-version-check"] + ([] if sys.stdout.isatty() else ["-q"])
    run(pip + options + list(arguments), "pip install {}".format(" ".join(arguments)))


def run(command, what):
    """Run a command with its output shown; raise SetupError if it fails."""
    code = subprocess.call(command, cwd=ROOT)
    if code != 0:
        raise SetupError("{} failed with exit code {}; the lines above say why".format(what, code))


def digest_of(lock):
    """What an environment depends on: all lock files, which of them, and where the checkout is."""
    digest = hashlib.sha256("{}\n{}\n".format(lock, ROOT).encode())
    folder = os.path.dirname(lock_path(lock))
    for name in sorted(os.listdir(folder)):
        if name.endswith(".lock"):
            with open(os.path.join(folder, name), "rb") as file:
                digest.update(name.encode() + file.read())
    return digest.hexdigest()


def read_stamp():
    """The stamp's values; empty where there is none."""
    try:
        with open(STAMP) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def write_stamp(lock):
    """Say that `.venv` is whole: written under another name first, so it is never half there."""
    values = {"lock": lock, "digest": digest_of(lock), "python": python_version()}
    with open(STAMP + ".tmp", "w") as file:
        json.dump(values, file)
    os.replace(STAMP + ".tmp", STAMP)


def lock_path(lock):
    """The lock file of that name."""
    return os.path.join(ROOT, "requirements", lock + ".lock")


def environment_python():
    """The Python of `.venv`."""
    return os.path.join(ENVIRONMENT, "bin", "python")


def python_version():
    """Major and minor version of the running Python."""
    return "{}.{}".format(*sys.version_info[:2])


def say(text):
    """One line of progress."""
    print("setup: " + text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
