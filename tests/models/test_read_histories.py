"""Histories that were read before, scored with their kept keys and values: as if read anew."""

import dataclasses
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import rows
from models.architecture import Architecture
from models.ranking import RankingModel
from tests.models.plain import PlainTables, ranking_batch

ITEM_ROWS = {"item_id": 40, "category": 6}
CONTEXT_ROWS = {"shop": 4}
SEEDS = st.integers(0, 2**31 - 1)
REQUESTS = st.lists(
    st.tuples(st.sampled_from([0, 1, 5, 12, 30, 140]), st.integers(0, 7)), min_size=1, max_size=5
)


def make(architecture, seed, *, bidirectional=False):
    torch.manual_seed(seed)
    shape = Architecture.parse(architecture)
    tables = PlainTables({**ITEM_ROWS, **CONTEXT_ROWS}, shape.width)
    model = RankingModel(
        tables, list(ITEM_ROWS), list(CONTEXT_ROWS), shape, bidirectional=bidirectional
    )
    for parameter in model.parameters():  # from 0.02 on nothing would show
        parameter.data.mul_(3)
    return model


def requests_of(lengths, candidates):
    batch = ranking_batch(ITEM_ROWS, lengths, candidates)
    shops = torch.randint(0, CONTEXT_ROWS["shop"], (len(lengths),))
    return dataclasses.replace(batch, context={"shop": shops})


def score_after(model, batch):
    histories = model.read(batch.history, batch.history_offsets)
    return model.score_after(histories, batch.candidates, batch.candidate_offsets, batch.context)


def gradients_of(model, logits, weights):
    model.zero_grad()
    (logits * weights).sum().backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


@settings(max_examples=20)
@given(
    REQUESTS,
    SEEDS,
    st.sampled_from(["L1H32A2", "L3H32A2", "L2H40A1"]),
    st.booleans(),
    st.booleans(),
)
def test_kept_keys_give_the_scores_of_reading_anew(requests, seed, architecture, both_ways, pad):
    """Values and gradients, relative to the largest of each: 2e-5, rounding of float32."""
    model = make(architecture, seed, bidirectional=both_ways)
    batch = requests_of([r[0] for r in requests], [r[1] for r in requests])
    weights = torch.randn_like(batch.labels)
    with patch.object(rows, "_LONGEST_JAGGED", -1 if pad else rows._LONGEST_JAGGED):
        wanted, found = model.score(batch), score_after(model, batch)
        torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)
        wanted_gradients = gradients_of(model, wanted, weights)
        found_gradients = gradients_of(model, found, weights)
    for name, gradient in wanted_gradients.items():
        scale = 1e-7 + 2e-5 * gradient.abs().max().item()
        torch.testing.assert_close(
            found_gradients[name],
            gradient,
            rtol=2e-5,
            atol=scale,
            msg=lambda t, n=name: f"{n}: {t}",
        )


def test_bfloat16_rounds_both_alike():
    """Within two steps of bfloat16, 2**-8 each, of the largest logit."""
    model, batch = make("L3H32A2", 1), requests_of([9, 0, 140, 30], [3, 2, 5, 1])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        wanted, found = model.score(batch), score_after(model, batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=2**-7 * wanted.abs().max().item())


@pytest.mark.parametrize("pad", [False, True])
def test_one_reading_serves_many_candidates(pad):
    """Candidates in two goes, half of each request's, as a server asks again."""
    model, batch = make("L2H32A2", 2), requests_of([7, 3], [4, 2])
    with patch.object(rows, "_LONGEST_JAGGED", -1 if pad else rows._LONGEST_JAGGED):
        histories = model.read(batch.history, batch.history_offsets)
        whole = model.score(batch)
        for chosen, each in ([0, 1, 4], [2, 1]), ([2, 3, 5], [2, 1]):
            picked = {name: ids[chosen] for name, ids in batch.candidates.items()}
            ends = torch.tensor([0, *each]).cumsum(0)
            found = model.score_after(histories, picked, ends, batch.context)
            torch.testing.assert_close(found, whole[chosen], rtol=1e-5, atol=1e-5)
