"""The pretrained tables and dense layers, written for ranking to take.

    python -m jobs.export --config FILE
    torchrun --nproc-per-node 2 -m jobs.export --config FILE

Reads the newest checkpoint in ROOT/pretraining/day=<last day>, writes ROOT/tables/day=<last day>.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from embeddings.export import export_tables, remove_unpublished
from embeddings.manifests import ExportManifest
from jobs.checkpoints import load_model, newest_checkpoint
from jobs.claims import claim
from jobs.command import Arguments, run_verb
from jobs.dense import DENSE_DIGEST, export_dense, remove_unnamed_dense
from jobs.distributed import World, join_world
from jobs.identity import pretraining_identity
from jobs.pretrain import build_generative_model
from jobs.runs import RunFolder
from pipeline.errors import CheckpointError
from pipeline.settings import settings_digest

__all__ = ["export", "main"]


def main() -> None:
    """Entry point of the verb."""
    run_verb(export, __doc__)


def export(arguments: Arguments) -> None:
    """Run the verb on this rank."""
    settings = arguments.settings
    with join_world() as world:
        run = RunFolder(settings.pretraining_folder)
        if not run.is_finished:
            raise CheckpointError(
                f"{run.path}: pretraining has not finished there; run pretrain, with --resume if "
                "it was interrupted"
            )
        specs = settings.table_specs(settings.item_features, settings.pretraining.architecture)
        # Tables must not be stamped with a vocabulary that they were not trained on.
        identity = pretraining_identity(settings, specs, run.identity.get("continued", {}))
        run.check(identity, "set it back, or pretrain again")
        model = build_generative_model(settings, specs, world)
        checkpoint = newest_checkpoint(run.checkpoints, world)
        if checkpoint is None:
            raise CheckpointError(f"{run.checkpoints}: no usable checkpoint; run pretrain again")
        load_model(model, checkpoint)
        folder = settings.export_folder
        if world.is_first:
            claim(folder, settings.daily.attempt)
        source = {
            "checkpoint": str(checkpoint),
            "day": str(settings.days.pretraining[1]),
            "architecture": str(settings.pretraining.architecture),
            "settings": settings_digest(settings.pretraining),
        }
        manifest = _write(model, folder, source, world)
        tables = (f"{name} {table.num_rows:,} rows" for name, table in manifest.tables.items())
        world.say(f"export: {', '.join(tables)} to {folder}")


def _write(
    model: nn.Module, folder: Path, source: Mapping[str, str], world: World
) -> ExportManifest:
    """Write the whole export, or nothing that stays."""

    def write_dense() -> str:
        # Before anything is written: on a full disk there is no room beside it.
        _remove_unpublished(folder)
        return export_dense(model, folder)

    try:
        digest = str(world.gather_objects(write_dense() if world.is_first else "")[0])
        manifest = export_tables(model, folder, {**source, DENSE_DIGEST: digest})
        if world.is_first:
            remove_unnamed_dense(folder)
    except BaseException:
        if world.is_first:
            _remove_unpublished(folder)
        raise
    return manifest


def _remove_unpublished(folder: Path) -> None:
    """Remove what exports that failed or were killed left beside the published one."""
    remove_unpublished(folder)
    remove_unnamed_dense(folder)


if __name__ == "__main__":
    main()
