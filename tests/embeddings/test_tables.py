import pytest
import torch
from pydantic import ValidationError

from embeddings.settings import EmbeddingSettings, TableSpec
from embeddings.shards import local_shards
from embeddings.tables import EmbeddingTables, tables_of
from pipeline.errors import ConfigError, VocabularyError
from tests.embeddings.small_model import CPU, SPECS, plain_model


def rows_of(model, name):
    return local_shards(model)[name][0].tensor


@pytest.mark.parametrize(
    ("frozen", "sharding"),
    [
        ((), {}),
        (("type",), {}),
        (("type",), {"type": "data_parallel"}),
        (("item_id", "type", "department"), {"type": "data_parallel"}),
    ],
)
def test_lookup_gives_each_ids_row(frozen, sharding):
    model = plain_model(EmbeddingSettings(sharding=sharding), frozen)
    ids = {
        "type": torch.tensor([3, 0, 3, 39, 3]),
        "item_id": torch.tensor([69_999]),
        "department": torch.tensor([], dtype=torch.int64),
    }
    vectors = tables_of(model).lookup(ids)
    assert list(vectors) == list(ids)
    for name, found in vectors.items():
        assert found.distinct.shape[0] == len(set(ids[name].tolist()))
        assert torch.equal(found.distinct[found.inverse], rows_of(model, name)[ids[name]])
        assert found.distinct.requires_grad == (name not in frozen)


def test_lookup_of_some_tables_and_of_no_ids():
    tables = tables_of(plain_model(EmbeddingSettings(), frozen=("type",)))
    assert list(tables.lookup({"department": torch.tensor([2])})) == ["department"]
    nothing = tables.lookup({"item_id": torch.tensor([], dtype=torch.int64)})
    assert nothing["item_id"].distinct.shape == (0, 8)


def test_gradient_reaches_the_rows_that_were_asked_for():
    model = plain_model(EmbeddingSettings())
    found = tables_of(model).lookup({"department": torch.tensor([4, 1, 4])})["department"]
    found.distinct[found.inverse].sum().backward()
    weight = model.get_parameter("tables.trainable.embedding_bags.table_department.weight")
    assert weight.grad.sum(dim=1).tolist() == [0, 8, 0, 0, 16, 0, 0]


@pytest.mark.parametrize("frozen", [(), ("type",)])
def test_half_precision_tables_give_float32_vectors(frozen):
    model = plain_model(EmbeddingSettings(dtype="fp16"), frozen)
    assert rows_of(model, "type").dtype == torch.float16
    found = tables_of(model).lookup({"type": torch.tensor([5])})["type"]
    assert found.distinct.dtype == torch.float32
    assert torch.equal(found.distinct, rows_of(model, "type")[5:6].float())


@pytest.mark.parametrize("row", [-1, 40])
def test_ids_outside_the_table_are_refused(row):
    tables = tables_of(plain_model(EmbeddingSettings()))
    with pytest.raises(VocabularyError, match=r"type: ids from .* table of 40 rows"):
        tables.lookup({"type": torch.tensor([1, row])})


@pytest.mark.parametrize(
    ("settings", "frozen", "message"),
    [
        ({"sharding": {"tpye": "table_wise"}}, (), "embeddings.sharding.tpye: no such table"),
        ({}, ("tpye",), "cannot freeze 'tpye'"),
        ({"sharding": {"type": "data_parallel"}}, (), "embeddings.sharding.type: a trained table"),
        (
            {"optimizer": "adamw", "sharding": {"type": "table_wise"}},
            (),
            "embeddings.sharding.type: with embeddings.optimizer = 'adamw'",
        ),
    ],
)
def test_settings_that_contradict_are_refused(settings, frozen, message):
    with pytest.raises(ConfigError, match=message):
        EmbeddingTables(SPECS, EmbeddingSettings(**settings), frozen=frozen, device=CPU)


def test_widths_are_multiples_of_four():
    spec = TableSpec(name="item_id", num_rows=3, dim=6, vocabulary_digest="x")
    with pytest.raises(ConfigError, match="table item_id is 6 wide"):
        EmbeddingTables([spec], EmbeddingSettings(), device=CPU)


def test_unknown_sharding_is_refused():
    with pytest.raises(ValidationError):
        EmbeddingSettings(sharding={"item_id": "diagonal"})
