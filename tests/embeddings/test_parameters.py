import pytest
import torch
import torch.distributed.checkpoint as dcp

from embeddings.digests import content_digests
from embeddings.parameters import checkpoint_state
from embeddings.settings import EmbeddingSettings
from tests.distributed import run_distributed
from tests.embeddings.small_model import sharded_model, train

CASES = {
    "table_wise": EmbeddingSettings(),
    "element_wise": EmbeddingSettings(optimizer="adagrad", sharding={"item_id": "column_wise"}),
    "data_parallel": EmbeddingSettings(optimizer="adamw"),
}


def save(folder, settings):
    model = sharded_model(settings)
    train(model)
    dcp.save(checkpoint_state(model), checkpoint_id=folder)
    return content_digests(model), train(model), content_digests(model)


def load(folder, settings):
    model = sharded_model(settings)
    dcp.load(checkpoint_state(model), checkpoint_id=folder)
    return content_digests(model), train(model), content_digests(model)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_training_goes_on_from_a_checkpoint_of_two_ranks(tmp_path, case, world_size):
    settings = CASES[case]
    saved = run_distributed(save, 2, str(tmp_path), settings)[0]
    for rank in run_distributed(load, world_size, str(tmp_path), settings):
        assert rank[0] == saved[0]
        if world_size == 2:
            assert rank == saved
        else:
            assert rank[1] == pytest.approx(saved[1], rel=1e-5)


def sums_of_squares(folder, settings):
    model = sharded_model(settings)
    if folder.is_dir():
        dcp.load(checkpoint_state(model), checkpoint_id=str(folder))
    else:
        train(model)
        dcp.save(checkpoint_state(model), checkpoint_id=str(folder))
    return {
        name: [local.tensor.clone().numpy() for local in value.local_shards()]
        for state in checkpoint_state(model)["table_optimizer"].values()
        for name, value in state.items()
    }


def test_optimizer_state_is_bit_equal_at_another_world_size(tmp_path):
    folder = tmp_path / "checkpoint"
    saved: dict = {}
    for rank in run_distributed(sums_of_squares, 2, folder, CASES["table_wise"]):
        saved |= {name: parts for name, parts in rank.items() if parts}
    (loaded,) = run_distributed(sums_of_squares, 1, folder, CASES["table_wise"])
    assert sorted(loaded) == sorted(saved)
    for name, (values,) in loaded.items():
        assert values.any()
        assert torch.equal(torch.from_numpy(values), torch.from_numpy(saved[name][0]))
