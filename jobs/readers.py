"""Readers of what a job trains on or evaluates with: whole days, checked before the first batch.

settings, world -> days, verified -> Reader
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal, TypeVar

from embeddings.settings import TableSpec
from jobs.distributed import World
from jobs.settings import JobSettings
from pipeline.batches import RankingBatch, SequenceBatch
from pipeline.errors import ConfigError, DataError
from pipeline.partitions import day_folder, days_between, read_manifest, verify_files
from pipeline.reader import Examples, Reader, ReaderSettings, Requests, Sequences
from pipeline.schema import FeatureSettings
from pipeline.tasks import time_to_label

__all__ = [
    "AskedRequests",
    "asked_reader",
    "requests_reader",
    "sequences_reader",
    "take_in_examples",
]

B = TypeVar("B", SequenceBatch, RankingBatch)


def sequences_reader(
    settings: JobSettings, world: World, specs: Sequence[TableSpec]
) -> Reader[SequenceBatch]:
    """The pretraining days' sequences, or what they added to them, shuffled.

    Raises:
        DataError: days that are missing, half written, changed since they were published, built
            with another vocabulary, or without any row.
    """
    training, kind = settings.pretraining.training, settings.pretraining.data
    days = _checked_days(settings, world, kind, settings.days.pretraining)
    examples = Sequences(
        kind=kind,
        root=settings.examples_root,
        days=days,
        features=_features_of(settings, specs),
        vocabularies=settings.vocabulary_lineages(specs),
        with_tails=settings.has_tails and kind == "sequences",
    )
    return _reader(examples, settings, world, training.batch_size, training.seed)


def requests_reader(
    settings: JobSettings, world: World, specs: Sequence[TableSpec], split: str
) -> Reader[RankingBatch]:
    """The requests of the ranking days, shuffled, or of the validation or test days, as they are.

    Raises:
        ConfigError: there are no such days.
        DataError: as `sequences_reader`.
    """
    if split not in settings.days.ranges:
        raise ConfigError(f"days.{split}: required here; name its first and last day")
    is_training = split == "ranking"
    training = settings.ranking.training
    asked = AskedRequests(
        where=f"days.{split}",
        days=settings.days.ranges[split],
        batch_size=training.batch_size if is_training else settings.evaluation.batch_size,
        seed=training.seed if is_training else None,
    )
    return asked_reader(settings, world, specs, asked)


@dataclass(frozen=True, kw_only=True)
class AskedRequests:
    """Which requests, and in what batches."""

    where: str
    """what says so, for errors"""
    days: tuple[date, date]
    left_out: tuple[date, ...] = ()
    """days of these that are not read"""
    batch_size: int
    seed: int | None = None
    """shuffled with it; None: in the order of the files"""
    kind: Literal["requests", "held_out"] = "requests"


def asked_reader(
    settings: JobSettings, world: World, specs: Sequence[TableSpec], asked: AskedRequests
) -> Reader[RankingBatch]:
    """Requests of some days, with the labels of the config's task.

    Raises:
        DataError: as `sequences_reader`.
    """
    every = _checked_days(settings, world, asked.kind, asked.days, asked.left_out)
    examples = Requests(
        kind=asked.kind,
        root=settings.examples_root,
        days=every,
        features=_features_of(settings, specs),
        vocabularies=settings.vocabulary_lineages(specs),
        task=settings.task,
    )
    reader = _reader(examples, settings, world, asked.batch_size, asked.seed)
    _check_final(settings, asked, every)
    return reader


def _check_final(settings: JobSettings, asked: AskedRequests, days: Sequence[date]) -> None:
    """Raise DataError where labels of a day can still change: they are null until then."""
    task = settings.task
    folders = {day: day_folder(settings.examples_root, asked.kind, day) for day in days}
    open_days = [d for d, path in folders.items() if task not in read_manifest(path).final_tasks]
    if open_days:
        wait = time_to_label(settings.tasks, task)
        raise DataError(
            f"{asked.where}: {open_days[0]} is not final for task {task} (its labels can change "
            f"for {wait} after the day); bring the days after it and prepare again, or let "
            f"{asked.where} end earlier"
        )


def _features_of(settings: JobSettings, specs: Sequence[TableSpec]) -> tuple[FeatureSettings, ...]:
    names = {spec.name for spec in specs}
    return tuple(feature for feature in settings.features if feature.name in names)


def _checked_days(
    settings: JobSettings,
    world: World,
    kind: str,
    days: tuple[date, date],
    left_out: Sequence[date] = (),
) -> list[date]:
    """Days of a range; the ranks share comparing their files with the manifests' digests."""
    every = [day for day in days_between(*days) if day not in left_out]
    if settings.reader.verify:
        for day in every[world.rank :: world.size]:
            folder = day_folder(settings.examples_root, kind, day)
            verify_files(folder, read_manifest(folder))
    return every


def _reader(
    examples: Examples[B], settings: JobSettings, world: World, batch_size: int, seed: int | None
) -> Reader[B]:
    reader = Reader(
        examples,
        ReaderSettings(
            batch_size=batch_size,
            lanes=settings.reader.lanes,
            prefetch=settings.reader.prefetch,
            workers=settings.reader.workers,
            seed=seed or 0,
        ),
        shuffle=seed is not None,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
    )
    if not reader.num_rows:
        raise DataError(
            f"{examples.root}: not one row to read from {examples.days[0]} to {examples.days[-1]}; "
            "look at the counts in the days' manifests, and at [sequences], [requests] and [days]"
        )
    return reader


def take_in_examples(settings: JobSettings, world: World) -> None:
    """Check and take in ready-made sequences and requests, where the config says they are brought.

    What prepare does with them, so that who brings them can start at pretrain or rank.
    """
    if settings.source.kind == "examples" and world.is_first:
        # Loads DuckDB and matplotlib, for which no other rank has to wait.
        from jobs.prepare import prepare_all  # noqa: PLC0415

        prepare_all(settings)
    world.wait_for_all()
