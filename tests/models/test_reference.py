"""Both models against a reference written for reading: values and all gradients, jagged inputs.

Tolerance: 1e-4 of each value or gradient, and 1e-4 of the largest of its tensor.
"""

import dataclasses

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.architecture import Architecture
from models.generative import GenerativeModel, SoftmaxSettings
from models.negatives import UniformNegatives
from models.ranking import RankingModel
from tests.models.plain import PlainTables, ranking_batch, sequence_batch
from tests.models.reference import ReferenceGenerative, ReferenceRanking

ITEM_ROWS = {"item_id": 40, "category": 6}
CONTEXT_ROWS = {"shop": 4}
ARCHITECTURE = Architecture.parse("L2H32A2")
SEEDS = st.integers(0, 2**30)
TOLERANCE = 1e-4


def grow(model: nn.Module) -> None:
    """Weights larger than at the start, so that errors show."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)


def twin(reference: nn.Module, model: nn.Module) -> nn.Module:
    """The reference with the same weights, under the same names."""
    reference.load_state_dict(model.state_dict())
    return reference


def check(sums, counts, reference, wanted_sums, wanted_counts, model):
    assert torch.equal(counts, wanted_counts)
    close(sums, wanted_sums)
    # Each kind of loss weighs differently, so that none hides behind another.
    weights = torch.arange(1.0, 1 + len(sums))
    (sums * weights).sum().backward()
    (wanted_sums * weights).sum().backward()
    wanted = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        close(gradient(parameter), gradient(wanted[name]), name)


def gradient(parameter):
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)


def close(actual, expected, name=""):
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual,
        expected,
        rtol=TOLERANCE,
        atol=TOLERANCE * scale + 1e-7,
        msg=lambda text: f"{name}: {text}",
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=7),
    SEEDS,
    st.sampled_from(["batch", "sequence"]),
    st.sampled_from([0, 10, 1000]),
)
def test_packed_sequences_equal_padded_ones(sequences, seed, share, full_softmax_rows):
    torch.manual_seed(seed)
    softmax = SoftmaxSettings(
        num_negatives=25, share_negatives=share, full_softmax_rows=full_softmax_rows
    )
    tables = PlainTables(ITEM_ROWS, ARCHITECTURE.width)
    model = GenerativeModel(tables, ITEM_ROWS, ARCHITECTURE, softmax, seed=seed)
    grow(model)
    reference = twin(ReferenceGenerative(ITEM_ROWS, ARCHITECTURE), model)

    batch = sequence_batch(ITEM_ROWS, [length for length, _ in sequences])
    batch.tokens["category"][:: 1 + seed % 5] = 0
    weights = torch.tensor([float(counts) for _, counts in sequences])
    batch = dataclasses.replace(batch, weights=weights)
    losses = model(batch, step=3)
    negatives = {
        name: UniformNegatives(num_rows=rows, num_negatives=25, share=share, seed=seed).draw(
            3, batch.row_ids
        )
        for name, rows in ITEM_ROWS.items()
        if rows > full_softmax_rows
    }
    wanted = reference.losses(batch, negatives, softmax.temperature)
    check(losses.sums, losses.counts, reference, *wanted, model)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=6),
    SEEDS,
    st.booleans(),
    st.booleans(),
)
def test_grouped_candidates_equal_each_pair_alone(requests, seed, bidirectional, with_context):
    """The history is computed once here, and once a candidate in the reference."""
    requests = [*requests, (3, 2)]
    torch.manual_seed(seed)
    context_rows = CONTEXT_ROWS if with_context else {}
    tables = PlainTables({**ITEM_ROWS, **context_rows}, ARCHITECTURE.width)
    model = RankingModel(
        tables, list(ITEM_ROWS), list(context_rows), ARCHITECTURE, bidirectional=bidirectional
    )
    grow(model)
    reference = twin(
        ReferenceRanking(ITEM_ROWS, context_rows, ARCHITECTURE, bidirectional=bidirectional), model
    )

    batch = ranking_batch(ITEM_ROWS, [r[0] for r in requests], [r[1] for r in requests])
    batch = dataclasses.replace(
        batch,
        context={
            name: torch.randint(0, rows, (len(requests),)) for name, rows in context_rows.items()
        },
        weights=torch.randint(0, 2, batch.labels.shape).float(),
    )
    close(model.score(batch), reference.score(batch))
    losses = model(batch)
    check(losses.sums, losses.counts, reference, *reference.losses(batch), model)
