"""The same training in one and in two processes, and killed in the middle."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from embeddings.export import read_export
from jobs import export
from jobs.runs import RunFolder
from jobs.strategies import Strategy
from tests.integration.conftest import run, settings_of, torchrun

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def elsewhere(config: Path, folder: Path) -> tuple[str, str]:
    """Overrides that put a copy of the prepared data, and all that follows, under `folder`."""
    root = settings_of(config).data.root
    for kind in ("vocabulary", "catalogue", "sequences", "requests", "tables"):
        if (root / kind).exists():
            shutil.copytree(root / kind, folder / kind)
    return "--set", f"data.root={folder}"


def losses(config: Path, *overrides: str) -> list[float]:
    lines = RunFolder(settings_of(config, *overrides).pretraining_folder).lines()
    return [line["loss"] for line in lines]


def test_two_processes_compute_what_one_does(chain, tmp_path):
    place = elsewhere(chain, tmp_path)
    subprocess.run(torchrun(2, "pretrain", chain, *place), check=True)
    one, two = losses(chain), losses(chain, place[1])
    assert two == pytest.approx(one, rel=1e-4)

    strategy = ("--set", "ranking.strategy=ST&SF")
    subprocess.run(torchrun(2, "rank", chain, *place, *strategy), check=True)
    settings = settings_of(chain, place[1])
    ours = RunFolder(settings.ranking_folder(Strategy.ST_SF)).lines()
    theirs = RunFolder(settings_of(chain).ranking_folder(Strategy.ST_SF)).lines()
    for a, b in zip(ours, theirs, strict=True):
        assert a["auc"] == pytest.approx(b["auc"], abs=2e-3)
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), rel=1e-3)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_resumes_to_the_same_bits(chain, tmp_path, processes):
    """A rank is killed in mid-training; after --resume the tables are as if nothing had been."""
    undisturbed = elsewhere(chain, tmp_path / "undisturbed")
    killed = elsewhere(chain, tmp_path / "killed")
    subprocess.run(torchrun(processes, "pretrain", chain, *undisturbed), check=True)

    command = torchrun(processes, "pretrain", chain, *killed)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    progress = settings_of(chain, killed[1]).pretraining_folder / "checkpoints"
    wait_for((progress / "step-00000005").exists, process)
    kill_a_rank(process.pid)
    assert process.wait(timeout=60) != 0
    folder = settings_of(chain, killed[1]).pretraining_folder
    assert not (folder / "result.json").exists()

    done = subprocess.run([*command, "--resume"], check=True, capture_output=True, text=True)
    assert "resumed from" in done.stdout
    exports = []
    for place in (undisturbed, killed):
        run(export.export, chain, place[1])
        exports.append(read_export(settings_of(chain, place[1]).export_folder))
    digests = [{n: t.digest for n, t in e.tables.items()} for e in exports]
    assert digests[0] == digests[1]
    assert exports[0].source["dense_sha256"] == exports[1].source["dense_sha256"]
    assert json.loads((folder / "result.json").read_text())["steps"] > 5


def wait_for(condition, process, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_a_rank(launcher: int) -> None:
    """SIGKILL to the last rank that the launcher started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
