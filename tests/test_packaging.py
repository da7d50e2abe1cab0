"""What pyproject.toml and the locks promise: a wheel without modules, and nothing undeclared."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "embeddings", "models", "jobs")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ROOT / "requirements"


def distribution_name(requirement):
    """The normalised name at the start of a requirement."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group()).lower()


def locked_versions(lock):
    """Distribution name to version, of a lock and the locks it includes."""
    versions = {}
    for line in (LOCKS / lock).read_text().splitlines():
        if line.startswith("-r "):
            versions |= locked_versions(line.removeprefix("-r "))
        elif line and not line.startswith(("#", "--")):
            name, _, version = line.partition("==")
            assert version, f"{lock}: {line}: not an exact version"
            assert name not in versions, f"{lock}: {name} twice"
            versions[name] = version
    return versions


def imported_distributions():
    """Distributions that provide what the rooms import, other than Python's and our own."""
    tops = set()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                tops |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                tops.add(node.module.partition(".")[0])
    providers = packages_distributions()
    foreign = tops - set(sys.stdlib_module_names) - set(ROOMS)
    return {distribution_name(providers[top][0]) for top in foreign}


def test_wheel_holds_no_module(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert tops == {f"frostrank-{PROJECT['version']}.dist-info"}


def test_everything_imported_is_declared():
    extras = [extra for extras in PROJECT["optional-dependencies"].values() for extra in extras]
    declared = {distribution_name(name) for name in [*PROJECT["dependencies"], *extras]}
    # The CPU lock's stand-in for the declared one.
    assert imported_distributions() - {"fbgemm-gpu-cpu"} <= declared


@pytest.mark.parametrize("lock", ["cpu.lock", "cuda.lock"])
def test_lock_holds_every_declared_dependency(lock):
    locked = {name.removesuffix("-cpu") for name in locked_versions(lock)}
    assert {distribution_name(requirement) for requirement in PROJECT["dependencies"]} <= locked


def test_locks_differ_only_in_what_the_accelerator_needs():
    cpu, cuda = locked_versions("cpu.lock"), locked_versions("cuda.lock")
    assert cpu.pop("fbgemm-gpu-cpu") == cuda["fbgemm-gpu"]
    assert cpu.items() <= cuda.items()
    extra = set(cuda) - set(cpu)
    accelerated = ("nvidia-", "cuda-", "fbgemm-gpu", "triton")
    assert all(name.startswith(accelerated) for name in extra)
