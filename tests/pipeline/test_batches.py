"""Batches move whole: every tensor, dictionaries included."""

from dataclasses import fields, replace

import pytest
import torch

from pipeline.batches import RankingBatch, SequenceBatch


def sequence_batch():
    return SequenceBatch(
        tokens={"item_id": torch.tensor([1, 2, 3]), "department": torch.tensor([4, 5, 6])},
        offsets=torch.tensor([0, 1, 3]),
        row_ids=torch.tensor([7, 9]),
        weights=torch.tensor([1.0, 0.0]),
        num_new=torch.tensor([1, 1]),
    )


def ranking_batch():
    return RankingBatch(
        history={"item_id": torch.tensor([1, 2, 3])},
        history_offsets=torch.tensor([0, 1, 3]),
        candidates={"item_id": torch.tensor([4, 5, 6, 7])},
        candidate_offsets=torch.tensor([0, 2, 4]),
        context={"store_id": torch.tensor([1, 1])},
        labels=torch.tensor([1.0, 0.0, 0.0, 0.0]),
        weights=torch.tensor([1.0, 1.0, 1.0, 0.0]),
        row_ids=torch.tensor([7, 9]),
    )


def tensors(batch):
    """Every tensor of a batch under its path."""
    found = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        parts = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{field.name}.{name}": tensor for name, tensor in parts}
    return found


@pytest.mark.parametrize("make", [sequence_batch, ranking_batch])
def test_to_moves_every_tensor(make):
    batch = make()
    moved = batch.to(torch.device("meta"))
    assert type(moved) is type(batch)
    assert tensors(moved).keys() == tensors(batch).keys()
    assert all(tensor.is_meta for tensor in tensors(moved).values())
    assert not any(tensor.is_meta for tensor in tensors(batch).values())


@pytest.mark.parametrize("make", [sequence_batch, ranking_batch])
def test_to_keeps_values(make):
    batch = make()
    same = tensors(batch.to(torch.device("cpu"), non_blocking=True))
    assert all(torch.equal(tensor, same[name]) for name, tensor in tensors(batch).items())


def test_what_is_not_there_does_not_move():
    whole = replace(sequence_batch(), num_new=None)
    assert whole.to(torch.device("meta")).num_new is None


def test_a_model_knows_its_own_rows_only():
    batch = ranking_batch().known_only({"item_id": 5, "store_id": 1})
    assert batch.history["item_id"].tolist() == [1, 2, 3]
    assert batch.candidates["item_id"].tolist() == [4, 0, 0, 0]
    assert batch.context["store_id"].tolist() == [0, 0]


def test_num_samples_counts_what_has_weight():
    assert sequence_batch().num_samples == 1
    assert ranking_batch().num_samples == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("make", [sequence_batch, ranking_batch])
def test_pinned_batch_reaches_the_gpu(make):
    pinned = make().pin_memory()
    assert all(tensor.is_pinned() for tensor in tensors(pinned).values())
    moved = pinned.to(torch.device("cuda"), non_blocking=True)
    moved.record_stream(torch.cuda.current_stream())
    assert all(tensor.is_cuda for tensor in tensors(moved).values())
