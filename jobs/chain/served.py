"""Keeps what serves as it is while its day is made again.

A day whose data changed after it was published is run again, into the same folders. Before the
first stage writes there, what the published set names is set apart: beside each folder a copy
`day=D.served`, of links to the same files, which the set names from then on. Where a gate says no,
the copy is put back, so that the next day goes on from what serves.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from jobs.chain.published import Published, PublishedRanker, published_on, rewrite
from jobs.checkpoint_files import content_digest, problem_of, read_manifest
from pipeline.errors import PublicationError

__all__ = ["SUFFIX", "is_apart", "put_back", "set_apart"]

SUFFIX = ".served"


def set_apart(root: Path, day: date) -> None:
    """Have the day's set name copies of its folders, unless it does, or none was published.

    Raises:
        PublicationError: what is in the folders is not what was published.
    """
    published = published_on(root, day)
    if published is None or is_apart(published):
        return
    for folder in _folders(root, published):
        _copy(folder, _served(folder))
    for ranker in published.rankers.values():
        checkpoint = root / ranker.checkpoint
        problem = problem_of(checkpoint)
        if problem or content_digest(read_manifest(checkpoint)) != ranker.digest:
            raise PublicationError(
                f"{checkpoint}: {problem or 'is not what was published'}; go back to an earlier "
                f"day (jobs.publish --rollback) before {day} is run again"
            )
    rewrite(root, _naming(published, _to_served))


def put_back(root: Path, day: date) -> None:
    """Make the copies the day's folders again, and have the set name those, where it names copies.

    The copies stay until old files are cleared away: who serves may be reading them.
    """
    published = published_on(root, day)
    if published is None or not is_apart(published):
        return
    original = _naming(published, _from_served)
    for folder in _folders(root, original):
        _copy(_served(folder), folder)
    rewrite(root, original)


def is_apart(published: Published) -> bool:
    """Whether a set names copies, as its day is made again."""
    return any(SUFFIX in ranker.export + ranker.checkpoint for ranker in _own(published))


def _own(published: Published) -> Iterator[PublishedRanker]:
    """Rankers of the day itself; others are an earlier day's, whose folders nothing writes to."""
    return (ranker for ranker in published.rankers.values() if ranker.day == published.day)


def _folders(root: Path, published: Published) -> set[Path]:
    """The day's folders that the set and the next day need."""
    folders = {root / "pretraining" / f"day={published.day}"}
    for ranker in _own(published):
        folders |= {root / ranker.export, (root / ranker.checkpoint).parents[1]}
    return folders


def _served(folder: Path) -> Path:
    return folder.with_name(folder.name + SUFFIX)


def _copy(source: Path, target: Path) -> None:
    """A whole copy in the place of what is there; a kill leaves one to be made again."""
    temporary = target.with_name(f".{target.name}.copy")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=_link)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


def _link(source: str, target: str) -> None:
    """Tables and weights are never written to twice; what describes them may be."""
    if Path(source).suffix in (".json", ".jsonl"):
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _naming(published: Published, renamed: Callable[[str, date], str]) -> Published:
    rankers = {
        task: ranker.model_copy(
            update={
                "checkpoint": renamed(ranker.checkpoint, published.day),
                "export": renamed(ranker.export, published.day),
            }
        )
        for task, ranker in published.rankers.items()
    }
    return published.model_copy(update={"rankers": rankers})


def _to_served(path: str, day: date) -> str:
    return path.replace(f"day={day}", f"day={day}{SUFFIX}")


def _from_served(path: str, day: date) -> str:
    return path.replace(f"day={day}{SUFFIX}", f"day={day}")
