import pytest

from jobs.runs import RunFolder
from pipeline.errors import CheckpointError

IDENTITY = {"training": {"rate": 0.1, "log_every_steps": 4}, "days": ["a", "b"]}


def with_rate(rate, **more):
    return {**IDENTITY, "training": {"rate": rate, "log_every_steps": 4, **more}}


def test_resuming_with_another_setting_names_it(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(IDENTITY, resume=False)
    run.start(with_rate(0.1, log_every_steps=9), resume=True)
    with pytest.raises(CheckpointError, match=r"training\.rate = 0.1, now it is 0.2.*start over"):
        run.start(with_rate(0.2), resume=True)


def test_a_setting_that_was_not_there_is_a_difference(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(IDENTITY, resume=False)
    with pytest.raises(CheckpointError, match=r"training\.clip = None, now it is 1"):
        run.check(with_rate(0.1, clip=1), "remedy")
    run.check(with_rate(0.1, clip=1), "remedy", but_for=["clip"])


def test_starting_over_keeps_the_run_before(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(IDENTITY, resume=False)
    run.log({"step": 1})
    run.start(IDENTITY, resume=False)
    assert run.lines() == []
    assert RunFolder(tmp_path / "run.previous").lines() == [{"step": 1}]


def test_metrics_of_steps_to_be_made_again_are_forgotten(tmp_path):
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.log({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    run.forget_after(2)
    assert run.lines() == [{"step": 1}, {"step": 2}]


def test_numbers_that_json_does_not_know_are_null(tmp_path):
    run = RunFolder(tmp_path)
    run.log({"step": 1, "auc": float("nan"), "losses": {"a": float("inf")}})
    assert run.lines() == [{"step": 1, "auc": None, "losses": {"a": None}}]
