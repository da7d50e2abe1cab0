"""Discriminative training of one ranking model, bridged from pretraining by one strategy.

    python -m jobs.rank --config FILE [--set ranking.strategy=NT] [--resume]
    torchrun --nproc-per-node 2 -m jobs.rank --config FILE

Reads ROOT/requests and, unless the strategy is NT, the export in ROOT/tables; with
ranking.continue_from also the last checkpoint of that day's ranker. Writes
ROOT/ranking/<task>/<strategy>/day=<last day>: checkpoints (the last ones and, where there are
validation days, the best by validation AUC), metrics, result.
"""

from collections.abc import Sequence

from embeddings.settings import TableSpec
from jobs.checkpoint_files import read_manifest
from jobs.checkpoints import CheckpointStore, newest_checkpoint
from jobs.command import Arguments, run_verb
from jobs.continuation import ranking_start
from jobs.distributed import World, join_world
from jobs.evaluation import evaluate_model
from jobs.hooks import ValidationHook
from jobs.identity import ranking_identity
from jobs.loop import check_warmup
from jobs.ranker import build_ranking_model, fill_from_export, frozen_tables, prove_frozen_unchanged
from jobs.readers import requests_reader, take_in_examples
from jobs.runs import RunFolder, write_json
from jobs.settings import JobSettings
from jobs.training import TrainingRun
from models.losses import LossSums
from pipeline.batches import RankingBatch
from pipeline.errors import CheckpointError

__all__ = ["main", "rank"]


def main() -> None:
    """Entry point of the verb."""
    run_verb(rank, __doc__, resumable=True)


def rank(arguments: Arguments) -> None:
    """Run the verb on this rank."""
    settings, ranking = arguments.settings, arguments.settings.ranking
    with join_world() as world:
        take_in_examples(settings, world)
        names = settings.item_features + settings.context_features
        specs = settings.table_specs(names, ranking.architecture)
        training = ranking.training
        reader = requests_reader(settings, world, specs, "ranking")
        validation = (
            requests_reader(settings, world, specs, "validation")
            if settings.days.validation is not None
            else None
        )
        folder = RunFolder(settings.ranking_folder(ranking.strategy))
        if arguments.resume and folder.is_finished:
            _check_finished(settings, specs, folder, world)
            world.say(f"{folder.path}: finished already, nothing to resume")
            return
        check_warmup("ranking", training, reader)
        frozen = frozen_tables(settings, ranking.strategy)
        trained = [spec for spec in specs if spec.name not in frozen]
        start = ranking_start(settings, trained, world)
        model = build_ranking_model(settings, specs, ranking.strategy, world)
        transferred = fill_from_export(model, settings, ranking.strategy)
        if world.is_first:
            continued = start.identity if start else {}
            identity = ranking_identity(settings, specs, transferred, continued)
            attempt = settings.daily.attempt
            aside = folder.start(settings, identity, resume=arguments.resume, attempt=attempt)
            world.say(aside)
        world.wait_for_all()

        def forward(batch: RankingBatch, step: int) -> LossSums:
            del step
            return model(batch)

        def validate(checkpoints: CheckpointStore) -> list[ValidationHook]:
            if (unseen := validation) is None:
                return []
            hook = ValidationHook(
                folder,
                lambda: evaluate_model(model, unseen, world, training.precision),
                checkpoints,
                ranking.evaluations_per_epoch,
                _best_auc_so_far(folder, world, resume=arguments.resume),
            )
            return [hook]

        result = TrainingRun(
            title=f"rank {ranking.strategy.value}",
            world=world,
            folder=folder,
            settings=settings,
            training=training,
            model=model,
            forward=forward,
            specs=specs,
            reader=reader,
            start=start,
        ).run(resume=arguments.resume, more_hooks=validate)
        if arguments.resume and validation is not None:
            _check_best(folder, world)
        proof = prove_frozen_unchanged(model, settings, ranking.strategy, transferred)
        if world.is_first:
            identity = {
                "job": "rank",
                "task": settings.task,
                "strategy": ranking.strategy.value,
                "architecture": str(ranking.architecture),
            }
            evidence = {"transferred": transferred, "frozen_unchanged": proof}
            write_json(folder.path / "result.json", {**identity, **result, **evidence})


def _check_finished(
    settings: JobSettings, specs: Sequence[TableSpec], folder: RunFolder, world: World
) -> None:
    """Raises CheckpointError where a finished run is another, or has nothing to be evaluated."""
    before = folder.identity
    continued = before.get("continued", {})
    identity = ranking_identity(settings, specs, before["transferred"], continued)
    folder.check(identity, "set it back, or start over without --resume")
    if settings.days.validation is not None:
        _check_best(folder, world)


def _best_auc_so_far(folder: RunFolder, world: World, *, resume: bool) -> float:
    """What to beat: the validation AUC of the best checkpoint that a resumed run still has."""
    best = newest_checkpoint(folder.checkpoints, world, "best") if resume else None
    lines = folder.lines() if resume and world.is_first else []
    aucs = {line["step"]: line["auc"] for line in lines if line["kind"] == "evaluation"}
    reached = aucs.get(read_manifest(best)["progress"]["step"], -1.0) if best else -1.0
    step = max(aucs, key=lambda at: aucs[at], default=0)
    if aucs.get(step, -1.0) > reached:
        world.say(
            f"{folder.checkpoints}: the best checkpoint by validation, of step {step}, is lost; "
            "the best is chosen among those before it and those to come"
        )
    return world.gather_objects(reached)[0]  # type: ignore[return-value]


def _check_best(folder: RunFolder, world: World) -> None:
    """Raises CheckpointError where a run at its end has no best checkpoint to be evaluated."""
    if newest_checkpoint(folder.checkpoints, world, "best") is None:
        raise CheckpointError(
            f"{folder.checkpoints}: no usable best checkpoint, and no validation to come; rank "
            "again without --resume"
        )


if __name__ == "__main__":
    main()
