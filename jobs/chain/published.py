"""Which models serve: one file that names them, replaced in one step, and those it named before.

    ROOT/published/current.json        a day, and for each task a ranker and the export it is on
    ROOT/published/day=D.json          what was current once, to go back to

Who serves reads current.json; every file that it names stays where it is for as long as it is
named there or can be gone back to.
"""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import ValidationError

from embeddings.manifests import read_export
from jobs.checkpoint_files import content_digest, problem_of, read_manifest
from jobs.runs import RunFolder, remove_unfinished, write_json
from jobs.settings import JobSettings
from pipeline.errors import CheckpointError, PublicationError
from pipeline.settings import Settings

__all__ = [
    "Published",
    "PublishedRanker",
    "folders_in_use",
    "publish",
    "published_days",
    "published_now",
    "published_on",
    "ranker_of",
    "roll_back",
]


class PublishedRanker(Settings):
    """What a server of one task loads."""

    day: date
    """the last day that it, or its tables, learned from"""
    requests_until: date
    """the last day whose requests it was trained on"""
    strategy: str
    checkpoint: str
    """its folder under the root"""
    digest: str
    """of the checkpoint's files"""
    export: str
    """the folder, under the root, of the sparse export that its frozen tables come from"""
    export_digest: str
    """of what the export holds"""


class Published(Settings):
    """A set of rankers that were published together."""

    day: date
    at: datetime
    rankers: dict[str, PublishedRanker]
    """task -> ranker; one that learned nothing new is that of an earlier day"""


def published_now(root: Path) -> Published | None:
    """What serves, or None if nothing was ever published.

    Raises:
        PublicationError: the file is damaged.
    """
    return _read(root / "published" / "current.json")


def published_days(root: Path) -> list[date]:
    """Days that can be gone back to, ascending; the current one is among them."""
    found = (root / "published").glob("day=*.json")
    return sorted(date.fromisoformat(path.stem.removeprefix("day=")) for path in found)


def published_on(root: Path, day: date) -> Published | None:
    """The set of a day, as long as it can be gone back to; None otherwise."""
    return _read(root / "published" / f"day={day}.json")


def ranker_of(settings: JobSettings) -> PublishedRanker:
    """The finished ranker of the config's task and last training day, checked.

    Raises:
        CheckpointError, ExportError: it or its export is not whole.
    """
    strategy = settings.ranking.strategy
    run = RunFolder(settings.ranking_folder(strategy))
    if not run.is_finished:
        raise CheckpointError(f"{run.path}: no finished run there, so nothing to publish")
    result = json.loads((run.path / "result.json").read_text())
    checkpoint = run.final_checkpoint
    problem = problem_of(checkpoint)
    if problem is not None:
        raise CheckpointError(f"{checkpoint}: {problem}; run that day's rank again")
    export, root = Path(result["transferred"]["export"]), settings.data.root
    return PublishedRanker(
        day=settings.days.training[1],
        requests_until=run.identity["days"]["ranking"][1],
        strategy=strategy.value,
        checkpoint=str(checkpoint.relative_to(root)),
        digest=content_digest(read_manifest(checkpoint)),
        export=str(export.relative_to(root)),
        export_digest=read_export(export).content_digest,
    )


def publish(root: Path, day: date, rankers: Mapping[str, PublishedRanker]) -> Published:
    """Make these the ones that serve; for the chain's one driver."""
    published = Published(day=day, at=datetime.now(UTC), rankers=dict(rankers))
    folder = root / "published"
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    # First what can be gone back to: a kill in between leaves the older set serving.
    for name in (f"day={day}.json", "current.json"):
        write_json(folder / name, published.model_dump(mode="json"))
    return published


def roll_back(root: Path, to: date | None = None) -> tuple[Published, Published]:
    """Let an earlier set serve again, the one before the current or that of a day: from, to.

    Sets after it cannot be gone back to any more; their files stay until they are cleared away.

    Raises:
        PublicationError: there is no such set.
    """
    now = published_now(root)
    earlier = [day for day in published_days(root) if now is not None and day < now.day]
    if now is None or not earlier or (to is not None and to not in earlier):
        known = ", ".join(map(str, earlier)) or "none"
        raise PublicationError(
            f"{root / 'published'}: nothing {f'of {to}' if to else 'earlier'} to go back to; "
            f"earlier sets: {known}"
        )
    before = published_on(root, to or earlier[-1])
    assert before is not None, "it was listed"
    remove_unfinished(root / "published")
    write_json(root / "published" / "current.json", before.model_dump(mode="json"))
    for day in published_days(root):
        if day > before.day:
            (root / "published" / f"day={day}.json").unlink()
    return now, before


def folders_in_use(root: Path) -> set[Path]:
    """Checkpoints and exports that any set names."""
    names = [f"day={day}.json" for day in published_days(root)]
    sets = [_read(root / "published" / name) for name in (*names, "current.json")]
    rankers = [ranker for found in sets if found for ranker in found.rankers.values()]
    return {root / path for ranker in rankers for path in (ranker.checkpoint, ranker.export)}


def _read(path: Path) -> Published | None:
    if not path.exists():
        return None
    try:
        return Published.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise PublicationError(
            f"{path}: damaged: {error}; copy the newest whole day=*.json beside it over it, or "
            "publish again"
        ) from None
