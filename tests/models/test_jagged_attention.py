"""Attention of packed rows as they are, against plain softmax a row and head at a time."""

import operator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.attention import attend, attend_from_candidates
from models.rows import Rows
from models.transformer import rotary_table
from tests.models.plain import offsets, turned

SHORT = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 6)), max_size=20)
LONG = st.tuples(st.sampled_from([0, 31, 33, 127, 129]), st.sampled_from([0, 9, 33]))
ROWS = st.builds(operator.add, SHORT, st.lists(LONG, max_size=1))


def plain(packed, lengths, candidates, *, bidirectional):
    """What every token of (T, 3, H, E) gets, and which tokens it may look at."""
    tokens, _, _, width = packed.shape
    sees = torch.zeros(tokens, tokens, dtype=torch.bool)
    first, own = 0, sum(lengths)
    for length, number in zip(lengths, candidates, strict=True):
        block = torch.ones(length, length, dtype=torch.bool)
        sees[first : first + length, first : first + length] = (
            block if bidirectional else block.tril()
        )
        sees[own : own + number, first : first + length] = True
        first, own = first + length, own + number
    sees |= torch.eye(tokens, dtype=torch.bool)
    query, key, value = packed.unbind(1)
    scores = torch.einsum("qhe,khe->hqk", query, key) / width**0.5
    weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khe->qhe", weights, value)


def draw(pairs, heads, width, seed):
    lengths, candidates = [p[0] for p in pairs], [p[1] for p in pairs]
    torch.manual_seed(seed)
    packed = torch.randn(sum(lengths) + sum(candidates), 3, heads, width) * 2
    if seed % 2:  # not contiguous
        packed = packed.transpose(1, 2).contiguous().transpose(1, 2)
    return lengths, candidates, packed.requires_grad_()


@settings(max_examples=40)
@given(
    ROWS,
    st.sampled_from([(1, 8), (3, 6), (4, 16), (12, 4), (33, 2)]),
    st.booleans(),
    st.integers(0, 2**30),
)
def test_values_and_gradients_are_those_of_softmax(pairs, shape, bidirectional, seed):
    lengths, candidates, packed = draw(pairs, *shape, seed)
    rows = Rows.build(offsets(lengths), offsets(candidates), bidirectional=bidirectional, pad=False)
    expected = plain(packed, lengths, candidates, bidirectional=bidirectional)
    probe = torch.randn_like(expected)
    (by_expected,) = torch.autograd.grad((expected * probe).sum(), packed, retain_graph=True)

    actual = attend(packed, rows)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    (by_actual,) = torch.autograd.grad((actual * probe).sum(), packed)
    torch.testing.assert_close(by_actual, by_expected, atol=1e-4, rtol=1e-4)

    # From candidates alone: the same, without what histories see.
    probe[: sum(lengths)] = 0
    (by_expected,) = torch.autograd.grad((expected * probe).sum(), packed)
    own = attend_from_candidates(packed[sum(lengths) :, 0], packed[:, 1:], rows)
    torch.testing.assert_close(own, expected[sum(lengths) :], atol=1e-5, rtol=1e-4)
    (by_own,) = torch.autograd.grad((own * probe[sum(lengths) :]).sum(), packed)
    torch.testing.assert_close(by_own, by_expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("width", [8, 6])
def test_queries_and_keys_are_turned_by_their_positions(pad, width):
    lengths, candidates, packed = draw([(9, 2), (3, 1), (0, 2), (12, 5)], 2, width, seed=0)
    rows = Rows.build(offsets(lengths), offsets(candidates), pad=pad)
    rotary = rotary_table(rows.positions, width)
    ends = torch.repeat_interleave(torch.tensor(lengths), torch.tensor(candidates))
    positions = torch.cat([*map(torch.arange, lengths), ends]).float()
    expected = plain(turned(packed, positions), lengths, candidates, bidirectional=False)
    probe = torch.randn_like(expected)
    (by_expected,) = torch.autograd.grad((expected * probe).sum(), packed, retain_graph=True)

    actual = attend(packed * 1, rows, rotary)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    (by_actual,) = torch.autograd.grad((actual * probe).sum(), packed)
    torch.testing.assert_close(by_actual, by_expected, atol=1e-4, rtol=1e-4)

    probe[: sum(lengths)] = 0
    (by_expected,) = torch.autograd.grad((expected * probe).sum(), packed)
    query, key_value = packed[sum(lengths) :, 0].clone(), packed[:, 1:].clone()
    own = attend_from_candidates(query, key_value, rows, rotary)
    torch.testing.assert_close(own, expected[sum(lengths) :], atol=1e-5, rtol=1e-4)
    (by_own,) = torch.autograd.grad((own * probe[sum(lengths) :]).sum(), packed)
    torch.testing.assert_close(by_own, by_expected, atol=1e-4, rtol=1e-4)


def test_a_row_gets_the_same_bits_whatever_is_beside_it():
    pairs = [(9, 2), (3, 1), (0, 4), (12, 3), *[(5, 2)] * 30]
    lengths, candidates, packed = draw(pairs, 4, 8, seed=0)
    together = attend(packed, Rows.build(offsets(lengths), offsets(candidates), pad=False))
    first, own = 9, sum(lengths) + 2
    alone = packed.detach()[[*range(first, first + 3), own]]
    by_itself = attend(alone, Rows.build(offsets([3]), offsets([1]), pad=False))
    assert torch.equal(by_itself[:3], together[first : first + 3])
    assert torch.equal(by_itself[3], together[own])


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_share_a_batch_and_change_nothing(num_threads):
    pairs = [(length % 13, length % 4) for length in range(100)]
    lengths, candidates, packed = draw(pairs, 4, 8, seed=0)
    rows = Rows.build(offsets(lengths), offsets(candidates), pad=False)
    found = []
    before = torch.get_num_threads()
    for number in (1, num_threads):
        torch.set_num_threads(number)
        mixed = attend(packed, rows)
        found.append((mixed, *torch.autograd.grad(mixed.square().sum(), packed)))
    torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("width", [8, 6])
def test_half_precision_is_rounded_once_on_the_way_out(width):
    lengths, candidates, packed = draw([(5, 2), (3, 3)], 2, width, seed=0)
    rows = Rows.build(offsets(lengths), offsets(candidates), pad=False)
    half = packed.detach().bfloat16().requires_grad_()
    whole = half.detach().float().requires_grad_()
    mixed, expected = attend(half, rows), attend(whole, rows)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), expected, rtol=2**-8 * 1.001, atol=1e-6)
    probe = torch.randn(mixed.shape).bfloat16()
    (gradient,) = torch.autograd.grad(mixed, half, probe)
    (by_expected,) = torch.autograd.grad(expected, whole, probe.float())
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.float(), by_expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("with_candidates", [False, True])
@pytest.mark.parametrize("pad", [False, True])
@settings(max_examples=25)
@example([(2, 1)], 0, False, [0, 1, 2], 1)
@given(
    ROWS,
    st.integers(0, 2**30),
    st.booleans(),
    st.sampled_from([[0], [1], [2], [0, 1, 2]]),
    st.integers(0, 40),
)
def test_nan_stays_nan_and_in_its_row(
    pad, with_candidates, pairs, seed, bidirectional, parts, behind
):
    """In one bucket, where rows are padded, so that rows of all lengths are beside it.

    Of a token's query, key, value or all; of the last tokens more often.
    """
    pairs = [(length, with_candidates * number) for length, number in [*pairs, (5, 2)]]
    lengths, candidates, packed = draw(pairs, 2, 8, seed)
    token, own = len(packed) - 1 - behind % len(packed), sum(lengths)
    with torch.no_grad():
        packed[token, parts, :, 3] = torch.nan
    rows = Rows.build(
        offsets(lengths),
        offsets(candidates) if with_candidates else None,
        bidirectional=bidirectional,
        pad=pad,
        num_buckets=1,
    )
    all_rows = torch.arange(len(pairs)).repeat(2)
    row = all_rows.repeat_interleave(torch.tensor([*lengths, *candidates]))
    others = row != row[token]

    mixed = attend(packed, rows)
    if not pad or parts == [2]:  # PyTorch's kernel has zeros for scores of NaN
        assert mixed[token].isnan().any()
    assert mixed[others].isfinite().all()
    (gradient,) = torch.autograd.grad(mixed[others].sum(), packed)
    assert gradient[others].isfinite().all()

    if with_candidates:
        mixed = attend_from_candidates(packed[own:, 0], packed[:, 1:], rows)
        assert mixed[others[own:]].isfinite().all()
        if token < own and (parts == [2] or (not pad and parts != [0])):
            assert mixed[~others[own:]].flatten(1).isnan().any(-1).all()
        (gradient,) = torch.autograd.grad(mixed[others[own:]].sum(), packed)
        asked = others & (torch.tensor(candidates) > 0)[row]
        assert gradient[asked].isfinite().all()


def test_large_scores_do_not_overflow():
    lengths, candidates, packed = draw([(6, 3)], 2, 8, seed=0)
    rows = Rows.build(offsets(lengths), offsets(candidates), pad=False)
    large = packed.detach() * 30
    expected = plain(large, lengths, candidates, bidirectional=False)
    torch.testing.assert_close(attend(large, rows), expected, atol=1e-3, rtol=1e-4)
