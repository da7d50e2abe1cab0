"""Generative pretraining on the sequences of the pretraining days.

    python -m jobs.pretrain --config FILE [--set a.b=value ...] [--resume]
    torchrun --nproc-per-node 2 -m jobs.pretrain --config FILE

Reads ROOT/sequences, or ROOT/increments with pretraining.data = "increments", and with
pretraining.continue_from the last checkpoint of that day's run. Writes ROOT/pretraining/day=<last
day>: checkpoints, metrics, result.
"""

from collections.abc import Sequence

import torch
from torch import nn

from embeddings.initialization import initialize
from embeddings.settings import TableSpec
from embeddings.sharding import shard
from embeddings.tables import EmbeddingTables
from jobs.command import Arguments, run_verb
from jobs.continuation import pretraining_start
from jobs.distributed import World, join_world
from jobs.identity import pretraining_identity
from jobs.loop import check_warmup
from jobs.readers import sequences_reader, take_in_examples
from jobs.runs import RunFolder, write_json
from jobs.settings import JobSettings
from jobs.training import TrainingRun, build_seeded
from models.generative import GenerativeModel
from pipeline.digests import texts_digest

__all__ = ["build_generative_model", "main", "pretrain"]


def main() -> None:
    """Entry point of the verb."""
    run_verb(pretrain, __doc__, resumable=True)


def pretrain(arguments: Arguments) -> None:
    """Run the verb on this rank."""
    settings, training = arguments.settings, arguments.settings.pretraining.training
    with join_world() as world:
        take_in_examples(settings, world)
        specs = settings.table_specs(settings.item_features, settings.pretraining.architecture)
        reader = sequences_reader(settings, world, specs)
        folder = RunFolder(settings.pretraining_folder)
        if arguments.resume and folder.is_finished:
            continued = folder.identity.get("continued", {})
            identity = pretraining_identity(settings, specs, continued)
            folder.check(identity, "set it back, or start over without --resume")
            world.say(f"{folder.path}: finished already, nothing to resume")
            return
        check_warmup("pretraining", training, reader)
        start = pretraining_start(settings, specs, world)
        identity = pretraining_identity(settings, specs, start.identity if start else {})
        model = build_generative_model(settings, specs, world)
        initialize(model, training.seed)
        if world.is_first:
            attempt = settings.daily.attempt
            aside = folder.start(settings, identity, resume=arguments.resume, attempt=attempt)
            world.say(aside)
        world.wait_for_all()
        result = TrainingRun(
            title="pretrain",
            world=world,
            folder=folder,
            settings=settings,
            training=training,
            model=model,
            forward=model,
            specs=specs,
            reader=reader,
            start=start,
        ).run(resume=arguments.resume)
        if world.is_first:
            architecture = str(settings.pretraining.architecture)
            write_json(
                folder.path / "result.json",
                {"job": "pretrain", "architecture": architecture, **result},
            )


def build_generative_model(
    settings: JobSettings, specs: Sequence[TableSpec], world: World
) -> nn.Module:
    """The sharded model; its tables are not filled yet."""
    pretraining = settings.pretraining
    tables = EmbeddingTables(specs, settings.embeddings_of(specs), device=torch.device("meta"))
    model = build_seeded(
        lambda: GenerativeModel(
            tables,
            {spec.name: spec.num_used_rows for spec in specs},
            pretraining.architecture,
            pretraining.softmax,
            _seed_of_negatives(settings),
        ),
        pretraining.training.seed,
        world.device,
    )
    return shard(model, world.device, local_world_size=world.local_size)


def _seed_of_negatives(settings: JobSettings) -> int:
    """Runs that go on from each other all count their steps from 0: each draws others by its day.

    Else a few thousand rows would be everyone's negatives, day after day.
    """
    seed = settings.pretraining.training.seed
    if settings.pretraining.continue_from is None:
        return seed
    digest = texts_digest([str(seed), settings.days.pretraining[1].isoformat()])
    return int(digest[:15], 16)


if __name__ == "__main__":
    main()
