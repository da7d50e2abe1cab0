import dataclasses

import pytest
import torch
from torch.nn import functional

from models.architecture import Architecture
from models.generative import GenerativeModel, SoftmaxSettings
from models.rows import Rows
from tests.models.plain import PlainTables, sequence_batch

TABLE_ROWS = {"item_id": 40, "category": 6}
ARCHITECTURE = Architecture.parse("L1H32A2")
LENGTHS = [5, 1, 9, 2]


def make(**softmax):
    torch.manual_seed(3)
    tables = PlainTables(TABLE_ROWS, ARCHITECTURE.width)
    settings = SoftmaxSettings(**softmax)
    return GenerativeModel(tables, TABLE_ROWS, ARCHITECTURE, settings, seed=1)


def part(batch, first, last):
    """Sequences first to last of a batch, as a batch of their own."""
    begin, end = int(batch.offsets[first]), int(batch.offsets[last])
    return dataclasses.replace(
        batch,
        tokens={name: rows[begin:end] for name, rows in batch.tokens.items()},
        offsets=batch.offsets[first : last + 1] - begin,
        row_ids=batch.row_ids[first:last],
        weights=batch.weights[first:last],
    )


def test_full_softmax_is_cross_entropy_of_the_next_event():
    model, batch = make(full_softmax_rows=100), sequence_batch(TABLE_ROWS, LENGTHS)
    losses = model(batch, step=0)
    assert losses.names == ("item_id", "category")
    assert losses.counts.tolist() == [13, 13]  # every event but each sequence's first

    for number, name in enumerate(losses.names):
        expected = 0.0
        for s in range(len(LENGTHS)):
            alone = part(batch, s, s + 1)
            hidden = hidden_states(model, alone)
            table = functional.normalize(model.tables.tables[name].weight, dim=-1)
            scores = functional.normalize(hidden, dim=-1) @ table.T / 0.05
            expected += functional.cross_entropy(
                scores[:-1], alone.tokens[name][1:], reduction="sum"
            )
        torch.testing.assert_close(losses.sums[number], expected)


def test_of_increments_only_new_events_are_predicted():
    model, batch = make(full_softmax_rows=100), sequence_batch(TABLE_ROWS, LENGTHS)
    # All of the first; the second's only event has none before it; two; none.
    num_new = [5, 1, 2, 0]
    losses = model(dataclasses.replace(batch, num_new=torch.tensor(num_new)), step=0)
    assert losses.counts.tolist() == [4 + 0 + 2 + 0] * 2

    expected = 0.0
    for s in (0, 2):
        alone = part(batch, s, s + 1)
        table = functional.normalize(model.tables.tables["item_id"].weight, dim=-1)
        scores = functional.normalize(hidden_states(model, alone), dim=-1) @ table.T / 0.05
        rows = functional.cross_entropy(scores[:-1], alone.tokens["item_id"][1:], reduction="none")
        expected += rows[-num_new[s] :].sum()
    torch.testing.assert_close(losses.sums[0], expected)


def hidden_states(model, batch):
    vectors = model.tables.lookup(batch.tokens)
    rows = Rows.build(batch.offsets)
    segments = torch.zeros_like(batch.tokens["item_id"])
    return model.transformer(model.tokens(vectors, segments), rows)


@pytest.mark.parametrize("share", ["batch", "sequence"])
def test_a_batch_is_the_sum_of_its_parts(share):
    """What one rank computes, two ranks with half the sequences each compute together."""
    softmax = {"full_softmax_rows": 10, "num_negatives": 20, "share_negatives": share}
    model, batch = make(**softmax), sequence_batch(TABLE_ROWS, LENGTHS)
    whole = model(batch, step=7)
    parts = [model(part(batch, 0, 2), step=7), model(part(batch, 2, 4), step=7)]
    torch.testing.assert_close(whole.sums, parts[0].sums + parts[1].sums)
    assert torch.equal(whole.counts, parts[0].counts + parts[1].counts)
    assert not torch.equal(whole.sums, model(batch, step=8).sums)


def test_fillers_and_unknown_targets_do_not_count():
    model, batch = make(), sequence_batch(TABLE_ROWS, LENGTHS)
    batch.tokens["item_id"][3] = 0
    batch = dataclasses.replace(batch, weights=torch.tensor([1.0, 1.0, 0.0, 1.0]))
    losses = model(batch, step=0)
    assert losses.counts.tolist() == [4, 5]


def test_the_future_changes_no_earlier_loss():
    model = make(full_softmax_rows=100)
    batch = sequence_batch(TABLE_ROWS, [6])
    shorter = part(batch, 0, 1)
    shorter = dataclasses.replace(
        shorter,
        tokens={name: rows[:4] for name, rows in batch.tokens.items()},
        offsets=torch.tensor([0, 4]),
    )
    before = model(shorter, step=0).sums
    changed = {name: torch.cat([rows[:4], rows[4:].flip(0)]) for name, rows in batch.tokens.items()}
    same_start = dataclasses.replace(
        batch, tokens={n: r[:4] for n, r in changed.items()}, offsets=torch.tensor([0, 4])
    )
    assert torch.equal(before, model(same_start, step=0).sums)
