"""What makes two runs the same: settings, the data's bytes, the vocabularies.

Kept in a run's identity.json; `--resume`, export and evaluate compare before they go on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from embeddings.tables import TableSpec
from jobs.settings import JobSettings
from pipeline.digests import texts_digest
from pipeline.partitions import day_folder, days_between, read_manifest

__all__ = ["pretraining_identity", "ranking_identity"]


def pretraining_identity(settings: JobSettings, specs: Sequence[TableSpec]) -> dict[str, Any]:
    """Of a pretraining run."""
    sections = ("features", "sequences", "reader", "embeddings", "pretraining")
    return _identity(settings, sections, {"pretraining": "sequences"}, specs)


def ranking_identity(
    settings: JobSettings, specs: Sequence[TableSpec], transferred: Mapping[str, Any]
) -> dict[str, Any]:
    """Of a ranking run; `transferred` is what came from the export, with its digests."""
    sections = ("features", "requests", "tasks", "reader", "embeddings", "ranking")
    data = {"ranking": "requests", "validation": "requests"}
    return {**_identity(settings, sections, data, specs), "transferred": dict(transferred)}


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
