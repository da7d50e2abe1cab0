"""What a reader of a report must know about how its figures came to be."""

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from jobs.cores import num_cores
from jobs.run_records import RunRecord
from jobs.settings import JobSettings
from pipeline.partitions import day_folder, days_between, find_manifest, read_manifest

__all__ = ["machine", "run_facts"]


def run_facts(settings: JobSettings, runs: Sequence[RunRecord]) -> dict[str, str]:
    """Data, days, counts, model, parameters, machine: name -> one line."""
    days = settings.days
    first = runs[0].result
    counts = {split: _counts(settings, split) for split in ("ranking", "validation", "test")}
    return {
        "data": str(settings.source.path),
        **_events(settings),
        "pretraining days": f"{days.pretraining[0]} to {days.pretraining[1]}",
        **{
            f"{split} days": f"{getattr(days, split)[0]} to {getattr(days, split)[1]}: "
            + ", ".join(f"{number:,} {name}" for name, number in count.items())
            for split, count in counts.items()
        },
        "model": f"pretraining {settings.pretraining.architecture}, "
        f"ranking {settings.ranking.architecture}",
        "parameters": f"{first['parameters']['dense']:,} dense, "
        f"{first['parameters']['sparse']:,} in tables",
        "tables trained with": settings.embeddings.optimizer,
        "processes": f"{first['world_size']} on {first['device']}, "
        f"threads in each: {first['threads_per_rank']}",
        "machine": machine(),
        "torch": str(torch.__version__),
    }


def _events(settings: JobSettings) -> dict[str, str]:
    """How many events there were and what became of them, where events were brought."""
    kept: Counter[str] = Counter()
    aside: Counter[str] = Counter()
    for day in days_between(settings.days.training[0], settings.days.last):
        manifest = find_manifest(day_folder(settings.data.root, "events", day))
        if manifest is not None:
            kept["rows"] += manifest.num_rows
            aside.update(manifest.set_aside)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in aside.items()) or "none"
    return {"events": f"{kept['rows']:,} kept, set aside: {reasons}"} if kept else {}


def machine() -> str:
    """Processor and how many of its cores this process may use."""
    names = [
        line.partition(":")[2].strip()
        for line in _read(Path("/proc/cpuinfo")).splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {num_cores()} cores"


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _counts(settings: JobSettings, split: str) -> dict[str, int]:
    """Requests, and, where prepare made them, candidates and positives."""
    total: Counter[str] = Counter()
    for day in days_between(*getattr(settings.days, split)):
        manifest = read_manifest(day_folder(settings.examples_root, "requests", day))
        total.update({**manifest.counts, "requests": manifest.num_rows})
    return {name: total[name] for name in ("requests", "candidates", "positives") if total[name]}
