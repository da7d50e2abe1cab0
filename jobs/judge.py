"""Finished rankers of some days side by side, on the same requests.

    python -m jobs.judge --config FILE --set 'judging.models=["2024-01-20"]' --set ...
    torchrun --nproc-per-node 2 -m jobs.judge --config FILE ...

The daily chain asks it twice: how a ranker did on requests of days on which it served, and how a
new one does beside the published one on held-out users' requests. Reads
ROOT/ranking/<task>/<strategy>/day=<model>, writes ROOT/judgements/<task>/day=<D>/<name>.json, D
being the last training day of the config. What a model does not know, rows that were added to the
vocabulary after its day, is unknown to it, as it would be where it serves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from embeddings.settings import TableSpec
from jobs.checkpoint_files import content_digest, read_manifest
from jobs.checkpoints import load_model, newest_checkpoint
from jobs.claims import claim
from jobs.command import Arguments, run_verb
from jobs.distributed import World, join_world
from jobs.evaluation import Slice, evaluate_slices
from jobs.judgements import NEW_ITEMS, judgement_path
from jobs.ranker import build_ranking_model, fill_frozen
from jobs.readers import AskedRequests, asked_reader
from jobs.run_records import load_run
from jobs.runs import RunFolder, remove_unfinished, write_json
from jobs.settings import JobSettings
from pipeline.batches import RankingBatch
from pipeline.errors import CheckpointError, ConfigError, VocabularyError
from pipeline.reader import Reader
from pipeline.schema import UNKNOWN_ROW, DaySettings
from pipeline.vocabulary import rows_known_by

__all__ = ["judge", "main", "settings_of_day"]


def main() -> None:
    """Entry point of the verb."""
    run_verb(judge, __doc__)


def judge(arguments: Arguments) -> None:
    """Run the verb on this rank."""
    settings, judging = arguments.settings, arguments.settings.judging
    if not (judging.models and judging.days):
        raise ConfigError("judging.models, judging.days: required here; name days")
    with join_world() as world:
        if world.is_first:
            folder = judgement_path(settings, judging.name).parent
            claim(folder, settings.daily.attempt)
            remove_unfinished(folder)
        names = settings.item_features + settings.context_features
        specs = settings.table_specs(names, settings.ranking.architecture)
        readers = list(_readers(settings, world, specs))
        slices = {NEW_ITEMS: _is_new(_first_new_row(settings))}
        found: dict[str, Any] = {}
        for day in judging.models:
            model, known, facts = _model_of(settings, day, world)
            batches = (batch.known_only(known) for r in readers for batch in r.batches(epoch=0))
            precision = settings.ranking.training.precision
            results = evaluate_slices(model, batches, world, slices, precision)
            found[day.isoformat()] = {
                **facts,
                **{name: asdict(result) for name, result in results.items()},
            }
            del model
        if world.is_first:
            _write(settings, found)


def settings_of_day(settings: JobSettings, day: date) -> JobSettings:
    """The settings under which the folders of a run up to `day` are found."""
    days = DaySettings(pretraining=(day, day), ranking=(day, day))
    return settings.model_copy(update={"days": days})


def _readers(
    settings: JobSettings, world: World, specs: Sequence[TableSpec]
) -> Iterator[Reader[RankingBatch]]:
    judging = settings.judging
    assert judging.days is not None
    for kind in ("held_out",) if judging.kind == "held_out" else ("requests", "held_out"):
        asked = AskedRequests(
            where="judging.days",
            days=judging.days,
            left_out=judging.left_out,
            batch_size=settings.evaluation.batch_size,
            kind=kind,
        )
        yield asked_reader(settings, world, specs, asked)


def _model_of(
    asked: JobSettings, day: date, world: World
) -> tuple[nn.Module, Mapping[str, int], dict[str, Any]]:
    """A day's ranker, the rows that it knows, and which checkpoint it is.

    Args:
        asked: whose vocabularies the requests are in.
        day: the last training day of the ranker.
        world: the ranks.

    Raises:
        CheckpointError: no finished run of that day.
        VocabularyError: its rows stand for other values than those of the requests.
    """
    settings = settings_of_day(asked, day)
    strategy = settings.ranking.strategy
    run = RunFolder(settings.ranking_folder(strategy))
    if not run.is_finished:
        raise CheckpointError(f"{run.path}: no finished run there; run rank up to that day first")
    result = load_run(run.path).result
    checkpoint = newest_checkpoint(run.checkpoints, world)
    if checkpoint is None:
        raise CheckpointError(f"{run.checkpoints}: no usable checkpoint; rank again")
    manifest = read_manifest(checkpoint)
    specs = [TableSpec(**spec) for spec in manifest["tables"].values()]
    _check_vocabularies(asked, specs, checkpoint)
    model = build_ranking_model(settings, specs, strategy, world)
    fill_frozen(model, settings, strategy, result["transferred"])
    load_model(model, checkpoint)
    facts = {"checkpoint": str(checkpoint), "digest": content_digest(manifest)}
    return model, {spec.name: spec.num_used_rows for spec in specs}, facts


def _check_vocabularies(asked: JobSettings, specs: Sequence[TableSpec], checkpoint: Path) -> None:
    """Raise VocabularyError unless the rows of the requests are the ranker's."""
    lineages = asked.vocabulary_lineages(specs)
    for spec in specs:
        if spec.vocabulary_digest not in lineages[spec.name]:
            raise VocabularyError(
                f"{checkpoint}: table {spec.name} was trained with vocabulary "
                f"{spec.vocabulary_digest}, which that of the requests does not continue, so its "
                "rows may stand for other values; bring back the vocabulary, or start cold in "
                "another data.root"
            )


def _first_new_row(settings: JobSettings) -> int:
    """Items from this row on are new."""
    judging = settings.judging
    assert judging.days is not None
    known_by = judging.days[0] - timedelta(days=judging.new_item_days)
    item = next(feature for feature in settings.features if feature.name == "item_id")
    return rows_known_by(settings.examples_root, item, settings.days.training[1], known_by)


def _is_new(first_new_row: int) -> Slice:
    def chosen(batch: RankingBatch) -> Tensor:
        rows = batch.candidates["item_id"]
        return (rows == UNKNOWN_ROW) | (rows >= first_new_row)

    return chosen


def _write(settings: JobSettings, found: Mapping[str, Any]) -> None:
    judging, path = settings.judging, judgement_path(settings, settings.judging.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = judging.model_dump(mode="json", include={"kind", "days", "left_out"})
    write_json(path, {"task": settings.task, **about, "models": found})
    for day, results in found.items():
        print(
            f"judge {settings.task}: ranker of {day}: AUC {results['all']['auc']:.4f} of "
            f"{results['all']['num_samples']:,} candidates"
        )


if __name__ == "__main__":
    main()
