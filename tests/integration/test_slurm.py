"""The verbs as jobs of a real Slurm of two nodes, submitted by torchx as the chain does it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from torchx.runner import get_runner
from torchx.specs import AppState

from jobs import components
from jobs.launch import Submission, find_job, run_stage, submit, watch
from jobs.ledger.ledger import open_ledger
from jobs.runs import RunFolder
from pipeline.errors import StageError
from tests.integration.conftest import settings_of
from tests.integration.prepared import KINDS, copy_prepared
from tests.integration.processes import stages_at
from tests.integration.slurm_cluster import NODES, missing_part, slurm_cluster
from tests.jobs.ledgers import wait_for, write

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(missing_part() is not None, reason=f"no Slurm here: {missing_part()}"),
]

QUICK = ("pretraining.training.epochs=2",)
DAILY = Path(__file__).parents[2] / "deploy/configs/daily.toml"
# One task, small models, gates that any model passes: the way is tested, not the models.
SMALL = (
    'days.pretraining=["2024-01-01", "2024-01-08"]',
    'days.ranking=["2024-01-06", "2024-01-08"]',
    "holdout.share=0.2",
    "checks.max_action_drift=0.5",
    "checks.min_rows=1000",
    "pretraining.architecture=L1H32A2",
    "pretraining.softmax.num_negatives=64",
    "pretraining.training.epochs=1",
    "pretraining.training.warmup_steps=1",
    "ranking.architecture=L1H32A2",
    "ranking.training.warmup_steps=1",
    "daily.scheduler=slurm",
    'daily.tasks=["ctr"]',
    "daily.stages.pretrain.nodes=2",
    "daily.gates.min_candidates=1",
    "daily.gates.min_auc=0",
    "daily.gates.calibration=[0.0, 100.0]",
)


# As if the driver had been killed before it could record that.
FORGET = "UPDATE ledger_stages SET handle = '', state = 'submitted' WHERE state = 'running'"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster that Slurm's commands, and so torchx, find through the environment."""
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster(folder) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", running.environment["SLURM_CONF"])
        yield running


@pytest.fixture
def runner(cluster, tmp_path, monkeypatch):
    """A Runner whose notes on jobs (`.torchxslurmjobdirs`) are kept out of the checkout."""
    monkeypatch.chdir(tmp_path)
    with get_runner() as runner:
        yield runner


def start(runner, folder, app):
    """Submit to Slurm, with the job's output in a folder; returns its handle."""
    folder.mkdir()
    return runner.run(app, "slurm", {"job_dir": str(folder)})


def ended(runner, handle, timeout_s=600):
    """The state a job ended in."""
    deadline = time.monotonic() + timeout_s
    while not (status := runner.status(handle)) or not status.is_terminal():
        assert time.monotonic() < deadline, f"still {status and status.state}"
        time.sleep(0.3)
    return status.state


def output_of(folder):
    """Everything a job wrote, for the message of a failed test."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("slurm-*")))


def manifests(root: Path):
    """Every published day's manifest, by its path."""
    found = (path for kind in KINDS for path in (root / kind).rglob("manifest.json"))
    return {str(path.relative_to(root)): json.loads(path.read_text()) for path in found}


def test_prepare_publishes_what_it_does_here(runner, shop, tmp_path):
    root, job = tmp_path / "root", tmp_path / "job"
    handle = start(runner, job, components.prepare(str(shop), f"data.root={root}"))
    assert ended(runner, handle) == AppState.SUCCEEDED, output_of(job)
    published = manifests(root)
    assert {path.partition("/")[0] for path in published} >= {"sequences", "requests"}
    assert published == manifests(settings_of(shop).data.root)


def test_pretraining_on_two_nodes(runner, cluster, shop, tmp_path):
    """Each rank on its own node, found through Slurm's list of them."""
    root, job = tmp_path / "root", tmp_path / "job"
    copy_prepared(shop, root)
    overrides = (f"data.root={root}", *QUICK)
    handle = start(runner, job, components.pretrain(str(shop), *overrides, j="2x1"))
    assert ended(runner, handle) == AppState.SUCCEEDED, output_of(job)

    folder = RunFolder(settings_of(shop, *overrides).pretraining_folder)
    assert json.loads((folder.path / "result.json").read_text())["world_size"] == 2
    number = handle.rpartition("/")[2]
    listed = cluster.call("sacct", "-j", number, "-n", "-P", "--format=NodeList,State")
    assert {line.partition("|")[0] for line in listed.splitlines()} >= set(NODES)


@pytest.mark.parametrize("node", NODES)
def test_a_job_of_two_nodes_fails_with_either_of_its_agents(runner, shop, tmp_path, node):
    root, job = tmp_path / "root", tmp_path / "job"
    copy_prepared(shop, root)
    override = f"data.root={root}"
    handle = start(runner, job, components.pretrain(str(shop), override, *QUICK, j="2x1"))
    wait_for(lambda: agents_on(node, override))
    (agent,) = agents_on(node, override)
    os.kill(agent, signal.SIGKILL)
    assert ended(runner, handle) == AppState.FAILED, output_of(job)
    assert not (settings_of(shop, override, *QUICK).pretraining_folder / "result.json").exists()


def agents_on(node, override):
    """torchrun's agents of a job there."""
    agents = [pid for pid, line in stages_at(override).items() if "torchrun" in line[1]]
    variables = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in agents}
    return [pid for pid in agents if f"SLURMD_NODENAME={node}\0".encode() in variables[pid]]


def test_another_driver_sees_how_a_stage_failed(runner, shop, tmp_path):
    """By the handle alone; what the stage said is in its folder."""
    root, job = tmp_path / "root", tmp_path / "job"
    handle = start(runner, job, components.export(str(shop), f"data.root={root}", j="1x1"))
    with get_runner() as another:
        assert ended(another, handle) == AppState.FAILED
    assert "CheckpointError: " in output_of(job)


def submission(shop, tmp_path, verb):
    """A stage whose data is not there."""
    return Submission(
        verb=verb,
        config=shop,
        overrides=(f"data.root={tmp_path / 'root'}",),
        title=verb,
        log_folder=tmp_path / "logs",
        scheduler="slurm",
    )


def test_a_failed_stage_is_told_by_the_error_it_ended_with(runner, shop, tmp_path):
    with pytest.raises(StageError, match="export ended FAILED: CheckpointError: "):
        run_stage(runner, submission(shop, tmp_path, "export"))


def test_a_stage_that_somebody_cancels_is_seen_to_end(runner, cluster, shop, tmp_path):
    job = tmp_path / "job"
    handle = start(runner, job, components.prepare(str(shop), f"data.root={tmp_path / 'root'}"))
    cluster.call("scancel", handle.rpartition("/")[2])
    asked = submission(shop, tmp_path, "prepare")
    assert watch(runner, handle, asked, timeout_s=300) == AppState.CANCELLED


def test_a_stage_is_found_by_its_name(runner, shop, tmp_path):
    """At once, and when it has ended."""
    since = datetime.now(UTC)
    asked = replace(submission(shop, tmp_path, "export"), name="0123456789abcdef")
    handle = submit(runner, asked)
    assert find_job(runner, "slurm", asked.name, since) == handle
    assert ended(runner, handle) == AppState.FAILED
    assert find_job(runner, "slurm", asked.name, since) == handle
    assert find_job(runner, "slurm", "0123456789abcdee", since) is None


def test_a_job_that_slurm_does_not_know_is_given_up(runner, shop, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.launch._UNHEARD_OF_S", 2.0)
    asked = submission(shop, tmp_path, "prepare")
    assert watch(runner, "slurm://torchx/999999", asked, timeout_s=300) == AppState.UNKNOWN


def test_a_day_of_the_chain(cluster, tmp_path):
    """From events to what serves, every stage a job of Slurm; run again, nothing is left to do.

    Its first driver is killed when Slurm has a job, and the ledger does not know as which.
    """
    root, events = tmp_path / "root", tmp_path / "simulated"
    size = ("--users", "400", "--items", "200", "--days", "9")
    simulate = [sys.executable, "-m", "jobs.simulate", "--out", str(events), *size]
    subprocess.run(simulate, check=True, capture_output=True)
    command = [sys.executable, "-m", "jobs.daily", "--config", str(DAILY), "--day", "2024-01-08"]
    for override in (f"data.root={root}", f"source.path={events / 'events'}", *SMALL):
        command += ["--set", override]

    kill_when_pretraining(command, cluster, tmp_path)
    write(open_ledger(root / "runs/ledger.sqlite"), FORGET)
    done = run_there(command, cluster, tmp_path)
    assert "2024-01-08 pretrain: found at its scheduler, as slurm://" in done
    assert json.loads((root / "published/current.json").read_text())["day"] == "2024-01-08", done
    jobs = jobs_of(cluster)
    newest = [name.partition("-")[0] for name, _ in jobs][-6:]
    assert newest == ["prepare", "pretrain", "pretrain", "export", "rank", "judge"]
    assert {state for _, state in jobs[-6:]} == {"COMPLETED"}

    assert "2024-01-08: published already" in run_there(command, cluster, tmp_path)
    assert jobs_of(cluster) == jobs


def kill_when_pretraining(command, cluster, folder):
    """Start the driver, and kill it as soon as both nodes pretrain."""
    with (folder / "driver.log").open("w") as log:
        driver = subprocess.Popen(command, cwd=folder, env=cluster.environment, stdout=log)
    deadline = time.monotonic() + 300
    while "pretrain-" not in cluster.call("squeue", "--noheader", "--states=R", "--format=%j"):
        assert driver.poll() is None, (folder / "driver.log").read_text()
        assert time.monotonic() < deadline, (folder / "driver.log").read_text()
        time.sleep(0.1)
    driver.kill()
    driver.wait()


def run_there(command, cluster, folder):
    """What the driver prints, run in a folder where Slurm may leave its files."""
    done = subprocess.run(
        command, cwd=folder, env=cluster.environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def jobs_of(cluster):
    """Name and state of every job there was, by its number."""
    listed = cluster.call("sacct", "-X", "-n", "-P", "--format=JobName,State").splitlines()
    return [tuple(line.split("|")) for line in listed]
