"""The import rules: pipeline <- embeddings <- models <- jobs, read from the source by ast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "embeddings", "models", "jobs")
MAY_IMPORT = {room: ROOMS[: number + 1] for number, room in enumerate(ROOMS)} | {"deploy": ()}
LAUNCHER_VARIABLES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
MODULES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def imported_names(tree):
    """Dotted names of all that is imported; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def used_names(tree):
    """Imported names, and attributes reached by dots, such as `torch.distributed`."""
    yield from imported_names(tree)
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    yield from (ast.unparse(node) for node in attributes)


def within(name, package):
    return name == package or name.startswith(package + ".")


def violations(source, module):
    """What the module at this path, relative to the root, does against the rules."""
    tree = ast.parse(source)
    room = module.parts[0]
    names = set(used_names(tree))
    tops = {name.partition(".")[0] for name in imported_names(tree)}
    forbidden = {*ROOMS, "deploy", "tests", "benchmarks"} - set(MAY_IMPORT[room])
    found = [f"imports {top}" for top in sorted(tops & forbidden)]
    if room in ("pipeline", "models") and any(within(n, "torch.distributed") for n in names):
        found.append("uses torch.distributed")
    if room != "embeddings" and any(within(name, "torchrec.distributed") for name in names):
        found.append("uses torchrec.distributed")
    if module == Path("jobs/components.py"):
        beyond = tops - set(sys.stdlib_module_names) - {"torchx"}
        found += [f"a component file imports {top}" for top in sorted(beyond)]
    if module != Path("jobs/distributed.py"):
        constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        found += [f"names {name}" for name in sorted(LAUNCHER_VARIABLES & constants)]
    if module == Path("jobs/__init__.py"):
        # Sets what torch reads when it is imported, and has ranks end with their launcher, which
        # may be killed while they import torch.
        return found
    return found + list(environment_reads(tree))


def environment_reads(tree):
    """Reads of the environment that importing the module would do."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) in (
            "os.environ",
            "os.getenv",
            "environ",
            "getenv",
        ):
            yield f"line {node.lineno}: reads the environment when imported"
        elif isinstance(node, FUNCTIONS):
            waiting += [node.args, *getattr(node, "decorator_list", [])]
        else:
            waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_the_import_rules(path):
    assert violations(path.read_text(), path.relative_to(ROOT)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline/a.py", "from models.transformer import Transformer"),
        ("pipeline/a.py", "def f():\n    import jobs.loop"),
        ("pipeline/a.py", "from torch import distributed"),
        ("pipeline/a.py", "from .errors import DataError"),
        ("models/a.py", "import torch\nx = torch.distributed.is_initialized()"),
        ("models/a.py", "import torchrec.distributed.model_parallel"),
        ("jobs/a.py", "from torchrec.distributed import DistributedModelParallel"),
        ("jobs/a.py", "import tests.conftest"),
        ("jobs/a.py", "import os\ndef f(): return os.environ['WORLD_SIZE']"),
        ("jobs/a.py", "import os\nTHREADS = os.environ.get('OMP_NUM_THREADS')"),
        ("jobs/a.py", "from os import getenv\ndef f(home=getenv('HOME')): ..."),
        ("jobs/components.py", "from pipeline.batches import RankingBatch"),
        ("jobs/components.py", "import torch"),
        ("deploy/a.py", "import jobs"),
    ],
)
def test_breaking_a_rule_is_found(module, source):
    try:
        found = violations(source, Path(module))
    except AssertionError as error:
        found = [str(error)]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("embeddings/a.py", "from torchrec.distributed.planner import EmbeddingShardingPlanner"),
        ("jobs/a.py", "import torch.distributed as dist\nfrom models.ranking import Ranker"),
        ("jobs/a.py", "import os\ndef f(): return os.environ.get('HOME')"),
        ("jobs/distributed.py", "import os\ndef f(): return os.environ['RANK']"),
        ("jobs/components.py", "import sys\nimport torchx.specs as specs"),
    ],
)
def test_what_the_rules_allow_passes(module, source):
    assert violations(source, Path(module)) == []


def test_every_room_is_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} >= set(ROOMS)


@pytest.mark.parametrize(
    ("verbs", "spared"),
    [
        # They read settings and files.
        ("backfill daily ingest prepare publish status", {"torchrec", "fbgemm_gpu"}),
        # They train and score, and prepare nothing.
        ("export judge pretrain rank", {"duckdb", "matplotlib", "torchx"}),
    ],
)
def test_commands_do_not_wait_for_what_they_do_not_use(verbs, spared):
    modules = {f"jobs.{verb}" for verb in verbs.split()}
    told = f"import sys, {', '.join(sorted(modules))}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True)
    loaded = set(ran.stdout.split())
    assert modules <= loaded
    assert not spared & loaded
