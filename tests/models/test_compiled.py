"""What is kept of compiled code is used again, and never after a change of what it was made of."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

from models import fused_cpu, jagged_attention, warm_up
from models.compiled import SOURCES

MODELS = Path(__file__).parents[2] / "models"
# Two kernels in two files: what `outer` gives is what `inner` makes of it.
OUTER = """
import sys
from models.compiled import compiled
from models.columns import inner

@compiled
def outer(x):
    return inner(x) + 1.0

print(outer(1.0), *outer.stats.cache_hits.values())
"""
INNER = """
from models.compiled import compiled

@compiled
def inner(x):
    return {factor} * x
"""


def models_imported_by(name):
    tree = ast.parse((MODELS / f"{name}.py").read_text())
    froms = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[2] for name in froms if name.startswith("models.")}


def uses_numba(name):
    source = (MODELS / f"{name}.py").read_text()
    return "@compiled" in source or "import numba" in source or "from numba" in source


def test_every_source_of_compiled_code_is_named():
    assert set(SOURCES) >= {path.stem for path in MODELS.glob("*.py") if uses_numba(path.stem)}
    assert set(SOURCES) >= set().union(*map(models_imported_by, SOURCES))


@pytest.fixture
def copied(tmp_path):
    """A room of models whose `fused_cpu` calls what is in `columns`, and its own cache."""
    room = tmp_path / "models"
    room.mkdir()
    for name in ("__init__", *SOURCES):
        shutil.copy(MODELS / f"{name}.py", room)
    (room / "fused_cpu.py").write_text(OUTER)
    return room


def run(room, factor):
    """What `outer` gives, and how often it was taken from the cache."""
    (room / "columns.py").write_text(INNER.format(factor=factor))
    environment = {**os.environ, "PYTHONPATH": str(room.parent)}
    environment["NUMBA_CACHE_DIR"] = str(room.parent / "cache")
    command = [sys.executable, "-m", "models.fused_cpu"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=room.parent, env=environment
    )
    value, *hits = map(float, done.stdout.split())
    return value, sum(hits)


@pytest.mark.integration
def test_kept_code_is_not_used_after_a_change_in_another_file(copied):
    assert run(copied, 2.0) == (3.0, 0)
    assert run(copied, 2.0) == (3.0, 1)
    assert run(copied, 5.0) == (6.0, 0)
    assert run(copied, 2.0) == (3.0, 0)


@pytest.mark.parametrize("module", [fused_cpu, jagged_attention])
def test_ahead_of_the_first_run_both_precisions_are_compiled(module):
    warm_up.main()
    public = {name: getattr(module, name) for name in module.__all__}
    kernels = {n: f.signatures for n, f in public.items() if isinstance(f, Dispatcher)}
    assert kernels
    for name, signatures in kernels.items():
        assert any("float32" in str(types) for types in signatures), name
        assert any("int16" in str(types) for types in signatures), name
