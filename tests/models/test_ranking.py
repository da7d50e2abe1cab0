import dataclasses

import torch
from torch.nn import functional

from models.architecture import Architecture
from models.ranking import RankingModel
from tests.models.plain import PlainTables, ranking_batch

TABLE_ROWS = {"item_id": 40, "category": 6}
CONTEXT_ROWS = {"shop": 4}
ARCHITECTURE = Architecture.parse("L2H32A2")


def make(context=()):
    torch.manual_seed(3)
    tables = PlainTables({**TABLE_ROWS, **CONTEXT_ROWS}, ARCHITECTURE.width)
    return RankingModel(tables, list(TABLE_ROWS), list(context), ARCHITECTURE)


def requests(with_context=False):
    batch = ranking_batch(TABLE_ROWS, [4, 0, 7], [2, 3, 1])
    context = {"shop": torch.tensor([1, 2, 3])} if with_context else {}
    return dataclasses.replace(batch, context=context)


def one_pair(batch, request, candidate):
    """A batch of one history and one candidate."""
    begin, end = batch.history_offsets[request], batch.history_offsets[request + 1]
    return dataclasses.replace(
        batch,
        history={name: rows[begin:end] for name, rows in batch.history.items()},
        history_offsets=torch.tensor([0, int(end - begin)]),
        candidates={n: rows[candidate : candidate + 1] for n, rows in batch.candidates.items()},
        candidate_offsets=torch.tensor([0, 1]),
        context={name: rows[request : request + 1] for name, rows in batch.context.items()},
        labels=batch.labels[candidate : candidate + 1],
        weights=batch.weights[candidate : candidate + 1],
        row_ids=batch.row_ids[request : request + 1],
    )


def test_candidates_together_equal_one_at_a_time():
    model, batch = make(["shop"]), requests(with_context=True)
    pairs = [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4), (2, 5)]
    alone = torch.cat([model.score(one_pair(batch, *pair)) for pair in pairs])
    torch.testing.assert_close(model.score(batch), alone, atol=1e-6, rtol=1e-4)


def test_loss_is_the_weighted_binary_cross_entropy():
    model, batch = make(), requests()
    batch = dataclasses.replace(batch, weights=torch.tensor([1.0, 0, 1, 1, 0, 1]))
    losses = model(batch)
    each = functional.binary_cross_entropy(
        model.score(batch).sigmoid(), batch.labels, reduction="none"
    )
    torch.testing.assert_close(losses.sums[0], (each * batch.weights).sum())
    assert losses.counts.tolist() == [4]


def test_context_reaches_the_score():
    model, batch = make(["shop"]), requests(with_context=True)
    other = dataclasses.replace(batch, context={"shop": torch.tensor([1, 2, 0])})
    changed = (model.score(batch) - model.score(other)).abs() > 0
    assert changed.tolist() == [False] * 5 + [True]
