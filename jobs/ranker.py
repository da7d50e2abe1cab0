"""A ranking model with the tables and layers its strategy asks for."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from embeddings.freezing import check_frozen, prove_unchanged
from embeddings.initialization import initialize
from embeddings.settings import TableSpec
from embeddings.sharding import shard
from embeddings.tables import EmbeddingTables
from embeddings.transfer import transfer
from jobs.dense import DENSE_DIGEST, load_dense
from jobs.distributed import World
from jobs.settings import JobSettings
from jobs.strategies import Strategy
from jobs.training import build_seeded
from models.ranking import RankingModel
from pipeline.errors import ExportError

__all__ = [
    "build_ranking_model",
    "fill_from_export",
    "fill_frozen",
    "frozen_tables",
    "prove_frozen_unchanged",
]


def frozen_tables(settings: JobSettings, strategy: Strategy) -> tuple[str, ...]:
    """The tables that stay as pretraining left them."""
    return settings.ranking.transfer_tables if strategy.freezes_tables else ()


def build_ranking_model(
    settings: JobSettings, specs: Sequence[TableSpec], strategy: Strategy, world: World
) -> nn.Module:
    """The sharded model with random dense layers; tables that are not transferred are random."""
    ranking = settings.ranking
    tables = EmbeddingTables(
        specs,
        settings.embeddings_of(specs),
        frozen=frozen_tables(settings, strategy),
        device=torch.device("meta"),
    )
    model = build_seeded(
        lambda: RankingModel(
            tables,
            settings.item_features,
            settings.context_features,
            ranking.architecture,
            bidirectional=ranking.bidirectional,
        ),
        ranking.training.seed,
        world.device,
    )
    sharded = shard(model, world.device, local_world_size=world.local_size)
    transferred = ranking.transfer_tables if strategy.transfers_tables else ()
    random = [spec.name for spec in specs if spec.name not in transferred]
    initialize(sharded, ranking.training.seed, random)
    return sharded


def fill_from_export(model: nn.Module, settings: JobSettings, strategy: Strategy) -> dict[str, Any]:
    """Transfer what the strategy takes from pretraining; says what came, for the result file.

    A run that goes on from an earlier ranker takes no dense layers from the export, whatever the
    strategy: it has those of the ranker, which have learnt to rank. Of tables that it trains, the
    ranker's rows follow; rows of values that are new since stay as exported.

    Raises:
        ExportError, DigestError: the export is missing or does not fit.
    """
    if not strategy.transfers_tables:
        return {}
    folder, names = settings.export_folder, settings.ranking.transfer_tables
    try:
        manifest = transfer(model, folder, names)
    except ExportError as error:
        raise ExportError(f"strategy {strategy.value} starts from an export: {error}") from None
    check_frozen(model, frozen_tables(settings, strategy))
    came: dict[str, Any] = {
        "export": str(folder),
        "tables": {name: manifest.tables[name].digest for name in names},
    }
    if strategy.transfers_dense and settings.ranking.continue_from is None:
        came["dense"] = manifest.source.get(DENSE_DIGEST)
        came["dense_parameters"] = load_dense(model, folder, manifest)
    return came


def fill_frozen(
    model: nn.Module, settings: JobSettings, strategy: Strategy, transferred: Mapping[str, Any]
) -> None:
    """Transfer the tables that checkpoints leave out, because they are frozen.

    Raises:
        ExportError: the export has been replaced since the model was trained on it.
    """
    frozen = frozen_tables(settings, strategy)
    if not frozen:
        return
    manifest = transfer(model, settings.export_folder, frozen)
    for name in frozen:
        if manifest.tables[name].digest != transferred["tables"][name]:
            raise ExportError(
                f"{settings.export_folder}: table {name} is not the one that strategy "
                f"{strategy.value} was trained with (the export was replaced since); rank again"
            )


def prove_frozen_unchanged(
    model: nn.Module, settings: JobSettings, strategy: Strategy, transferred: dict[str, Any]
) -> dict[str, str]:
    """The frozen tables' digests after training, equal to those they came with.

    Raises:
        DigestError: a bit of a frozen table changed.
    """
    names = frozen_tables(settings, strategy)
    check_frozen(model, names)
    return prove_unchanged(model, {name: transferred["tables"][name] for name in names})
