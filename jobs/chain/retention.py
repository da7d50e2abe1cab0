"""Removes models of old days: what is published, or could be gone back to, stays.

Data (events, sequences, requests) is not touched; how long to keep that is the owner's decision.
"""

import shutil
from datetime import date, timedelta
from pathlib import Path

from jobs.chain.published import folders_in_use, published_days
from jobs.claims import admitted_file
from jobs.settings import JobSettings

__all__ = ["remove_old"]


def remove_old(settings: JobSettings, day: date) -> list[Path]:
    """Remove what is older than `daily.keep_days` before `day`; returns the folders."""
    root = settings.data.root
    oldest = day - timedelta(days=settings.daily.keep_days - 1)
    # One set stays, however old: the current one.
    for other in published_days(root)[:-1]:
        if other < oldest:
            (root / "published" / f"day={other}.json").unlink()
    used = folders_in_use(root)
    patterns = ("pretraining", "tables", "ranking/*/*", "judgements/*", "logs")
    removed: list[Path] = []
    for folder in (path for pattern in patterns for path in root.glob(f"{pattern}/day=*")):
        if _day_of(folder) < oldest and not any(path.is_relative_to(folder) for path in used):
            shutil.rmtree(folder)
            admitted_file(folder).unlink(missing_ok=True)
            removed.append(folder)
    return removed


def _day_of(folder: Path) -> date:
    return date.fromisoformat(folder.name.removeprefix("day=").removesuffix(".previous"))
