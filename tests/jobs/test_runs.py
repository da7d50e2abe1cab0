import json

import pytest

from jobs.runs import RunFolder, remove_unfinished, write_json
from pipeline.errors import CheckpointError
from pipeline.settings import Settings

IDENTITY = {"ranking": {"training": {"rate": 0.1, "log_every_steps": 4}}, "days": ["a", "b"]}


class Whole(Settings):
    everything: int = 1


def with_training(**training):
    return {**IDENTITY, "ranking": {"training": {"rate": 0.1, "log_every_steps": 4, **training}}}


def start(run, identity=IDENTITY, *, resume=False):
    run.start(Whole(), identity, resume=resume)


def test_resuming_with_another_setting_names_it(tmp_path):
    run = RunFolder(tmp_path / "run")
    start(run)
    start(run, with_training(log_every_steps=9), resume=True)
    with pytest.raises(CheckpointError, match=r"training\.rate = 0.1, now it is 0.2.*start over"):
        start(run, with_training(rate=0.2), resume=True)


def test_a_setting_that_was_not_there_is_a_difference(tmp_path):
    run = RunFolder(tmp_path / "run")
    start(run)
    with pytest.raises(CheckpointError, match=r"training\.clip = None, now it is 1"):
        run.check(with_training(clip=1), "remedy")
    run.check(with_training(clip=1), "remedy", but_for=["ranking.training.*"])


def test_only_the_whole_path_is_left_out(tmp_path):
    run = RunFolder(tmp_path / "run")
    start(run, {"vocabularies": {"verify": "a"}})
    with pytest.raises(CheckpointError, match=r"vocabularies\.verify"):
        run.check({"vocabularies": {"verify": "b"}}, "remedy")


def test_an_unfinished_run_never_replaces_a_finished_one(tmp_path):
    run = RunFolder(tmp_path / "run")
    start(run)
    write_json(run.path / "result.json", {"auc": 1})
    start(run)
    start(run)
    assert json.loads((tmp_path / "run.previous" / "result.json").read_text()) == {"auc": 1}


def test_starting_over_keeps_the_run_before(tmp_path):
    run = RunFolder(tmp_path / "run")
    start(run)
    run.log({"step": 1})
    start(run)
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


def test_what_is_unfinished_is_removed_be_it_a_folder_or_a_file(tmp_path):
    kept = [tmp_path / "step-00000100", tmp_path / ".lock"]
    (tmp_path / ".step-00000200.tmp").mkdir()
    for path in (*kept, tmp_path / ".result.json.7.tmp"):
        path.write_text("")
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_of_some_names_only_those_are_removed(tmp_path):
    others = tmp_path / ".prepare.attempt.tmp"
    for path in (others, tmp_path / ".progress.json.7.tmp"):
        path.write_text("")
    remove_unfinished(tmp_path, "progress.json*")
    assert list(tmp_path.iterdir()) == [others]
