import pytest
import torch

from embeddings.bags import distinct_ids, one_id_bags


@pytest.mark.parametrize("num_rows", [50, 3_000_000])
def test_distinct_ids_rebuild_the_ids(num_rows):
    ids = torch.randint(0, 50, (200,), generator=torch.Generator().manual_seed(1))
    distinct, inverse = distinct_ids(ids, num_rows)
    assert distinct.tolist() == sorted(set(ids.tolist()))
    assert torch.equal(distinct[inverse], ids)


@pytest.mark.parametrize("num_rows", [1, 3_000_000])
def test_no_ids_are_no_distinct_ids(num_rows):
    distinct, inverse = distinct_ids(torch.tensor([], dtype=torch.int64), num_rows)
    assert distinct.shape == inverse.shape == (0,)


def test_bags_hold_one_id_or_none():
    names = ["colour", "size", "brand"]
    bags = one_id_bags(names, {"brand": torch.tensor([4, 9]), "colour": torch.tensor([7])})
    assert bags.keys() == names
    assert bags.values().tolist() == [7, 4, 9]
    assert bags.lengths().view(3, 2).tolist() == [[1, 0], [0, 0], [1, 1]]
