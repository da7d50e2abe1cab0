"""Every ranking model of the task side by side: validation and test metrics, baselines, report.

    python -m jobs.evaluate --config FILE
    torchrun --nproc-per-node 2 -m jobs.evaluate --config FILE

Takes each strategy's best checkpoint by validation AUC. Writes ROOT/evaluation/<task>/day=<last
ranking day>: result.json, summary.txt, report.html.
"""

from dataclasses import asdict
from typing import Any

from embeddings.settings import TableSpec
from jobs.baselines import baseline_results
from jobs.checkpoints import load_model, newest_checkpoint
from jobs.command import Arguments, run_verb
from jobs.distributed import World, join_world
from jobs.evaluation import evaluate_model
from jobs.facts import run_facts
from jobs.identity import ranking_identity
from jobs.ranker import build_ranking_model, fill_frozen
from jobs.readers import requests_reader
from jobs.report import format_table, write_report
from jobs.run_records import RunRecord, load_run
from jobs.runs import RunFolder, differences, write_json
from jobs.settings import JobSettings
from jobs.strategies import Strategy
from pipeline.batches import RankingBatch
from pipeline.errors import CheckpointError
from pipeline.partitions import days_between
from pipeline.reader import Reader

__all__ = ["evaluate", "main"]

# Of what a ranking run was made with, what its scores do not depend on once it is trained; what
# of these differs between the strategies is said under the table.
_MAY_DIFFER = (
    *("days", "content", "requests", "reader", "embeddings", "ranking.strategy"),
    *("ranking.training.*", "ranking.evaluations_per_epoch"),
    *("ranking.continue_from", "ranking.carry_optimizer", "continued*"),
)


def main() -> None:
    """Entry point of the verb."""
    run_verb(evaluate, __doc__)


def evaluate(arguments: Arguments) -> None:
    """Run the verb on this rank."""
    settings = arguments.settings
    with join_world() as world:
        trained = [s for s in Strategy if (settings.ranking_folder(s) / "result.json").exists()]
        if not trained:
            raise CheckpointError(
                f"{settings.ranking_folder(Strategy.NT).parent.parent}: no ranking model has been "
                "trained to its end; run rank first"
            )
        names = settings.item_features + settings.context_features
        specs = settings.table_specs(names, settings.ranking.architecture)
        readers = {
            split: requests_reader(settings, world, specs, split)
            for split in ("validation", "test")
        }
        runs = [_evaluate(settings, strategy, specs, readers, world) for strategy in trained]
        if world.is_first:
            _report(settings, runs)


def _evaluate(
    settings: JobSettings,
    strategy: Strategy,
    specs: list[TableSpec],
    readers: dict[str, Reader[RankingBatch]],
    world: World,
) -> RunRecord:
    """A strategy's record with the metrics of its best checkpoint on each split."""
    run = RunFolder(settings.ranking_folder(strategy))
    record = load_run(run.path)
    run.check(
        ranking_identity(settings, specs, record.result["transferred"], {}),
        "evaluate with that setting, or train this strategy again",
        but_for=_MAY_DIFFER,
    )
    checkpoint = newest_checkpoint(run.checkpoints, world, "best")
    if checkpoint is None:
        raise CheckpointError(f"{run.checkpoints}: no usable best checkpoint; rank again")
    model = build_ranking_model(settings, specs, strategy, world)
    fill_frozen(model, settings, strategy, record.result["transferred"])
    progress = load_model(model, checkpoint)
    precision = settings.ranking.training.precision
    results: dict[str, Any] = {
        split: asdict(evaluate_model(model, reader, world, precision))
        for split, reader in readers.items()
    }
    results["best_step"] = progress.step
    return RunRecord(record.name, record.metrics, {**record.result, **results})


def _report(settings: JobSettings, runs: list[RunRecord]) -> None:
    folder = settings.evaluation_folder
    folder.mkdir(parents=True, exist_ok=True)
    baselines = {
        split: baseline_results(
            settings.examples_root,
            days_between(*getattr(settings.days, split)),
            settings.task,
            settings.evaluation.category_features,
            settings.days.training[1],
        )
        for split in ("validation", "test")
    }
    write_json(
        folder / "result.json",
        {
            "strategies": {run.name: run.result for run in runs},
            "baselines": {
                split: {name: asdict(result) for name, result in results.items()}
                for split, results in baselines.items()
            },
        },
    )
    pretraining = settings.pretraining_folder
    warnings = _unlike(settings, runs)
    summary = "\n".join([format_table(runs, baselines), *warnings])
    (folder / "summary.txt").write_text(summary + "\n")
    write_report(
        folder / "report.html",
        title=f"Frostrank: {settings.task} ranking up to {settings.days.ranking[1]}",
        facts={**run_facts(settings, runs), **({"beware": " ".join(warnings)} if warnings else {})},
        runs=runs,
        baselines=baselines,
        pretraining=load_run(pretraining) if (pretraining / "result.json").exists() else None,
    )
    print(summary)


def _unlike(settings: JobSettings, runs: list[RunRecord]) -> list[str]:
    """What, besides the strategy, differs between the runs that one table compares."""
    folders = {run.name: RunFolder(settings.ranking_folder(Strategy(run.name))) for run in runs}
    first = folders[runs[0].name].identity
    return [
        f"{name} was not made like {runs[0].name}: {difference.replace('now it is', 'here')}."
        for name, folder in folders.items()
        for difference in differences(first, folder.identity, ("ranking.strategy", "transferred*"))
    ]


if __name__ == "__main__":
    main()
