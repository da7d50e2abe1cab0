"""A checkpoint's folder on disk: what makes it whole, and which ones are kept.

    checkpoints/step-00000200/     torch.distributed.checkpoint's files and manifest.json
    checkpoints/.step-00000250.tmp/     being written

All of it is rank 0's work, for `jobs.checkpoints`.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.runs import write_json
from pipeline.digests import file_sha256, texts_digest

__all__ = [
    "Progress",
    "checkpoints_in",
    "content_digest",
    "finish",
    "problem_of",
    "read_manifest",
    "tidy",
]


# Torch gives every checkpoint an identifier of its own, and writes it in here.
_TORCH_METADATA = ".metadata"


@dataclass(slots=True)
class Progress:
    """Where training is; steps count from 0 and name the step to come."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0


def finish(temporary: Path, path: Path, facts: Mapping[str, Any]) -> None:
    """Add the manifest, of `facts` and the files, and give the folder its name.

    A checkpoint of that name is replaced.
    """
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in sorted(temporary.iterdir())
    }
    manifest = {**facts, "files": files}
    write_json(temporary / "manifest.json", {**manifest, "digest": _digest(manifest)})
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)


def tidy(folder: Path, step: int, keep: int) -> None:
    """After writing or reading a checkpoint of `step`: drop what no one needs.

    These are what a run before this one wrote later (damaged, or about to be written again), the
    oldest beyond `keep`, and all of the best but one or two.
    """
    for kind in ("step", "best"):
        for path in checkpoints_in(folder, kind):
            if _step(path) > step:
                shutil.rmtree(path)
    steps, bests = checkpoints_in(folder, "step"), checkpoints_in(folder, "best")
    # Where a run would resume, and the best one that it then still has.
    newest = _step(steps[-1]) if steps else -1
    needed = [path for path in bests if _step(path) <= newest][-1:] + bests[-1:]
    for path in [*steps[:-keep], *(best for best in bests if best not in needed)]:
        shutil.rmtree(path)


def checkpoints_in(folder: Path, kind: str) -> list[Path]:
    """Checkpoints of a kind, oldest first; a user's copies beside them have other names."""
    name = re.compile(rf"{kind}-\d{{8,}}")
    return sorted((path for path in folder.glob("*") if name.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _digest(manifest: dict[str, Any]) -> str:
    return texts_digest([json.dumps(manifest, sort_keys=True)])


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises ValueError where it is not what was written."""
    manifest = json.loads((path / "manifest.json").read_text())
    if not isinstance(manifest, dict) or manifest.pop("digest", None) != _digest(manifest):
        raise ValueError("another digest")
    return manifest


def content_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of what was learnt: the same for two runs that learnt the same."""
    files = {name: file for name, file in manifest["files"].items() if name != _TORCH_METADATA}
    return _digest({**manifest, "files": files})


def problem_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, None if it is whole."""
    if not (path / "manifest.json").exists():
        return "no such checkpoint" if not path.exists() else "it has no manifest"
    try:
        manifest = read_manifest(path)
    except ValueError:
        return "its manifest is damaged"
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"] or file_sha256(file) != expected["sha256"]:
            return f"{name} is damaged"
    return None
