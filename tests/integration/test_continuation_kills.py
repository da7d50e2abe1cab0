"""Days that go on from each other, killed and resumed, end as if never disturbed.

    python -m tests.integration.test_continuation_kills FOLDER [SEED [NUM_DAYS]]

Three days, two of them in the test, two processes a run. Every run of the days after the first is
killed twice, early and late: a rank, all ranks, or the submitter.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from jobs import prepare
from tests.integration.conftest import settings_of
from tests.integration.forked_torchrun import Death, Forked
from tests.integration.test_continuation import up_to, write_daily_shop

DAYS = ("2024-01-03", "2024-01-04", "2024-01-05")
STAGES = ("pretrain", "export", "rank")
VICTIMS = ("rank", "all", "submitter")
OFTEN = (
    "ranking.strategy=FT&SF",
    *(f"{job}.training.epochs=2" for job in ("pretraining", "ranking")),
    *(f"{job}.training.checkpoint_every_steps=2" for job in ("pretraining", "ranking")),
)
# Shares of a run's file events, after which it is killed.
MOMENTS = (0.2, 0.6)
# In the test.
SEED, NUM_DAYS = 0, 2


class Chain:
    """Days of runs under one root after the other."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, Random(seed)
        self.config = write_daily_shop(folder)
        for day in DAYS:
            prepare.prepare_all(settings_of(self.config, *up_to(day)))
        self.root = settings_of(self.config).data.root
        self._num_runs = 0
        self.num_events: dict[tuple[str, str], list[int]] = {}

    def run_day(self, day: str, before: str | None, *, disturbed: bool) -> None:
        for stage in STAGES:
            if disturbed and stage != "export":
                for share in MOMENTS:
                    self._kill(stage, day, before, share)
            run = self._start(stage, day, before, None)
            assert run.end() == 0, run.log
            assert not disturbed or stage == "export" or "resumed from" in run.log, run.log
            if not disturbed:
                numbers = [run.num_file_events(rank) for rank in range(2)]
                self.num_events[stage, day] = numbers

    def learnt(self, day: str) -> dict[str, bytes]:
        """The day's checkpoints."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.glob(f"*/**/day={day}/checkpoints/*/*.distcp")
        }

    def _kill(self, stage: str, day: str, before: str | None, share: float) -> None:
        rank, victim = self.random.randrange(2), self.random.choice(VICTIMS)
        number = max(1, int(self.num_events[stage, day][rank] * share))
        run = self._start(stage, day, before, Death(rank, number, victim))
        run.end()
        run.kill_what_is_left()
        assert (run.notes / "died").exists(), run.log

    def _start(self, stage: str, day: str, before: str | None, death: Death | None) -> Forked:
        self._num_runs += 1
        overrides = (*up_to(day, before, *OFTEN), f"data.root={self.root}")
        sets = [part for override in overrides for part in ("--set", override)]
        resume = [] if stage == "export" else ["--resume"]
        settings = settings_of(self.config, *overrides)
        watched = {
            "pretrain": settings.pretraining_folder,
            "export": settings.export_folder,
            "rank": settings.ranking_folder(settings.ranking.strategy),
        }
        return Forked(
            [f"jobs.{stage}", "--config", str(self.config), *sets, *resume],
            self.folder / "notes" / str(self._num_runs),
            watched[stage],
            death,
        )


def main() -> None:
    folder, *more = Path(sys.argv[1]), *map(int, sys.argv[2:])
    seed, num_days = [*more, *(0, len(DAYS))[len(more) :]]
    days = DAYS[:num_days]
    chain = Chain(folder, seed)
    chain.run_day(days[0], None, disturbed=False)
    again = folder / "again"
    shutil.copytree(chain.root, again)
    later = list(zip(days[1:], days, strict=False))
    for day, before in later:
        chain.run_day(day, before, disturbed=False)
    wanted = [chain.learnt(day) for day in days]
    chain.root = again
    for day, before in later:
        chain.run_day(day, before, disturbed=True)
    assert all(wanted), "there is something to compare"
    for day, want in zip(days, wanted, strict=True):
        found = chain.learnt(day)
        assert found.keys() == want.keys(), day
        different = [name for name, content in want.items() if found[name] != content]
        assert not different, f"{day}: {different}"
        print(f"{day}: {len(found)} files, the same bits")


@pytest.mark.slow
@pytest.mark.integration
def test_a_chain_of_days_killed_and_resumed_ends_as_if_never_disturbed(tmp_path):
    """In a process of its own, whose server of forks has imported what this needs."""
    arguments = [str(tmp_path), str(SEED), str(NUM_DAYS)]
    command = [sys.executable, "-m", "tests.integration.test_continuation_kills", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same bits") == NUM_DAYS


if __name__ == "__main__":
    main()
