"""Packed tokens against a padded, one-row-at-a-time computation written for reading."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from models.architecture import Architecture
from models.rows import Rows
from models.transformer import Transformer, rotary_table
from tests.models.plain import offsets

ARCHITECTURE = Architecture.parse("L2H32A2")
LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=9)


def one_row(transformer: Transformer, hidden, positions, sees):
    """The Transformer over one row (T, D) with an explicit (T, T) mask."""
    heads, width = ARCHITECTURE.num_heads, ARCHITECTURE.head_width
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(0, width, 2) / width)
    for block in transformer.blocks:
        x = functional.rms_norm(hidden, (hidden.shape[-1],), block.attention_norm.weight, 1e-5)
        q, k, v = block.attention.query_key_value(x).chunk(3, dim=-1)
        turned = []
        for vectors in (q, k):
            pairs = torch.view_as_complex(
                vectors.reshape(len(x), heads, width // 2, 2).contiguous()
            )
            pairs = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
            turned.append(torch.view_as_real(pairs).reshape(len(x), heads, width))
        scores = torch.einsum("qhe,khe->hqk", *turned) / width**0.5
        weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
        mixed = torch.einsum("hqk,khe->qhe", weights, v.reshape(len(x), heads, width))
        hidden = hidden + block.attention.output(mixed.flatten(1))
        x = functional.rms_norm(hidden, (hidden.shape[-1],), block.feedforward_norm.weight, 1e-5)
        gate, up = block.feedforward.gate_up(x).chunk(2, dim=-1)
        hidden = hidden + block.feedforward.down(functional.silu(gate) * up)
    return functional.rms_norm(hidden, (hidden.shape[-1],), transformer.final_norm.weight, 1e-5)


def make(seed: int) -> Transformer:
    torch.manual_seed(seed)
    transformer = Transformer(ARCHITECTURE)
    for parameter in transformer.parameters():  # larger than at the start, so that errors show
        nn.init.normal_(parameter, std=0.2)
    return transformer


@settings(max_examples=20)
@example([0], 0, False, 1)
@given(LENGTHS, st.integers(0, 2**30), st.booleans(), st.integers(0, 5))
def test_packed_histories_equal_rows_one_by_one(lengths, seed, bidirectional, num_buckets):
    transformer = make(seed)
    packed = torch.randn(sum(lengths), ARCHITECTURE.width, requires_grad=True)
    rows = Rows.build(
        offsets(lengths),
        bidirectional=bidirectional,
        pad=num_buckets > 0,
        num_buckets=num_buckets,
    )
    actual = transformer(packed, rows)

    expected = []
    for part in packed.split(lengths):
        everything = torch.ones(len(part), len(part), dtype=torch.bool)
        sees = everything if bidirectional else everything.tril()
        expected.append(one_row(transformer, part, torch.arange(len(part)), sees))
    expected = torch.cat(expected)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)

    probe = torch.randn_like(actual)
    actual_gradient = torch.autograd.grad((actual * probe).sum(), packed)[0]
    expected_gradient = torch.autograd.grad((expected * probe).sum(), packed)[0]
    torch.testing.assert_close(actual_gradient, expected_gradient, atol=1e-3, rtol=1e-3)


@settings(max_examples=20)
@example([(0, 0)], 0, False, True)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), min_size=1, max_size=8),
    st.integers(0, 2**30),
    st.booleans(),
    st.booleans(),
)
def test_grouped_candidates_equal_one_at_a_time(pairs, seed, bidirectional, pad):
    transformer = make(seed)
    lengths, candidates = [p[0] for p in pairs], [p[1] for p in pairs]
    history = torch.randn(sum(lengths), ARCHITECTURE.width)
    candidate = torch.randn(sum(candidates), ARCHITECTURE.width)
    rows = Rows.build(offsets(lengths), offsets(candidates), bidirectional=bidirectional, pad=pad)
    packed = torch.cat([history, candidate]).requires_grad_()
    history, candidate = packed.split((len(history), len(candidate)))
    actual = transformer(packed, rows)

    expected = []
    for own_history, own in zip(history.split(lengths), candidate.split(candidates), strict=True):
        length = len(own_history)
        sees = torch.ones(length + 1, length + 1, dtype=torch.bool).tril()
        if bidirectional:
            sees[:length, :length] = True
        for one in own:
            row = torch.cat([own_history, one[None]])
            hidden = one_row(transformer, row, torch.arange(length + 1), sees)
            expected.append(hidden[-1])
    expected = torch.stack(expected) if expected else packed[:0]
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)

    inputs = [packed, *transformer.parameters()]
    probe = torch.randn_like(actual)
    actual_gradients = torch.autograd.grad((actual * probe).sum(), inputs)
    loss = (expected * probe).sum()
    expected_gradients = torch.autograd.grad(loss, inputs, materialize_grads=True)
    for ours, plain in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-3, rtol=1e-3)


def test_a_later_event_changes_nothing_before_it():
    transformer = make(0)
    packed = torch.randn(7, ARCHITECTURE.width)
    rows = Rows.build(offsets([4, 3]))
    before = transformer(packed, rows)
    packed[2] += 1.0
    changed = (transformer(packed, rows) - before).abs().sum(-1) > 0
    assert changed.tolist() == [False, False, True, True, False, False, False]


def test_rotary_table_turns_by_position():
    table = rotary_table(torch.tensor([0, 5]), 4)
    assert table[0].tolist() == [1, 1]
    torch.testing.assert_close(table[1].real, torch.tensor([5.0, 0.05]).cos())
    torch.testing.assert_close(table[1].imag, torch.tensor([5.0, 0.05]).sin())


def test_little_is_padded():
    lengths = torch.randint(1, 100, (256,)).tolist()
    rows = Rows.build(offsets(lengths), pad=True).padded
    assert rows.slots.numel() < 1.35 * sum(lengths)
