"""Both models against a reference written for reading: values and all gradients, jagged inputs.

In both precisions, the reference being float32, and with both ways of attention. Tolerance in
float32: 1e-4 of each value or gradient, and 1e-4 of the largest of its tensor. In bfloat16: 2% of
values and 5% of each gradient, as norms, with a little of all gradients for what cancels.
"""

import dataclasses
import operator
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from models.architecture import Architecture
from models.generative import GenerativeModel, SoftmaxSettings
from models.negatives import UniformNegatives
from models.ranking import RankingHead, RankingModel
from tests.models.plain import PlainTables, ranking_batch, sequence_batch
from tests.models.precision import PRECISIONS, assert_rounded, under
from tests.models.reference import ReferenceGenerative, ReferenceRanking

ITEM_ROWS = {"item_id": 40, "category": 6}
CONTEXT_ROWS = {"shop": 4}
# The usual one; heads of whole runs of bfloat16; no whole registers; more heads than columns.
ARCHITECTURES = st.sampled_from(["L2H32A2", "L1H64A4", "L2H12A3", "L1H68A34"])
SEEDS = st.integers(0, 2**30)
TOLERANCE = 1e-4

# Those longer than 128 are padded.
LONG = st.sampled_from([31, 33, 127, 128, 129, 140])
SEQUENCES = st.builds(
    operator.add,
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=7),
    st.lists(st.tuples(LONG, st.booleans()), max_size=1),
)
REQUESTS = st.builds(
    operator.add,
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), min_size=1, max_size=7),
    st.lists(st.tuples(st.just(0) | LONG, st.sampled_from([1, 9, 33])), max_size=1),
)


def ways(test):
    """Both precisions and, by the longest row that is not padded, both ways of attention."""
    test = pytest.mark.parametrize("longest", [128, -1], ids=["compiled", "padded"])(test)
    return pytest.mark.parametrize("precision", PRECISIONS)(test)


def not_padded(longest):
    return mock.patch("models.rows._LONGEST_JAGGED", longest)


def grow(model: nn.Module, precision: str) -> None:
    """Weights larger than at the start, so that errors show; with larger ones rounding does."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3 if precision == "fp32" else 0.2)


def keep_signs(head: RankingHead) -> None:
    """Rectifiers far from zero: one that rounding turns has a large part of the gradient."""
    with torch.no_grad():
        head.hidden.bias[::2] = 2
        head.hidden.bias[1::2] = -2
        head.output.weight *= 0.1


def twin(reference: nn.Module, model: nn.Module) -> nn.Module:
    """The reference with the same weights, under the same names."""
    reference.load_state_dict(model.state_dict())
    return reference


def check(precision, sums, counts, reference, wanted_sums, wanted_counts, model):
    assert torch.equal(counts, wanted_counts)
    if precision == "fp32":
        close(sums, wanted_sums)
    else:
        assert_rounded(sums, wanted_sums, 0.02, size=counts.norm())
    # Each kind of loss weighs differently, so that none hides behind another.
    weights = torch.arange(1.0, 1 + len(sums))
    (sums * weights).sum().backward()
    (wanted_sums * weights).sum().backward()
    wanted = {name: gradient(parameter) for name, parameter in reference.named_parameters()}
    size = torch.stack([value.norm() for value in wanted.values()]).norm()
    for name, parameter in model.named_parameters():
        if precision == "fp32":
            close(gradient(parameter), wanted[name], name, size)
        else:
            assert_rounded(gradient(parameter), wanted[name], 0.05, 0.1 * size, name)


def gradient(parameter):
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)


def close(actual, expected, name="", size=0.0):
    """With a little of `size`, that of terms which may cancel."""
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual,
        expected,
        rtol=TOLERANCE,
        atol=TOLERANCE * scale + 1e-6 * float(size) + 1e-7,
        msg=lambda text: f"{name}: {text}",
    )


@ways
@settings(max_examples=15)
@example([(0, True)], "L2H32A2", 0, "batch", 0)
@given(
    SEQUENCES,
    ARCHITECTURES,
    SEEDS,
    st.sampled_from(["batch", "sequence"]),
    st.sampled_from([0, 10, 1000]),
)
def test_packed_sequences_equal_padded_ones(
    precision, longest, sequences, code, seed, share, full_softmax_rows
):
    architecture = Architecture.parse(code)
    torch.manual_seed(seed)
    softmax = SoftmaxSettings(
        num_negatives=25, share_negatives=share, full_softmax_rows=full_softmax_rows
    )
    tables = PlainTables(ITEM_ROWS, architecture.width)
    model = GenerativeModel(tables, ITEM_ROWS, architecture, softmax, seed=seed)
    grow(model, precision)
    reference = twin(ReferenceGenerative(ITEM_ROWS, architecture), model)

    batch = sequence_batch(ITEM_ROWS, [length for length, _ in sequences])
    batch.tokens["category"][:: 1 + seed % 5] = 0
    weights = torch.tensor([float(counts) for _, counts in sequences])
    batch = dataclasses.replace(batch, weights=weights)
    with under(precision), not_padded(longest):
        losses = model(batch, step=3)
    negatives = {
        name: UniformNegatives(num_rows=rows, num_negatives=25, share=share, seed=seed).draw(
            3, batch.row_ids
        )
        for name, rows in ITEM_ROWS.items()
        if rows > full_softmax_rows
    }
    wanted = reference.losses(batch, negatives, softmax.temperature)
    check(precision, losses.sums, losses.counts, reference, *wanted, model)


@ways
@settings(max_examples=15)
@example([(0, 0)], "L2H32A2", 0, False, False)
@given(
    REQUESTS,
    ARCHITECTURES,
    SEEDS,
    st.booleans(),
    st.booleans(),
)
def test_grouped_candidates_equal_each_pair_alone(
    precision, longest, requests, code, seed, bidirectional, with_context
):
    """The history is computed once here, and once a candidate in the reference."""
    architecture = Architecture.parse(code)
    torch.manual_seed(seed)
    context_rows = CONTEXT_ROWS if with_context else {}
    tables = PlainTables({**ITEM_ROWS, **context_rows}, architecture.width)
    model = RankingModel(
        tables, list(ITEM_ROWS), list(context_rows), architecture, bidirectional=bidirectional
    )
    grow(model, precision)
    batch = ranking_batch(ITEM_ROWS, [r[0] for r in requests], [r[1] for r in requests])
    batch = dataclasses.replace(
        batch,
        context={
            name: torch.randint(0, rows, (len(requests),)) for name, rows in context_rows.items()
        },
        weights=torch.randint(0, 2, batch.labels.shape).float(),
    )
    if precision == "bf16":
        keep_signs(model.head)
        # Candidates of both kinds would cancel in the head's sums, and leave rounding.
        batch = dataclasses.replace(batch, labels=torch.full_like(batch.labels, seed % 2))
    reference = twin(
        ReferenceRanking(ITEM_ROWS, context_rows, architecture, bidirectional=bidirectional), model
    )
    with under(precision), not_padded(longest):
        losses = model(batch)
    if precision == "fp32":
        close(losses.logits, reference.score(batch))
    else:
        size = 0.3 * torch.ones_like(batch.labels).norm()
        assert_rounded(losses.logits, reference.score(batch), 0.02, size)
    check(precision, losses.sums, losses.counts, reference, *reference.losses(batch), model)
