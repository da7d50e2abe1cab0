"""A stage that a driver submitted before it was killed is found by its name."""

import subprocess
from datetime import UTC, date, datetime

import pytest
from torchx.runner import get_runner
from torchx.schedulers.api import ListAppResponse
from torchx.specs import AppState, AppStatus

from jobs import launch
from jobs.launch import Submission, cancel, find_job, submit
from jobs.ledger.ledger import open_ledger
from jobs.ledger.records import StageKey
from pipeline.errors import StageError, UnansweredError

SINCE = datetime(2024, 1, 9, 23, tzinfo=UTC)
QUEUED = "12|other-0\n13|pretrain-abc-1\n"
ENDED = "7|two words\n12|pretrain-abc-0\n13|pretrain-abc-1\n"


class Scheduler:
    """What is asked of torchx's Runner."""

    def __init__(self, *app_ids):
        self.app_ids = app_ids
        self.submitted = []

    def name(self):
        return "torchx"

    def list(self, scheduler):
        return [
            ListAppResponse(app_id, AppState.RUNNING, f"{scheduler}://torchx/{app_id}")
            for app_id in self.app_ids
        ]

    def run(self, app, scheduler, options):
        del scheduler, options
        self.submitted.append(app)
        return "handle"


def submitted(tmp_path, scheduler, **more):
    """What an attempt called abc is submitted as."""
    runner = Scheduler()
    asked = Submission(
        verb="export",
        config=tmp_path / "config.toml",
        name="abc",
        title="export",
        log_folder=tmp_path / "logs",
        scheduler=scheduler,
        **more,
    )
    submit(runner, asked)
    (app,) = runner.submitted
    return app


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm's two lists of jobs, as files."""
    for command in ("squeue", "sacct"):
        script = tmp_path / "bin" / command
        script.parent.mkdir(exist_ok=True)
        listed = tmp_path / command
        script.write_text(f'#!/bin/sh\necho "$@" > {listed}.asked\ncat {listed}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return tmp_path


def test_an_attempts_name_is_its_own_and_stays_the_same(tmp_path):
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    key, made_of = StageKey(date(2024, 1, 8), "rank", "ctr"), {"config": "", "code": ""}
    first = ledger.begin(key, inputs={}, **made_of)
    with ledger.lease("daily") as lease:
        adopted = ledger.adopt(first, lease)
    assert ledger.latest(key).name == adopted.name == first.name
    ledger.finish(adopted, "lost")
    assert ledger.begin(key, inputs={}, **made_of).name != first.name


def test_by_the_apps_name(tmp_path):
    app = submitted(tmp_path, "kubernetes")
    runner = Scheduler("days:frostrank-xyz-r4nd0m", f"days:{app.name}-r4nd0m")
    found = find_job(runner, "kubernetes", "abc", SINCE)
    assert found == f"kubernetes://torchx/days:{app.name}-r4nd0m"
    assert find_job(runner, "kubernetes", "abd", SINCE) is None


def test_containers_see_what_is_mounted(tmp_path):
    mounts = ("type=bind,src=/data,dst=/in,readonly", "type=volume,src=fs-1,dst=/root")
    app = submitted(tmp_path, "aws_batch", mounts=mounts, processes=2)
    with get_runner() as runner:
        request = runner.dryrun(app, "aws_batch", {"queue": "q"}).request
    for node in request.job_def["nodeProperties"]["nodeRangeProperties"]:
        container = node["container"]
        # The first is torchx's own shared memory or none, ours are the last two.
        assert [(m["containerPath"], m["readOnly"]) for m in container["mountPoints"]] == [
            ("/in", True),
            ("/root", False),
        ]
        bind, volume = container["volumes"]
        assert bind["host"] == {"sourcePath": "/data"}
        assert volume["efsVolumeConfiguration"] == {"fileSystemId": "fs-1"}


def test_on_slurm_by_the_jobs_name(tmp_path, slurm):
    (role,) = submitted(tmp_path, "slurm").roles
    assert role.name == "export-abc"
    (slurm / "squeue").write_text(QUEUED)
    (slurm / "sacct").write_text(ENDED)
    # A job of two nodes is known by its first part.
    assert find_job(Scheduler(), "slurm", "abc", SINCE) == "slurm://torchx/12"
    assert find_job(Scheduler(), "slurm", "abd", SINCE) is None
    # The cluster's day may have begun later.
    assert "--starttime=2024-01-08" in (slurm / "sacct.asked").read_text()


def test_a_slurm_that_does_not_answer_does_not_mean_that_there_is_no_job(slurm):
    (slurm / "squeue").write_text(QUEUED)
    with pytest.raises(StageError, match=r"^sacct: .*No such file.* again when it answers"):
        find_job(Scheduler(), "slurm", "abc", SINCE)


def test_a_scheduler_that_refuses_a_stage_fails_that_attempt(tmp_path, monkeypatch):
    def refuse(*_):
        raise subprocess.CalledProcessError(1, ["sbatch", "--parsable"])

    monkeypatch.setattr(Scheduler, "run", refuse)
    with pytest.raises(StageError, match=r"^slurm did not take export: .*sbatch"):
        submitted(tmp_path, "slurm")


def test_whatever_a_scheduler_fails_with_is_told_as_an_error_of_the_stage(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("Undefined scheduler backend")

    for name in ("run", "list", "cancel"):
        monkeypatch.setattr(Scheduler, name, fail, raising=False)
    with pytest.raises(StageError, match=r"^aws_batch did not take export: KeyError: .*backend"):
        submitted(tmp_path, "aws_batch")
    with pytest.raises(StageError, match=r"^aws_batch does not say .* again when it answers"):
        find_job(Scheduler(), "aws_batch", "abc", SINCE)
    with pytest.raises(StageError, match=r"^aws_batch://torchx/7 could not be cancelled: KeyError"):
        cancel(Scheduler(), "aws_batch://torchx/7")


def test_a_machine_without_slurm_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match=r"^squeue: .*No such file"):
        find_job(Scheduler(), "slurm", "abc", SINCE)


class Silent(Scheduler):
    """A scheduler that answers only sometimes."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = list(answers)

    def status(self, handle):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return AppStatus(answer)


def watched(tmp_path, monkeypatch, *answers):
    monkeypatch.setattr(launch, "_POLL_S", 0.01)
    config = tmp_path / "config.toml"
    asked = Submission(verb="export", config=config, title="export", log_folder=tmp_path)
    return launch.watch(Silent(*answers), "kubernetes://torchx/7", asked)


def test_a_scheduler_that_does_not_answer_for_a_while_ends_nothing(tmp_path, monkeypatch, capsys):
    away = OSError("connection refused")
    answers = (AppState.RUNNING, away, away, AppState.RUNNING, away, AppState.SUCCEEDED)
    assert watched(tmp_path, monkeypatch, *answers) == AppState.SUCCEEDED
    # Once each time.
    assert capsys.readouterr().out.count("OSError: connection refused; asking on") == 2


def test_one_that_never_answers_again_may_have_it_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_UNANSWERED_S", 0.05)
    with pytest.raises(UnansweredError, match="how it is: OSError: gone; run the same command"):
        watched(tmp_path, monkeypatch, OSError("gone"))


def test_this_machines_own_scheduler_is_not_asked():
    assert find_job(Scheduler("abc"), "local_cwd", "abc", SINCE) is None
