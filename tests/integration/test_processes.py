"""The same training in one and in two processes, and killed in the middle."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from embeddings.manifests import read_export
from jobs import export
from jobs.runs import RunFolder
from jobs.settings import JobSettings
from jobs.strategies import Strategy
from tests.integration.conftest import run, settings_of, torchrun
from tests.integration.processes import stages_at

pytestmark = [pytest.mark.integration, pytest.mark.slow]


# Long enough that a run is still going when it is killed after its first checkpoint.
LONGER = ("pretraining.training.epochs=20", "ranking.training.epochs=12")


def elsewhere(config: Path, folder: Path) -> tuple[str, str]:
    """Overrides that put a copy of the prepared data, and all that follows, under `folder`."""
    root = settings_of(config).data.root
    for kind in ("vocabulary", "catalogue", "sequences", "tails", "requests", "tables"):
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


@pytest.mark.parametrize("verb", ["pretrain", "rank"])
def test_a_killed_run_resumes_to_the_same_numbers(chain, tmp_path, verb):
    """A rank is killed in mid-training; after --resume all is as if nothing had been."""
    undisturbed = elsewhere(chain, tmp_path / "undisturbed")
    killed = elsewhere(chain, tmp_path / "killed")
    longer = [part for override in LONGER for part in ("--set", override)]
    subprocess.run(torchrun(2, verb, chain, *undisturbed, *longer), check=True)

    command = torchrun(2, verb, chain, *killed, *longer)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    folder = folder_of(verb, settings_of(chain, killed[1]))
    wait_for(lambda: any((folder / "checkpoints").glob("step-*")), process)
    kill_a_rank(process.pid)
    assert process.wait(timeout=60) != 0
    assert not (folder / "result.json").exists()

    done = subprocess.run([*command, "--resume"], check=True, capture_output=True, text=True)
    assert "resumed from" in done.stdout
    places = [settings_of(chain, place[1]) for place in (undisturbed, killed)]
    assert numbers(folder_of(verb, places[0])) == numbers(folder_of(verb, places[1]))
    if verb == "pretrain":
        assert exported(chain, undisturbed[1]) == exported(chain, killed[1])


def test_ranks_end_when_their_launcher_is_killed_while_they_start(shop, tmp_path):
    place = elsewhere(shop, tmp_path)
    process = subprocess.Popen(torchrun(2, "pretrain", shop, *place), stderr=subprocess.DEVNULL)

    def ranks():
        return stages_at(place[1]).keys() - {process.pid}

    try:
        wait_for(lambda: len(ranks()) == 2, process)
        process.kill()
        process.wait()
        # Those it had only forked find out when they have imported torch.
        deadline = time.monotonic() + 120
        while ranks() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not ranks()
    finally:
        for pid in ranks():
            os.kill(pid, signal.SIGKILL)


def folder_of(verb: str, settings: JobSettings) -> Path:
    return {
        "pretrain": settings.pretraining_folder,
        "rank": settings.ranking_folder(Strategy.ST_SF),
    }[verb]


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Every validation, and every logged step's gradient norm, in full precision.

    Losses and AUCs of training are over the steps since the line before, which a resumed run has
    not all seen.
    """
    lines = RunFolder(folder).lines()
    return [
        {name: line[name] for name in ("step", "gradient_norm", "learning_rate")}
        if line["kind"] == "train"
        else line
        for line in lines
    ]


def exported(config: Path, override: str) -> dict[str, str]:
    """Digests of all tables and of the dense layers after export."""
    run(export.export, config, override, *LONGER)
    manifest = read_export(settings_of(config, override).export_folder)
    tables = {name: table.digest for name, table in manifest.tables.items()}
    return {**tables, "dense": manifest.source["dense_sha256"]}


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
