import json
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks import quality_runs
from benchmarks.quality_plan import BASE, DATA_SETS, Variant
from benchmarks.quality_runs import Runs
from jobs.settings import JobSettings
from jobs.strategies import Strategy
from pipeline.errors import ConfigError, StageError
from pipeline.settings import load_settings

BEAUTY = DATA_SETS["beauty"]
BOTH = (Strategy.NT, Strategy.ST_SF)


class Jobs:
    """Stands in for the processes: notes which job was started, and leaves what it would."""

    def __init__(self):
        self.started = []
        self.fails_at = ""

    def __call__(self, command, *, stdout, stderr, check):
        verb = command[2].removeprefix("jobs.")
        overrides = [word for flag, word in pairwise(command) if flag == "--set"]
        settings = load_settings(JobSettings, BEAUTY.config, overrides)
        of = f" {settings.ranking.strategy.value}" if verb == "rank" else ""
        self.started.append(verb + of)
        if verb == self.fails_at:
            return subprocess.CompletedProcess(command, 1)
        self.leave(verb, settings)
        return subprocess.CompletedProcess(command, 0)

    def leave(self, verb, settings):
        run = settings.ranking_folder(settings.ranking.strategy)
        if verb == "export":
            self.write(settings.export_folder / "manifest.json", {})
        elif verb == "rank":
            aucs = [0.6, 0.8, 0.7]
            lines = [json.dumps({"kind": "evaluation", "auc": auc, "step": 1}) for auc in aucs]
            self.write(run / "result.json", {})
            (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        elif verb == "evaluate":
            done = [s for s in Strategy if (settings.ranking_folder(s) / "result.json").exists()]
            tested = {s.value: {"test": {"auc": 0.75, "log_loss": 0.5}} for s in done}
            baselines = {"test": {"item popularity": {"auc": 0.65}}}
            path = settings.evaluation_folder / "result.json"
            self.write(path, {"strategies": tested, "baselines": baselines})

    def write(self, path, value):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))


@pytest.fixture
def jobs(monkeypatch):
    fake = Jobs()
    monkeypatch.setattr(quality_runs.subprocess, "run", fake)
    return fake


def test_finished_jobs_are_not_run_again(tmp_path, jobs):
    runs = Runs(tmp_path, BEAUTY)
    runs.run(BASE, 0, BOTH)
    assert jobs.started == ["pretrain", "export", "rank NT", "rank ST&SF", "evaluate"]
    runs.run(BASE, 0, BOTH)
    assert len(jobs.started) == 5
    runs.run(BASE, 0, (Strategy.NT, Strategy.FT))
    assert jobs.started[5:] == ["rank FT", "evaluate"]
    runs.run(BASE, 1, (Strategy.NT,))
    assert jobs.started[7:] == ["pretrain", "export", "rank NT", "evaluate"]


def test_variant_takes_the_tables_of_the_one_that_pretrained(tmp_path, jobs):
    runs = Runs(tmp_path, BEAUTY)
    runs.run(BASE, 0, (Strategy.ST_SF,))
    runs.run("authors' protocol", 0, BOTH)
    assert jobs.started[4:] == ["rank NT", "rank ST&SF"]


def test_found_is_what_is_finished(tmp_path, jobs):
    runs = Runs(tmp_path, BEAUTY)
    assert runs.found(3) == {}
    assert runs.baselines() == {}
    runs.run(BASE, 1, (Strategy.ST_SF,))
    runs.run("bf16", 0, (Strategy.NT,))
    figures = {"by_epoch": [0.6, 0.8, 0.7], "auc": 0.75, "log_loss": 0.5}
    assert runs.found(3) == {BASE: {"ST&SF": {1: figures}}, "bf16": {"NT": {0: figures}}}
    assert runs.found(1) == {"bf16": {"NT": {0: figures}}}


def test_untested_run_is_not_found(tmp_path, jobs):
    runs = Runs(tmp_path, BEAUTY)
    runs.run(BASE, 0, (Strategy.NT,))
    shutil.rmtree(next(tmp_path.rglob("evaluation")))
    assert runs.found(1) == {}


def test_other_settings_in_the_same_folder_are_an_error(tmp_path, jobs):
    Runs(tmp_path, BEAUTY).run(BASE, 0, (Strategy.NT,))
    other = replace(BEAUTY, variants={BASE: Variant(overrides=("embeddings.eps=1e-6",))})
    with pytest.raises(ConfigError, match="seed-0: was made with other settings"):
        Runs(tmp_path, other).run(BASE, 0, (Strategy.NT,))
    assert len(jobs.started) == 4


def test_failed_job_is_named_with_its_log_and_run_again(tmp_path, jobs):
    runs = Runs(tmp_path, BEAUTY)
    jobs.fails_at = "rank"
    with pytest.raises(StageError, match=r"rank of base/seed-0 failed with 1: .*rank\.log"):
        runs.run(BASE, 0, (Strategy.NT,))
    jobs.fails_at = ""
    runs.run(BASE, 0, (Strategy.NT,))
    assert jobs.started == ["pretrain", "export", "rank NT", "rank NT", "evaluate"]
