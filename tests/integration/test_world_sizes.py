"""A run that is cut short goes on with more or fewer processes: each row once an epoch."""

import contextlib

import pytest
import torch
import torch.distributed as dist

from jobs import pretrain
from jobs.distributed import World
from jobs.runs import RunFolder
from tests.distributed import run_distributed
from tests.integration.conftest import run, settings_of
from tests.integration.prepared import copy_prepared

NUM_EPOCHS = 4
OVERRIDES = (
    f"pretraining.training.epochs={NUM_EPOCHS}",
    "pretraining.training.checkpoint_every_steps=2",
)


class CutShortError(Exception):
    pass


def train_rank(config, root, stop_before):
    """One of several processes of a run that is cut short."""
    world = World(dist.get_rank(), dist.get_world_size(), 1, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pretrain, "join_world", lambda: contextlib.nullcontext(world))
        return train(config, root, stop_before)


def train(config, root, stop_before=None):
    """This rank's rows of each step that was begun before `stop_before`."""
    rows = {}
    real = pretrain.GenerativeModel.forward

    def forward(self, batch, step):
        if step == stop_before:
            raise CutShortError
        rows[step] = batch.row_ids[batch.weights > 0].tolist()
        return real(self, batch, step)

    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(CutShortError):
        patched.setattr(pretrain.GenerativeModel, "forward", forward)
        run(pretrain.pretrain, config, *OVERRIDES, f"data.root={root}", resume=True)
    return rows


def together(ranks):
    """Step -> all ranks' rows."""
    return {step: sorted(row for rank in ranks for row in rank[step]) for step in ranks[0]}


def final_loss(config, root):
    settings = settings_of(config, *OVERRIDES, f"data.root={root}")
    return RunFolder(settings.pretraining_folder).lines()[-1]["loss"]


@pytest.mark.integration
@pytest.mark.slow
def test_each_row_once_an_epoch_on_two_then_three_then_one(shop, tmp_path):
    roots = tmp_path / "undisturbed", tmp_path / "cut short"
    for root in roots:
        copy_prepared(shop, root)
    undisturbed = together([train(shop, roots[0])])
    steps_per_epoch = len(undisturbed) // NUM_EPOCHS

    seen = {}
    # Step 6 is lost with the first processes, and 12 with the second: made again by the next.
    for world_size, first, stop_before in ((2, 0, 7), (3, 6, 13)):
        ranks = run_distributed(train_rank, world_size, shop, roots[1], stop_before)
        assert min(ranks[0]) == first
        seen |= together(ranks)
    last = together([train(shop, roots[1])])
    assert min(last) == 12
    seen |= last
    assert seen == undisturbed
    for epoch in range(NUM_EPOCHS):
        steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        rows = [row for step in steps for row in seen[step]]
        assert sorted(rows) == list(range(len(rows)))
    assert final_loss(shop, roots[1]) == pytest.approx(final_loss(shop, roots[0]), rel=1e-3)
