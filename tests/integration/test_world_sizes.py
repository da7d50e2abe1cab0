"""A run that is cut short goes on with more or fewer processes: each row once an epoch."""

import contextlib
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist

from jobs import pretrain, rank
from jobs.distributed import World
from jobs.runs import RunFolder
from jobs.strategies import Strategy
from jobs.training import TrainingRun
from pipeline.batches import SequenceBatch
from tests.distributed import run_distributed
from tests.integration.conftest import run, settings_of
from tests.integration.prepared import copy_prepared

JOBS = {"pretrain": pretrain, "rank": rank}
NUM_EPOCHS = {"pretrain": 4, "rank": 2}
OVERRIDES = (
    f"pretraining.training.epochs={NUM_EPOCHS['pretrain']}",
    "pretraining.training.checkpoint_every_steps=2",
    f"ranking.training.epochs={NUM_EPOCHS['rank']}",
    "ranking.training.checkpoint_every_steps=2",
    "ranking.evaluations_per_epoch=1",
    "ranking.strategy=NT",
)


class CutShortError(Exception):
    pass


def train_rank(job, config, root, stop_before):
    """One of several processes of a run that is cut short."""
    world = World(dist.get_rank(), dist.get_world_size(), 1, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(JOBS[job], "join_world", lambda: contextlib.nullcontext(world))
        return train(job, config, root, stop_before)


def train(job, config, root, stop_before=None):
    """This rank's rows of each step that was begun before `stop_before`."""
    rows = {}
    real = TrainingRun._forward

    def forward(self, batch, step):
        if step == stop_before:
            raise CutShortError
        rows[step] = batch.row_ids[counted(batch)].tolist()
        return real(self, batch, step)

    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(CutShortError):
        patched.setattr(TrainingRun, "_forward", forward)
        run(getattr(JOBS[job], job), config, *OVERRIDES, f"data.root={root}", resume=True)
    return rows


def counted(batch):
    """(rows,) whether a row is of the data, and not a filler."""
    if isinstance(batch, SequenceBatch):
        return batch.weights > 0
    ends = batch.candidate_offsets.tolist()
    return torch.tensor([bool(batch.weights[a:b].any()) for a, b in pairwise(ends)])


def together(ranks):
    """Step -> all ranks' rows."""
    return {step: sorted(row for rank in ranks for row in rank[step]) for step in ranks[0]}


def final_loss(job, config, root):
    settings = settings_of(config, *OVERRIDES, f"data.root={root}")
    folders = {
        "pretrain": settings.pretraining_folder,
        "rank": settings.ranking_folder(Strategy.NT),
    }
    lines = RunFolder(folders[job]).lines()
    return [line["loss"] for line in lines if line["kind"] == "train"][-1]


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_each_row_once_an_epoch_on_two_then_three_then_one(shop, tmp_path, job):
    roots = tmp_path / "undisturbed", tmp_path / "cut short"
    for root in roots:
        copy_prepared(shop, root)
    undisturbed = together([train(job, shop, roots[0])])
    steps_per_epoch = len(undisturbed) // NUM_EPOCHS[job]

    seen = {}
    # Step 6 is lost with the first processes, and 12 with the second: made again by the next.
    for world_size, first, stop_before in ((2, 0, 7), (3, 6, 13)):
        ranks = run_distributed(train_rank, world_size, job, shop, roots[1], stop_before)
        assert min(ranks[0]) == first
        seen |= together(ranks)
    last = together([train(job, shop, roots[1])])
    assert min(last) == 12
    seen |= last
    assert seen == undisturbed
    for epoch in range(NUM_EPOCHS[job]):
        steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        rows = [row for step in steps for row in seen[step]]
        assert sorted(rows) == list(range(len(rows)))
    assert final_loss(job, shop, roots[1]) == pytest.approx(
        final_loss(job, shop, roots[0]), rel=1e-3
    )
