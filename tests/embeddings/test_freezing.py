import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from embeddings.digests import content_digests
from embeddings.freezing import check_frozen, prove_unchanged
from embeddings.parameters import checkpoint_state, dense_parameters, table_parameters
from embeddings.settings import EmbeddingSettings
from embeddings.shards import local_shards
from pipeline.errors import DigestError, ExportError
from tests.distributed import run_distributed
from tests.embeddings.small_model import ROWS, batches, plain_model, sharded_model, train

FROZEN = ("item_id", "type")
SPREAD = EmbeddingSettings(replicated_bytes=0)


def train_with_frozen_tables(settings):
    model = sharded_model(settings, FROZEN)
    before = content_digests(model)
    frozen_backward = []
    frozen = model.module.tables.frozen
    if frozen is not None:
        frozen.register_forward_hook(
            lambda module, arguments, output: frozen_backward.append(output.values().requires_grad)
        )
    losses = train(model)
    check_frozen(model, FROZEN)
    found = prove_unchanged(model, {name: before[name] for name in FROZEN})
    assert found == {name: before[name] for name in FROZEN}
    state = checkpoint_state(model)
    names = [name for part in state.values() for name in part]
    return {
        "losses": losses,
        "department changed": content_digests(model)["department"] != before["department"],
        "backward": frozen_backward,
        "in checkpoint": [name for name in names if any(table in name for table in FROZEN)],
        "optimized": [*dense_parameters(model), *table_parameters(model)],
    }


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adamw"])
@pytest.mark.parametrize("replicated", [False, True])
def test_frozen_tables_are_not_trained_in_any_way(optimizer, replicated):
    settings = EmbeddingSettings(optimizer=optimizer, replicated_bytes=2**30 if replicated else 0)
    department = "tables.trainable.embedding_bags.table_department.weight"
    for rank in run_distributed(train_with_frozen_tables, 2, settings):
        assert rank["losses"][2] < rank["losses"][0]
        assert rank["department changed"]
        assert rank["backward"] == ([] if replicated else [False] * 3)
        assert rank["in checkpoint"] == []
        tables = [department] if optimizer == "adamw" else []
        assert sorted(rank["optimized"]) == sorted(["linear.weight", "linear.bias", *tables])


def profiled_backward(settings, frozen):
    """What a backward pass runs, and the bytes of optimizer state of this rank's tables."""
    model = sharded_model(settings, frozen)
    loss = model(next(batches(1)))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        loss.backward()
    states = model.fused_optimizer.state_dict()["state"].values()
    shards = [s for state in states for value in state.values() for s in value.local_shards()]
    return {event.name for event in profiler.events()}, sum(s.tensor.nbytes for s in shards)


@pytest.mark.parametrize("replicated", [False, True])
def test_frozen_tables_have_no_backward_and_no_state_in_memory(replicated):
    settings = EmbeddingSettings(replicated_bytes=2**30 if replicated else 0)
    trained = run_distributed(profiled_backward, 2, settings, ())
    assert sum(num_bytes for _, num_bytes in trained) == 4 * sum(ROWS.values())
    frozen = run_distributed(profiled_backward, 2, settings, tuple(ROWS))
    assert sum(num_bytes for _, num_bytes in frozen) == 0
    for named, wanted in ((trained, True), (frozen, False)):
        for names, _ in named:
            # The kernel that updates rows, and what sends their gradients to it.
            assert any("split_embedding_backward" in name for name in names) == wanted
            assert any("all_to_all" in name for name in names) == wanted
            assert any("AddmmBackward" in name for name in names)


def frozen_losses(settings):
    return train(sharded_model(settings, FROZEN))


def test_where_frozen_tables_are_does_not_matter():
    spread = run_distributed(frozen_losses, 2, SPREAD)
    asked_for = EmbeddingSettings(sharding=dict.fromkeys(FROZEN, "data_parallel"))
    for settings in (EmbeddingSettings(), asked_for):
        assert run_distributed(frozen_losses, 2, settings) == spread


# In float32, 8 wide.
TYPE_BYTES, ITEM_BYTES = 40 * 8 * 4, 70_000 * 8 * 4


@pytest.mark.parametrize(
    ("settings", "whole"),
    [
        ({}, ("item_id", "type")),
        ({"replicated_bytes": TYPE_BYTES + ITEM_BYTES}, ("item_id", "type")),
        ({"replicated_bytes": TYPE_BYTES + ITEM_BYTES - 1}, ("type",)),
        (
            {"replicated_bytes": (TYPE_BYTES + ITEM_BYTES) // 2, "dtype": "fp16"},
            ("item_id", "type"),
        ),
        ({"replicated_bytes": TYPE_BYTES - 1}, ()),
        ({"replicated_bytes": 0, "sharding": {"item_id": "data_parallel"}}, ("item_id",)),
        ({"sharding": {"type": "table_wise"}}, ("item_id",)),
        ({"memory_per_rank_bytes": ITEM_BYTES}, ("type",)),
    ],
)
def test_small_frozen_tables_are_whole_everywhere(settings, whole):
    tables = plain_model(EmbeddingSettings(**settings), frozen=FROZEN).tables
    assert tables.replicated_names == whole
    assert set(tables.sharded_frozen_names) == {*FROZEN} - {*whole}


def test_other_tables_than_the_frozen_ones_are_refused():
    model = plain_model(EmbeddingSettings(), frozen=FROZEN)
    check_frozen(model, FROZEN)
    with pytest.raises(ExportError, match="table department is to be frozen, but it would be"):
        check_frozen(model, [*FROZEN, "department"])
    with pytest.raises(ExportError, match="table type is frozen, though it is not among"):
        check_frozen(model, ["item_id"])


def test_a_gradient_on_a_frozen_table_is_refused():
    model = plain_model(SPREAD, frozen=FROZEN)
    weight = model.get_parameter("tables.frozen.embedding_bags.table_type.weight")
    weight.grad = torch.zeros_like(weight)
    with pytest.raises(ExportError, match="table type is frozen, but has received a gradient"):
        check_frozen(model, FROZEN)


def change_one_bit_on_one_rank(settings):
    model = sharded_model(settings, FROZEN)
    before = content_digests(model, FROZEN)
    for shard in local_shards(model)["type"]:
        if dist.get_rank() > 0 or not shard.replicated:
            shard.tensor.view(torch.int32)[39, 7] ^= 1
    prove_unchanged(model, before)


def test_one_changed_bit_is_proof_of_change():
    with pytest.raises(DigestError, match="frozen table type has changed"):
        run_distributed(change_one_bit_on_one_rank, 2, SPREAD)
    with pytest.raises(DigestError, match="table type: its copies differ between ranks"):
        run_distributed(change_one_bit_on_one_rank, 2, EmbeddingSettings())
