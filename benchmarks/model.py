"""The jobs' model of a case, around whatever holds its vectors."""

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.synthetic import NUM_CATEGORIES, Case
from models.architecture import Architecture
from models.generative import GenerativeModel, SoftmaxSettings
from models.losses import LossSums
from models.ranking import RankingModel

__all__ = ["forward_of", "model_of", "table_rows"]


def table_rows(case: Case) -> dict[str, int]:
    """Table -> its rows."""
    return {"item_id": case.num_items, "category_id": NUM_CATEGORIES}


def model_of(case: Case, architecture: Architecture, tables: nn.Module) -> nn.Module:
    """With dense parameters as they are drawn."""
    rows = table_rows(case)
    if case.task == "pretraining":
        softmax = SoftmaxSettings(num_negatives=case.num_negatives)
        return GenerativeModel(tables, rows, architecture, softmax, 0)
    return RankingModel(tables, list(rows), [], architecture)


def forward_of(case: Case, model: nn.Module) -> Callable[[Any, int], LossSums]:
    """(batch, step) -> losses."""
    return model if case.task == "pretraining" else lambda batch, _: model(batch)
