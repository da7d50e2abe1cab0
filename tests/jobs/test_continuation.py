"""A run's model and optimizers taken over by the run that goes on from it."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from embeddings.digests import content_digests
from embeddings.growth import Growth
from embeddings.parameters import checkpoint_state, dense_parameters, table_parameters
from embeddings.settings import EmbeddingSettings
from jobs.checkpoint_files import content_digest, read_manifest
from jobs.checkpoints import CheckpointStore, Progress
from jobs.distributed import World
from jobs.optimizers import dense_optimizer, optimizer_state
from pipeline.errors import CheckpointError
from tests.distributed import run_distributed
from tests.embeddings.small_model import SPECS, batches, sharded_model
from tests.embeddings.test_growth import BEFORE, GROWTHS, KNOWN, NOW

SAME = {spec.name: Growth(spec, spec) for spec in SPECS}
KINDS = {
    "rowwise_adagrad": EmbeddingSettings(),
    "adagrad": EmbeddingSettings(optimizer="adagrad"),
    "adamw": EmbeddingSettings(optimizer="adamw"),
}


def make(folder, settings, specs):
    model = sharded_model(settings, specs=specs)
    optimizer = dense_optimizer(
        {
            "dense": (dense_parameters(model), 0.01, 0.1),
            "tables": (table_parameters(model), 0.05, 0.1),
        },
        (0.9, 0.98),
    )
    world = World(dist.get_rank(), dist.get_world_size(), 1, torch.device("cpu"))
    return CheckpointStore(folder=folder, world=world, model=model, optimizer=optimizer)


def save(folder, settings, specs):
    store = make(folder, settings, specs)
    for ids in batches(3):
        store.optimizer.zero_grad()
        store.model(ids).backward()
        store.optimizer.step()
    store.save(Progress(step=3))
    return content_digests(store.model), dense(store)


def dense(store):
    """What the dense optimizer steps, and its state."""
    parameters = {**dense_parameters(store.model), **table_parameters(store.model)}
    tensors = {**parameters, **optimizer_state(store.optimizer)}
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def go_on(folder, other, settings):
    """Take over with nothing new to learn from, and save."""
    store = make(other, settings, SPECS)
    store.take_over(folder / "step-00000003", SAME, with_optimizer=True)
    store.save(Progress(step=3))
    return content_digests(store.model), dense(store)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_with_nothing_new_to_learn_from_every_bit_stays(tmp_path, kind, world_size):
    folders = tmp_path / "before", tmp_path / "after"
    saved = run_distributed(save, world_size, folders[0], KINDS[kind], SPECS)
    taken = run_distributed(go_on, world_size, *folders, KINDS[kind])
    assert [rank[0] for rank in taken] == [rank[0] for rank in saved]
    manifests = [read_manifest(folder / "step-00000003") for folder in folders]
    assert content_digest(manifests[0]) == content_digest(manifests[1])
    names = [name for name in manifests[0]["files"] if name.endswith(".distcp")]
    assert len(names) == world_size
    for name in names:
        assert len({(folder / "step-00000003" / name).read_bytes() for folder in folders}) == 1


def take_over(folder, settings, with_optimizer):
    store = make(folder.with_name("other"), settings, NOW)
    store.take_over(folder / "step-00000003", GROWTHS, with_optimizer=with_optimizer)
    fused = [
        float(part.tensor.abs().sum())
        for tensors in checkpoint_state(store.model)["table_optimizer"].values()
        for tensor in tensors.values()
        for part in tensor.local_shards()
    ]
    return dense(store), sum(fused)


@pytest.mark.parametrize("with_optimizer", [True, False])
@pytest.mark.parametrize("world_size", [1, 2])
def test_adamw_takes_its_moments_along_as_the_table_grows(tmp_path, world_size, with_optimizer):
    saved = run_distributed(save, 2, tmp_path / "day", KINDS["adamw"], BEFORE)[0][1]
    for taken, _ in run_distributed(
        take_over, world_size, tmp_path / "day", KINDS["adamw"], with_optimizer
    ):
        assert taken.keys() == saved.keys()
        for name, values in taken.items():
            is_state = name.endswith((".exp_avg", ".exp_avg_sq", ".step"))
            table = next((table for table in KNOWN if f"table_{table}" in name), None)
            known = KNOWN[table] if table and values.ndim else len(np.atleast_1d(values))
            assert saved[name].any()
            if is_state and not with_optimizer:
                assert not values.any()
                continue
            before, after = np.atleast_1d(saved[name]), np.atleast_1d(values)
            assert np.array_equal(after[:known], before[:known])
            assert not is_state or not after[known:].any()


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_sums_of_squares_are_carried_or_start_at_zero(tmp_path, with_optimizer):
    settings = KINDS["rowwise_adagrad"]
    run_distributed(save, 1, tmp_path / "day", settings, BEFORE)
    ((_, total),) = run_distributed(take_over, 1, tmp_path / "day", settings, with_optimizer)
    assert bool(total) == with_optimizer


def take_over_as_adamw(folder):
    store = make(folder.with_name("other"), KINDS["adamw"], NOW)
    with pytest.raises(
        CheckpointError, match=r"cannot be taken over .*Missing key .*table_item_id"
    ):
        store.take_over(folder / "step-00000003", GROWTHS, with_optimizer=True)


def test_what_does_not_fit_is_said(tmp_path):
    run_distributed(save, 1, tmp_path / "day", KINDS["adagrad"], BEFORE)
    run_distributed(take_over_as_adamw, 1, tmp_path / "day")
