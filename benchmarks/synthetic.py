"""What the benchmarks of training train on: cases, and batches drawn like Amazon Foods'.

History lengths have a mean of 7 and are at most 50; items follow a power law over 41,000; there
are 1,000 categories.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.batches import RankingBatch, SequenceBatch

__all__ = ["MAX_LENGTH", "NUM_CATEGORIES", "Case", "draw_all", "num_tokens"]

NUM_CATEGORIES = 1_000
NUM_BATCHES = 8
MEAN_LENGTH, MAX_LENGTH = 7, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured."""

    task: str
    """pretraining or ranking"""
    architecture: str
    precision: str = "fp32"
    candidates: int = 2
    """a request's, in ranking"""
    rows: int = 512
    """sequences or requests of a batch"""
    num_items: int = 41_000
    frozen: bool = False
    replicated: bool = False
    """frozen tables are whole in every process"""
    table_optimizer: str = "rowwise_adagrad"
    """of tables that are trained: `embeddings.optimizer`"""
    full_length: bool = False
    """every history has `MAX_LENGTH` events"""
    num_negatives: int = 4096
    steps: int = 30
    core: int = 0
    """the one that the process may use; the first of them where there are several"""
    processes: int = 1
    """each with a core and `rows` of its own"""
    is_plain: bool = False
    """the same training done the obvious way, by `benchmarks.plain`"""
    device: str = "cpu"
    """cpu or cuda; `core` and one thread are for the former"""
    dense_only: bool = False
    """vectors are given, without tables: `benchmarks.dense`"""


def draw_all(case: Case, rng: np.random.Generator) -> list[SequenceBatch | RankingBatch]:
    """The batches of a case, which are trained on over and over."""
    one = _sequences if case.task == "pretraining" else _requests
    return [one(case, rng) for _ in range(NUM_BATCHES)]


def num_tokens(batch: SequenceBatch | RankingBatch) -> int:
    """Events and candidates."""
    if isinstance(batch, RankingBatch):
        return int(batch.history_offsets[-1] + batch.candidate_offsets[-1])
    return int(batch.offsets[-1])


def _lengths(case: Case, rng: np.random.Generator) -> Tensor:
    """(rows,) history lengths: geometric, so that their mean is about `MEAN_LENGTH`."""
    if case.full_length:
        return torch.full((case.rows,), MAX_LENGTH)
    return torch.from_numpy(np.minimum(rng.geometric(1 / MEAN_LENGTH, case.rows), MAX_LENGTH))


def _features(items: Tensor) -> dict[str, Tensor]:
    return {"item_id": items, "category_id": items % (NUM_CATEGORIES - 1) + 1}


def _popular(case: Case, rng: np.random.Generator, number: int) -> Tensor:
    """Items by a power law, never row 0."""
    return torch.from_numpy(rng.zipf(1.1, number) % (case.num_items - 1) + 1)


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _sequences(case: Case, rng: np.random.Generator) -> SequenceBatch:
    offsets = _offsets(_lengths(case, rng))
    return SequenceBatch(
        tokens=_features(_popular(case, rng, int(offsets[-1]))),
        offsets=offsets,
        row_ids=torch.arange(case.rows),
        weights=torch.ones(case.rows),
    )


def _requests(case: Case, rng: np.random.Generator) -> RankingBatch:
    """A positive by popularity, the others uniform."""
    offsets = _offsets(_lengths(case, rng))
    number = case.rows * case.candidates
    items = torch.from_numpy(rng.integers(1, case.num_items, number))
    is_positive = torch.arange(number) % case.candidates == 0
    items[is_positive] = _popular(case, rng, case.rows)
    return RankingBatch(
        history=_features(_popular(case, rng, int(offsets[-1]))),
        history_offsets=offsets,
        candidates=_features(items),
        candidate_offsets=torch.arange(case.rows + 1) * case.candidates,
        context={},
        labels=is_positive.float(),
        weights=torch.ones(number),
        row_ids=torch.arange(case.rows),
    )
