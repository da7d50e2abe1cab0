import pytest
import torch

from embeddings.digests import content_digests
from embeddings.freezing import check_frozen, prove_unchanged
from embeddings.parameters import checkpoint_state, dense_parameters, table_parameters
from embeddings.shards import local_shards
from embeddings.tables import EmbeddingSettings
from pipeline.errors import DigestError, ExportError
from tests.distributed import run_distributed
from tests.embeddings.small_model import plain_model, sharded_model, train

FROZEN = ("item_id", "type")


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
    sharding = dict.fromkeys(FROZEN, "data_parallel") if replicated else {}
    settings = EmbeddingSettings(optimizer=optimizer, sharding=sharding)
    department = "tables.trainable.embedding_bags.table_department.weight"
    for rank in run_distributed(train_with_frozen_tables, 2, settings):
        assert rank["losses"][2] < rank["losses"][0]
        assert rank["department changed"]
        assert rank["backward"] == ([] if replicated else [False] * 3)
        assert rank["in checkpoint"] == []
        tables = [department] if optimizer == "adamw" else []
        assert sorted(rank["optimized"]) == sorted(["linear.weight", "linear.bias", *tables])


def frozen_losses(settings):
    return train(sharded_model(settings, FROZEN))


def test_where_frozen_tables_are_does_not_matter():
    sharded = EmbeddingSettings()
    replicated = EmbeddingSettings(sharding=dict.fromkeys(FROZEN, "data_parallel"))
    assert run_distributed(frozen_losses, 2, sharded) == run_distributed(
        frozen_losses, 2, replicated
    )


def test_other_tables_than_the_frozen_ones_are_refused():
    model = plain_model(EmbeddingSettings(), frozen=FROZEN)
    check_frozen(model, FROZEN)
    with pytest.raises(ExportError, match="table department is to be frozen, but it would be"):
        check_frozen(model, [*FROZEN, "department"])
    with pytest.raises(ExportError, match="table type is frozen, though it is not among"):
        check_frozen(model, ["item_id"])


def test_a_gradient_on_a_frozen_table_is_refused():
    model = plain_model(EmbeddingSettings(), frozen=FROZEN)
    weight = model.get_parameter("tables.frozen.embedding_bags.table_type.weight")
    weight.grad = torch.zeros_like(weight)
    with pytest.raises(ExportError, match="table type is frozen, but has received a gradient"):
        check_frozen(model, FROZEN)


def change_one_bit_on_the_last_rank():
    model = sharded_model(EmbeddingSettings(), FROZEN)
    before = content_digests(model, FROZEN)
    for shard in local_shards(model)["type"]:
        shard.tensor.view(torch.int32)[39, 7] ^= 1
    prove_unchanged(model, before)


def test_one_changed_bit_is_proof_of_change():
    with pytest.raises(DigestError, match="frozen table type has changed"):
        run_distributed(change_one_bit_on_the_last_rank, 2)
