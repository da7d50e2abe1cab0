"""Rows and optimizer state of a checkpoint in tables that have grown since."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from embeddings.growth import Growth, growth, load_grown
from embeddings.parameters import checkpoint_state
from embeddings.settings import EmbeddingSettings, TableSpec
from embeddings.shards import local_shards
from pipeline.errors import CheckpointError, VocabularyError
from tests.distributed import run_distributed
from tests.embeddings.small_model import DIM, SPECS, plain_model, sharded_model, train

# Of 70,000 rows of items 66,000 stand for something; the larger table reaches into a third block
# of initial values. Departments stay as they are.
BEFORE = tuple(
    replace(spec, num_known_rows=66_000 if spec.name == "item_id" else 0) for spec in SPECS
)
SIZES = {"item_id": (140_001, 100_000), "type": (65, 43), "department": (7, 7)}
NOW = tuple(
    replace(
        spec,
        num_rows=SIZES[spec.name][0],
        num_known_rows=SIZES[spec.name][1],
        vocabulary_digest=f"more {spec.vocabulary_digest}",
    )
    for spec in BEFORE
)
GROWTHS = {before.name: Growth(before, now) for before, now in zip(BEFORE, NOW, strict=True)}
KNOWN = {"item_id": 66_000, "type": 40, "department": 7}

ROWWISE = EmbeddingSettings()
ELEMENTWISE = EmbeddingSettings(
    optimizer="adagrad", sharding={"item_id": "column_wise", "type": "table_column_wise"}
)
WHOLE = EmbeddingSettings(optimizer="adagrad")
IN_COLUMNS = EmbeddingSettings(sharding={"item_id": "column_wise"})
REPLICATED = EmbeddingSettings(optimizer="adamw")


def rectangles(model):
    """This rank's weights and table optimizer's state, name -> [(first row, column, values)]."""
    weights = {
        name: [(shard.rows[0], shard.columns[0], shard.tensor.numpy().copy()) for shard in shards]
        for name, shards in local_shards(model).items()
    }
    state = checkpoint_state(model)["table_optimizer"]
    sums = {
        name.removesuffix(".momentum1").removeprefix("table_"): [
            (*(*part.metadata.shard_offsets, 0)[:2], part.tensor.numpy().copy())
            for part in tensor.local_shards()
        ]
        for tensors in state.values()
        for name, tensor in tensors.items()
    }
    return weights, sums


def save(folder, settings):
    """Train, spoil the rows that stand for nothing, save, and train on."""
    model = sharded_model(settings, specs=BEFORE)
    train(model)
    for name, shards in local_shards(model).items():
        for shard in shards:
            shard.tensor[KNOWN[name] :] = 7.0
    dcp.save(checkpoint_state(model), checkpoint_id=str(folder))
    return rectangles(model), train(model)


def load(folder, settings):
    model = sharded_model(settings, specs=NOW)
    load_grown(checkpoint_state(model), folder, GROWTHS)
    return rectangles(model), train(model)


def assembled(parts):
    """Whole tables from the rectangles of all ranks."""
    whole = {}
    for name in {name for rank in parts for name in rank}:
        found = [part for rank in parts for part in rank.get(name, [])]
        shape = [max(part[2].shape[d] + part[d] for part in found) for d in range(found[0][2].ndim)]
        whole[name] = np.full(shape, np.nan, np.float32)
        for row, column, values in found:
            place = [
                slice(start, start + size)
                for start, size in zip((row, column), values.shape, strict=False)
            ]
            whole[name][tuple(place)] = values
    return whole


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    ("saved_as", "loaded_as"),
    [
        (ROWWISE, ROWWISE),
        (ELEMENTWISE, ELEMENTWISE),
        (ELEMENTWISE, WHOLE),
        (WHOLE, ELEMENTWISE),
        (REPLICATED, REPLICATED),
    ],
    ids=["table_wise", "column_wise", "columns to tables", "tables to columns", "data_parallel"],
)
def test_known_rows_are_carried_and_others_start_by_the_rule(
    tmp_path, saved_as, loaded_as, world_size
):
    saved = run_distributed(save, 2, tmp_path / "checkpoint", saved_as)
    loaded = run_distributed(load, world_size, tmp_path / "checkpoint", loaded_as)
    fresh = {
        name: shards[0].tensor.numpy()
        for name, shards in local_shards(plain_model(ROWWISE, specs=NOW)).items()
    }
    (weights, sums), (grown, grown_sums) = (
        [assembled([rank[0][part] for rank in ranks]) for part in (0, 1)]
        for ranks in (saved, loaded)
    )
    assert grown.keys() == SIZES.keys()
    for name, known in KNOWN.items():
        assert grown[name].shape == (SIZES[name][0], DIM)
        assert np.array_equal(grown[name][:known], weights[name][:known])
        assert np.array_equal(grown[name][known:], fresh[name][known:])
    assert sums.keys() == grown_sums.keys()
    for name, values in grown_sums.items():
        assert values.shape[0] == SIZES[name][0]
        assert sums[name].any()
        assert np.array_equal(values[: KNOWN[name]], sums[name][: KNOWN[name]])
        assert not values[KNOWN[name] :].any()
    # The linear layer and its fresh optimizer are the same on both sides.
    assert loaded[0][1] == pytest.approx(saved[0][1], rel=1e-5)


def save_and_load_columns(folder, specs):
    model = sharded_model(IN_COLUMNS, specs=BEFORE)
    train(model)
    dcp.save(checkpoint_state(model), checkpoint_id=str(folder))
    other = sharded_model(IN_COLUMNS, specs=specs)
    growths = {spec.name: Growth(spec, now) for spec, now in zip(BEFORE, specs, strict=True)}
    try:
        load_grown(checkpoint_state(other), folder, growths)
    except CheckpointException as error:
        return str(error)
    ours, theirs = rectangles(model), rectangles(other)
    return all(
        np.array_equal(a[2], b[2])
        for a, b in zip(ours[1]["item_id"], theirs[1]["item_id"], strict=True)
    )


def test_column_shards_with_rowwise_adagrad_go_on_but_do_not_grow(tmp_path):
    assert run_distributed(save_and_load_columns, 2, tmp_path / "same", BEFORE) == [True, True]
    for message in run_distributed(save_and_load_columns, 2, tmp_path / "grown", NOW):
        assert "(140000,) then, (280002,) now; column-wise shards with row-wise Adagrad" in message


def rows_over_ranks(folder, num_known_rows):
    """A table cut by rows, as on CUDA: where the cuts lie depends on how many rows there are."""
    name, mesh = "x.table_t.weight", init_device_mesh("cpu", (2,))
    values = torch.arange(10 * DIM, dtype=torch.float32).reshape(10, DIM)
    dcp.save({name: distribute_tensor(values, mesh, [Shard(0)])}, checkpoint_id=str(folder))
    larger = distribute_tensor(torch.full((17, DIM), -1.0), mesh, [Shard(0)])
    before = TableSpec(
        name="t", num_rows=10, dim=DIM, vocabulary_digest="", num_known_rows=num_known_rows
    )
    load_grown({name: larger}, folder, {"t": Growth(before, replace(before, num_rows=17))})
    return larger.full_tensor().tolist(), values.tolist()


@pytest.mark.parametrize("num_known_rows", [3, 5, 8, 10])
def test_rows_cut_elsewhere_find_their_place(tmp_path, num_known_rows):
    for found, values in run_distributed(rows_over_ranks, 2, tmp_path / "c", num_known_rows):
        assert found[:num_known_rows] == values[:num_known_rows]
        assert found[num_known_rows:] == [[-1.0] * DIM] * (17 - num_known_rows)


def load_as_half(folder):
    with pytest.raises(CheckpointException, match=r"torch.float32 then, torch.float16 now"):
        load(folder, EmbeddingSettings(dtype="fp16"))


def test_another_type_is_refused(tmp_path):
    run_distributed(save, 1, tmp_path / "checkpoint", ROWWISE)
    run_distributed(load_as_half, 1, tmp_path / "checkpoint")


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 6, 7, 65_537, 65_539])
def test_a_rows_initial_value_does_not_depend_on_how_many_there_are(num_rows):
    spec = TableSpec(name="t", num_rows=num_rows, dim=12, vocabulary_digest="")
    specs = (spec, replace(spec, num_rows=70_000))
    small, large = (
        local_shards(plain_model(ROWWISE, specs=[size]))["t"][0].tensor for size in specs
    )
    assert torch.equal(small, large[:num_rows])


OLD = TableSpec(name="t", num_rows=64, dim=8, vocabulary_digest="old", num_known_rows=50)


def test_growth_says_what_grew():
    now = replace(OLD, num_rows=128, num_known_rows=70, vocabulary_digest="new")
    assert growth(OLD, now, {"older", "old", "new"}).report() == {
        "rows_before": 50,
        "rows": 70,
        "capacity_before": 64,
        "capacity": 128,
        "resized": True,
    }
    assert not growth(OLD, OLD, {"old"}).report()["resized"]


@pytest.mark.parametrize(
    ("now", "error", "message"),
    [
        (replace(OLD, vocabulary_digest="other"), VocabularyError, "table t: .* does not continue"),
        (replace(OLD, num_rows=63), CheckpointError, "table t: 64 rows then, 63 now"),
        (replace(OLD, dim=16), CheckpointError, "table t: 8 wide then, 16 now"),
    ],
)
def test_what_is_no_growth_is_refused(now, error, message):
    with pytest.raises(error, match=message):
        growth(OLD, now, {now.vocabulary_digest})
