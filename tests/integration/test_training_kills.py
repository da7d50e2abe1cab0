"""Killed at any moment, training resumes to the same bits, and nothing half written is seen.

    python -m tests.integration.test_training_kills FOLDER NUM_KILLS [SEED]

does the same as often as one likes: NUM_KILLS of pretrain, as many of rank, and half as many of
export. A rank, all ranks or the submitter (torchrun's agent) is killed: after a random time, or
when a rank touches the run's files for the n-th time, inside a checkpoint's write say.
"""

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from embeddings.manifests import read_export
from jobs import prepare
from jobs.runs import RunFolder
from jobs.strategies import Strategy
from tests.integration.conftest import settings_of
from tests.integration.forked_torchrun import Death, Forked, is_alive
from tests.jobs.small_shop import write_shop

STAGES = ("pretrain", "export", "rank")
VICTIMS = ("rank", "all", "submitter")
OFTEN = (
    "pretraining.training.epochs=3",
    "pretraining.training.checkpoint_every_steps=2",
    "ranking.training.epochs=1",
    "ranking.training.checkpoint_every_steps=2",
)
NUM_KILLS = "2"
# What torch's agent waits for when it is not in a hurry, and then some.
PATIENCE_S = 20


class Killer:
    """Runs the stages and kills them; compares what they make with what they made undisturbed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = Random(seed)
        self.config = write_shop(folder)
        prepare.prepare_all(settings_of(self.config))
        self.counts: Counter[str] = Counter()
        self._num_runs = 0
        self._orphans: list[Forked] = []
        self._use("undisturbed")
        self.seconds: dict[str, float] = {}
        self.num_events: dict[str, list[int]] = {}
        for stage in STAGES:
            self._measure(stage)
        self.wanted = {stage: self._made(stage) for stage in STAGES}
        self._use("killed")

    def kill_stage(self, stage: str, num_kills: int) -> None:
        """Kill the stage that often, then let it come to its end and compare."""
        done = 0
        while done < num_kills:
            if self._kill_once(stage):
                done += 1
            elif self._is_finished(stage):
                self._compare(stage)
                self._forget(stage)
        self._end_orphans()
        run = self._start(stage, None)
        assert run.end() == 0, run.log
        self._compare(stage)

    def _kill_once(self, stage: str) -> bool:
        """Run and kill; whether it was still at work."""
        victim, rank = self.random.choice(VICTIMS), self.random.randrange(2)
        has_checkpoint = any(self._output(stage).glob("checkpoints/step-*/manifest.json"))
        if self.random.random() < 0.5:
            number = self.random.randint(1, self.num_events[stage][rank])
            run = self._start(stage, Death(rank, number, victim))
            self._wait_for(run, (run.notes / "died").exists)
            killed, moment = (run.notes / "died").exists(), "at a file"
        else:
            run = self._start(stage, None)
            self._wait(run, self.random.random() * self.seconds[stage])
            killed, moment = run.process.is_alive(), "at a time"
            self.counts["in a checkpoint's write"] += killed and self._is_writing(stage)
            run.kill(victim, rank)
        code = run.end()
        if "is still at work there" in run.log:
            self.counts["turned away"] += 1
            killed = False
        else:
            assert killed or code == 0, run.log
            assert not has_checkpoint or ", from the start" not in run.log, run.log
        self._end_orphans()
        if killed:
            self.counts[f"{stage}: {victim} {moment}"] += 1
            self._after(run, victim)
        self._check_whole(stage)
        return killed

    def _after(self, run: Forked, victim: str) -> None:
        """Ranks end by themselves; those of a killed submitter may meet the next run."""
        if victim == "submitter" and self.random.random() < 0.5:
            self._orphans.append(run)
            return
        if victim == "submitter":
            time.sleep(0.2)
            self.counts["ranks that outlived their submitter"] += any(map(is_alive, run.ranks))
        deadline = time.monotonic() + PATIENCE_S
        while any(map(is_alive, run.ranks)) and time.monotonic() < deadline:
            time.sleep(0.01)
        num_left = run.kill_what_is_left()
        assert not num_left or victim == "submitter", run.log
        self.counts["left as orphans"] += num_left

    def _end_orphans(self) -> None:
        for run in self._orphans:
            self.counts["left as orphans"] += run.kill_what_is_left()
        self._orphans.clear()

    def _measure(self, stage: str) -> None:
        run = self._start(stage, None)
        started = time.monotonic()
        assert run.end() == 0, run.log
        self.seconds[stage] = time.monotonic() - started
        self.num_events[stage] = [run.num_file_events(rank) for rank in range(2)]

    def _start(self, stage: str, death: Death | None) -> Forked:
        self._num_runs += 1
        overrides = [*OFTEN, f"data.root={self.root}"]
        arguments = [part for override in overrides for part in ("--set", override)]
        resume = [] if stage == "export" else ["--resume"]
        return Forked(
            [f"jobs.{stage}", "--config", str(self.config), *arguments, *resume],
            self.folder / "notes" / str(self._num_runs),
            self._output(stage),
            death,
        )

    def _wait(self, run: Forked, seconds: float) -> None:
        run.process.join(seconds)

    def _wait_for(self, run: Forked, condition) -> None:
        while run.process.is_alive() and not condition():
            time.sleep(0.01)

    def _use(self, name: str) -> None:
        """Put all that follows under a root of its own, beside the prepared data."""
        self.root = self.folder / name
        for path in settings_of(self.config).data.root.iterdir():
            if path.is_dir() and not path.name.startswith("."):
                shutil.copytree(path, self.root / path.name)

    def _output(self, stage: str) -> Path:
        settings = settings_of(self.config, *OFTEN, f"data.root={self.root}")
        return {
            "pretrain": settings.pretraining_folder,
            "export": settings.export_folder,
            "rank": settings.ranking_folder(Strategy.ST_SF),
        }[stage]

    def _forget(self, stage: str) -> None:
        shutil.rmtree(self._output(stage))

    def _is_finished(self, stage: str) -> bool:
        name = "manifest.json" if stage == "export" else "result.json"
        return (self._output(stage) / name).exists()

    def _is_writing(self, stage: str) -> bool:
        return any(self._output(stage).glob("checkpoints/.*.tmp"))

    def _check_whole(self, stage: str) -> None:
        """A folder that names itself an export is one."""
        if stage == "export" and self._is_finished(stage):
            read_export(self._output(stage))

    def _compare(self, stage: str) -> None:
        made, wanted = self._made(stage), self.wanted[stage]
        names = sorted(made.keys() | wanted.keys())
        different = [name for name in names if made.get(name) != wanted.get(name)]
        assert not different, f"{stage} differs, run {self._num_runs}: {different}"
        self.counts[f"{stage}: finished, the same bits"] += 1

    def _made(self, stage: str) -> dict[str, Any]:
        """What the stage leaves, bit for bit, but for times and places.

        Of the logged losses and AUCs of training there is nothing: they are over the steps since
        the line before, which a resumed run has not all seen.
        """
        folder = self._output(stage)
        if stage == "export":
            manifest = read_export(folder).model_dump()
            manifest["source"].pop("checkpoint")
            for table in manifest["tables"].values():
                for file in table["files"]:
                    file["bytes"] = (folder / file.pop("name")).read_bytes()
            files = sorted(path.name.partition("-")[0] for path in folder.iterdir())
            return {**manifest, "names": files}
        weights = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.glob("checkpoints/*/*.distcp")
        }
        lines = [
            {name: line[name] for name in ("step", "gradient_norm", "learning_rate")}
            if line["kind"] == "train"
            else line
            for line in RunFolder(folder).lines()
        ]
        names = sorted(path.name for path in folder.rglob("*"))
        return {**weights, "lines": lines, "names": names}


def kill_often(folder: Path, num_kills: int, seed: int = 0) -> dict[str, int]:
    """Kill pretrain and rank that often each, and export half as often."""
    killer = Killer(folder, seed)
    for stage, share in (("pretrain", 1), ("export", 0.5), ("rank", 1)):
        killer.kill_stage(stage, max(1, int(num_kills * share)))
    return dict(killer.counts)


def main() -> None:
    folder, num_kills, *seed = sys.argv[1:]
    counts = kill_often(Path(folder), int(num_kills), *map(int, seed))
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")


@pytest.mark.slow
@pytest.mark.integration
def test_killed_at_random_moments_it_ends_as_if_never_disturbed(tmp_path):
    """In a process of its own, whose server of forks has imported what this needs."""
    command = [sys.executable, "-m", "tests.integration.test_training_kills", str(tmp_path)]
    done = subprocess.run([*command, NUM_KILLS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished, the same bits") == len(STAGES)


if __name__ == "__main__":
    main()
