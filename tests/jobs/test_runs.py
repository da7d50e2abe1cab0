import pytest

from jobs.runs import RunFolder
from pipeline.errors import CheckpointError
from pipeline.settings import Settings


class Inner(Settings):
    rate: float = 0.1
    prefetch: int = 4


class Outer(Settings):
    inner: Inner = Inner()
    other: int = 0


def test_resuming_with_another_setting_names_it(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(Outer(), ["inner"], resume=False)
    run.start(Outer(inner=Inner(prefetch=9), other=5), ["inner"], resume=True)
    with pytest.raises(CheckpointError, match=r"inner\.rate = 0.1, now it is 0.2"):
        run.start(Outer(inner=Inner(rate=0.2)), ["inner"], resume=True)


def test_starting_over_keeps_the_run_before(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(Outer(), ["inner"], resume=False)
    run.log({"step": 1})
    run.start(Outer(), ["inner"], resume=False)
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
