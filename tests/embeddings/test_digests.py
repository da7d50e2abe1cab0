import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embeddings.digests import content_digests, rectangle_digest, total_digest
from embeddings.settings import EmbeddingSettings
from embeddings.shards import local_shards
from pipeline.errors import DigestError
from tests.distributed import run_distributed
from tests.embeddings.small_model import plain_model, sharded_model


def values(dtype=torch.float32):
    return torch.randn(301, 12, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@given(row=st.integers(0, 300), column=st.integers(0, 11), data=st.data())
def test_one_changed_bit_is_noticed(dtype, row, column, data):
    table = values(dtype)
    bits = table.view(torch.int32 if dtype == torch.float32 else torch.int16)
    before = rectangle_digest(table, 0, 0)
    bit = data.draw(st.integers(0, 8 * table.element_size() - 2))
    bits[row, column] ^= 1 << bit
    assert rectangle_digest(table, 0, 0) != before


@given(st.integers(1, 300), st.integers(1, 11))
def test_cut_in_four_the_parts_add_up_to_the_whole(row, column):
    table = values()
    parts = [
        rectangle_digest(table[:row, :column], 0, 0),
        rectangle_digest(table[:row, column:], 0, column),
        rectangle_digest(table[row:, :column], row, 0),
        rectangle_digest(table[row:, column:], row, column),
    ]
    assert total_digest(parts) == rectangle_digest(table, 0, 0)


def test_place_and_sign_of_zero_count():
    table = values()
    table[7, 5] = 0.0
    changed = {}
    changed["rows swapped"] = table.clone()
    changed["rows swapped"][[3, 200]] = table[[200, 3]]
    changed["columns swapped"] = table[:, [1, 0, *range(2, 12)]]
    changed["two values swapped"] = table.clone()
    changed["two values swapped"][0, 0], changed["two values swapped"][1, 1] = (
        table[1, 1],
        table[0, 0],
    )
    changed["negative zero"] = table.clone()
    changed["negative zero"][7, 5] = -0.0
    changed["one row fewer"] = table[:-1]
    digests = {name: rectangle_digest(other, 0, 0) for name, other in changed.items()}
    digests["moved"] = rectangle_digest(table, 1, 0)
    digests["as it is"] = rectangle_digest(table, 0, 0)
    assert len(set(digests.values())) == len(digests)


def test_nothing_has_the_digest_zero():
    assert rectangle_digest(torch.empty(0, 4), 5, 0) == total_digest([]) == "0" * 32


def test_digest_is_stable():
    """It is in exports on disk, so it must not change between versions."""
    table = torch.arange(24, dtype=torch.float32).view(6, 4)
    assert rectangle_digest(table, 0, 0) == "d9a4577532438fbcdf25e3c016e08714"


COLUMN_WISE = {"item_id": "column_wise", "type": "column_wise"}
SHARDINGS = [
    EmbeddingSettings(),
    EmbeddingSettings(optimizer="adagrad", sharding=COLUMN_WISE),
    EmbeddingSettings(optimizer="adamw"),
]


def digests_of_shardings() -> list[dict[str, str]]:
    return [content_digests(sharded_model(settings)) for settings in SHARDINGS]


@pytest.mark.parametrize("world_size", [1, 2])
def test_initial_tables_depend_on_neither_world_size_nor_sharding(world_size):
    expected = content_digests(plain_model(EmbeddingSettings()))
    assert sorted(expected) == ["department", "item_id", "type"]
    for rank in run_distributed(digests_of_shardings, world_size):
        assert all(digests == expected for digests in rank)


def digest_of_copies_that_differ():
    model = sharded_model(EmbeddingSettings(sharding={"type": "data_parallel"}), frozen=["type"])
    content_digests(model)
    local_shards(model)["type"][0].tensor[0, 0] = torch.distributed.get_rank()
    content_digests(model)


def test_copies_that_differ_between_ranks_are_noticed():
    with pytest.raises(DigestError, match="table type: its copies differ"):
        run_distributed(digest_of_copies_that_differ, 2)
