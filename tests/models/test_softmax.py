"""The loss and its gradients against cross-entropy and the equation, in both precisions.

Under bfloat16 tolerance is 3% of the norm, and of a gradient of 1 for each position's weight.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.softmax import _MAX_BLOCK, SoftmaxTargets, softmax_loss
from tests.models.precision import PRECISIONS, assert_rounded, under

U, M, D, TEMPERATURE = 30, 17, 8, 0.05


def inputs():
    torch.manual_seed(1)
    hidden = torch.randn(M, D, requires_grad=True)
    vectors = torch.randn(U, D, requires_grad=True)
    return hidden, vectors, torch.randint(0, U, (M,)), torch.rand(M)


def check(precision, hidden, vectors, targets, expected):
    with under(precision):
        loss = softmax_loss(hidden, vectors, targets, TEMPERATURE)
    size = targets.weight.sum()
    if precision == "fp32":
        torch.testing.assert_close(loss, expected)
    else:
        assert_rounded(loss, expected, 0.03, size)
    for wanted in (hidden, vectors):
        actual = torch.autograd.grad(loss, wanted, retain_graph=True)[0]
        reference = torch.autograd.grad(expected, wanted, retain_graph=True)[0]
        if precision == "fp32":
            torch.testing.assert_close(actual, reference, atol=1e-4, rtol=1e-4)
        else:
            assert_rounded(actual, reference, 0.03, size)


def scores(hidden, vectors):
    return functional.normalize(hidden, dim=-1) @ functional.normalize(vectors, dim=-1).T / 0.05


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_rows_as_negatives_is_the_full_softmax(precision):
    hidden, vectors, target, weight = inputs()
    targets = SoftmaxTargets(target, weight, torch.arange(U)[None], (0, M))
    each = functional.cross_entropy(scores(hidden, vectors), target, reduction="none")
    check(precision, hidden, vectors, targets, (each * weight).sum())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("offsets", [(0, M), (0, 5, 5, M)])
def test_sampled_equals_the_equation(precision, offsets, monkeypatch):
    monkeypatch.setitem(_MAX_BLOCK, "cpu", 3 * 40)  # several blocks a group
    hidden, vectors, target, weight = inputs()
    negatives = torch.randint(0, U, (len(offsets) - 1, 40))  # many accidental hits
    targets = SoftmaxTargets(target, weight, negatives, offsets)
    expected = torch.zeros(())
    all_scores = scores(hidden, vectors)
    for group, (first, last) in enumerate(itertools.pairwise(offsets)):
        for m in range(first, last):
            others = negatives[group][negatives[group] != target[m]]
            against = torch.cat([all_scores[m, target[m]][None], all_scores[m, others]])
            expected = expected + weight[m] * (against.logsumexp(0) - against[0])
    check(precision, hidden, vectors, targets, expected)


@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_blocks_of_any_size_give_the_same(in_bfloat16, monkeypatch):
    """A position a block, some, more than there are, and what a GPU takes."""
    hidden, vectors, target, weight = inputs()
    negatives = torch.randint(0, U, (2, 40))
    targets = SoftmaxTargets(target, weight, negatives, (0, 6, M))
    expected = None
    for size in (1, 3 * 40, 7 * 40 + 1, M * 40, _MAX_BLOCK["cuda"]):
        monkeypatch.setitem(_MAX_BLOCK, "cpu", size)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bfloat16):
            loss = softmax_loss(hidden, vectors, targets, TEMPERATURE)
        found = (loss, *torch.autograd.grad(loss, (hidden, vectors)))
        # In bfloat16 each block's product is rounded before it is added to the others'.
        close = {"atol": 5e-2, "rtol": 2e-2} if in_bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
        expected = expected or found
        torch.testing.assert_close(found, expected, **close)


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    st.integers(1, 40),
    st.integers(0, 2**30),
)
def test_all_items_as_negatives_of_jagged_sequences_is_the_full_softmax(
    precision, lengths, num_items, seed
):
    """Each sequence has its own negatives: all items, in an order of its own."""
    torch.manual_seed(seed)
    num_positions = sum(lengths)
    hidden = torch.randn(num_positions, D, requires_grad=True)
    vectors = torch.randn(num_items, D, requires_grad=True)
    target, weight = torch.randint(0, num_items, (num_positions,)), torch.rand(num_positions)
    negatives = torch.stack([torch.randperm(num_items) for _ in lengths])
    offsets = (0, *itertools.accumulate(lengths))
    targets = SoftmaxTargets(target, weight, negatives, offsets)
    each = functional.cross_entropy(scores(hidden, vectors), target, reduction="none")
    check(precision, hidden, vectors, targets, (each * weight).sum())


def test_weight_zero_teaches_nothing():
    hidden, vectors, target, _ = inputs()
    targets = SoftmaxTargets(target, torch.zeros(M), torch.arange(U)[None], (0, M))
    loss = softmax_loss(hidden, vectors, targets, TEMPERATURE)
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()
    assert not vectors.grad.any()
