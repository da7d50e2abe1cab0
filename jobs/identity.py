"""What makes two runs the same: settings, the data's bytes, the vocabularies, where they started.

Kept in a run's identity.json; `--resume`, export and evaluate compare before they go on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from embeddings.settings import TableSpec
from jobs.settings import JobSettings
from pipeline.digests import texts_digest
from pipeline.partitions import day_folder, days_between, read_manifest

__all__ = ["pretraining_identity", "ranking_identity"]


def pretraining_identity(
    settings: JobSettings, specs: Sequence[TableSpec], continued: Mapping[str, Any]
) -> dict[str, Any]:
    """Of a pretraining run; `continued` is the day and checkpoint it goes on from, if it does."""
    sections = ("features", "sequences", "reader", "embeddings", "pretraining")
    data = {"pretraining": settings.pretraining.data}
    return {**_identity(settings, sections, data, specs), "continued": dict(continued)}


def ranking_identity(
    settings: JobSettings,
    specs: Sequence[TableSpec],
    transferred: Mapping[str, Any],
    continued: Mapping[str, Any],
) -> dict[str, Any]:
    """Of a ranking run.

    Args:
        settings: all of them; those that ranking goes by are taken.
        specs: the model's tables.
        transferred: what came from the export, with its digests.
        continued: the day and checkpoint it goes on from, if it does.
    """
    sections = ("features", "requests", "tasks", "reader", "embeddings", "ranking")
    splits = [split for split in ("ranking", "validation") if split in settings.days.ranges]
    identity = _identity(settings, sections, dict.fromkeys(splits, "requests"), specs)
    return {**identity, "transferred": dict(transferred), "continued": dict(continued)}


def _identity(
    settings: JobSettings,
    sections: Sequence[str],
    data: Mapping[str, str],
    specs: Sequence[TableSpec],
) -> dict[str, Any]:
    return {
        **settings.model_dump(
            # How batches are read ahead decides nothing of what is in them.
            mode="json",
            include=set(sections),
            exclude={"reader": {"prefetch", "workers", "verify"}},
        ),
        "days": settings.days.model_dump(mode="json", include=set(data)),
        "content": {split: _content(settings, split, kind) for split, kind in data.items()},
        "vocabularies": {spec.name: spec.vocabulary_digest for spec in specs},
    }


def _content(settings: JobSettings, split: str, kind: str) -> str:
    """Digest of every byte of the split's files."""
    days = days_between(*getattr(settings.days, split))
    folders = [day_folder(settings.examples_root, kind, day) for day in days]
    if kind == "sequences" and settings.has_tails:
        folders.append(day_folder(settings.examples_root, "tails", days[-1]))
    return texts_digest(read_manifest(folder).content_digest for folder in folders)
