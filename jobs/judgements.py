"""Where `jobs.judge` writes what it found, and what it calls it."""

from pathlib import Path

from jobs.settings import JobSettings
from pipeline.partitions import day_folder

__all__ = ["NEW_ITEMS", "judgement_path"]

NEW_ITEMS = "new_items"
"""The slice of candidates whose item was not in the vocabulary `judging.new_item_days` before the
first day of the requests"""


def judgement_path(settings: JobSettings, name: str) -> Path:
    """Where a judgement of the last training day is written."""
    folder = day_folder(settings.data.root / "judgements", settings.task, settings.days.training[1])
    return folder / f"{name}.json"
