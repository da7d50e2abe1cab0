"""Checkpoints of a training run, written whole or not at all.

    checkpoints/step-00000200/     torch.distributed.checkpoint's files and manifest.json
    checkpoints/best/              the one with the best validation so far

A checkpoint holds the model, both optimizers, the reader's position and each rank's random state;
frozen tables are not in it, they are in the export they came from. Every rank writes its own
shards into a folder with a temporary name; rank 0 adds the manifest (sizes and digests of all
files) and renames the folder once all have written.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from embeddings.parameters import checkpoint_state
from jobs.distributed import World
from jobs.optimizers import optimizer_state
from jobs.runs import write_json
from pipeline.errors import CheckpointError

__all__ = ["CheckpointStore", "Progress", "load_model", "newest_checkpoint"]


@dataclass(slots=True)
class Progress:
    """Where training is; steps count from 0 and name the step to come."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0


@dataclass(slots=True, kw_only=True)
class CheckpointStore:
    """The checkpoints of one run."""

    folder: Path
    world: World
    model: nn.Module
    optimizer: torch.optim.AdamW
    keep: int = 2

    def save(self, progress: Progress) -> Path:
        """Write the checkpoint of `progress`, then drop the oldest beyond `keep`."""
        path = self._write(f"step-{progress.step:08d}", progress)
        if self.world.is_first:
            for old in _steps(self.folder)[: -self.keep]:
                shutil.rmtree(old)
        return path

    def save_best(self, progress: Progress) -> Path:
        """Write the checkpoint of the best validation so far, replacing the last such."""
        return self._write("best", progress)

    def load(self, path: Path) -> Progress:
        """Read a checkpoint into the live model and optimizer; any world size."""
        manifest = _manifest(path)
        state = self._state()
        same_world = manifest["world_size"] == self.world.size
        if not same_world:
            state.pop("random")
        dcp.load(state, checkpoint_id=str(path))
        if same_world:
            torch.set_rng_state(state["random"][str(self.world.rank)])
        return Progress(**manifest["progress"])

    def _write(self, name: str, progress: Progress) -> Path:
        path, temporary = self.folder / name, self.folder / f".{name}.tmp"
        if self.world.is_first and temporary.exists():
            shutil.rmtree(temporary)
        self.world.wait_for_all()
        dcp.save(self._state(), checkpoint_id=str(temporary))
        self.world.wait_for_all()
        if self.world.is_first:
            _finish(temporary, path, progress, self.world.size)
        self.world.wait_for_all()
        return path

    def _state(self) -> dict[str, Any]:
        state = {
            **checkpoint_state(self.model),
            "dense_optimizer": optimizer_state(self.optimizer),
            "random": {str(self.world.rank): torch.get_rng_state()},
        }
        # A rank without a shard of any trained table has no table optimizer's state; an empty
        # dict would be looked for in the checkpoint under its own name.
        return {name: part for name, part in state.items() if part}


def newest_checkpoint(folder: Path, world: World) -> Path | None:
    """The newest checkpoint that is whole, the same one on all ranks; None if there is none."""
    found: Path | None = None
    for path in reversed(_steps(folder)) if world.is_first else ():
        problem = _problem(path)
        if problem is None:
            found = path
            break
        print(f"checkpoint {path} is not usable ({problem}); trying the one before it", flush=True)
    return world.gather_objects(found)[0]  # type: ignore[return-value]


def load_model(model: nn.Module, path: Path) -> Progress:
    """Read only the model of a checkpoint, for evaluation.

    Raises:
        CheckpointError: there is none at `path`, or it is not whole.
    """
    problem = _problem(path)
    if problem is not None:
        raise CheckpointError(f"{path}: {problem}; run the training job again with --resume")
    state: Mapping[str, Any] = {"model": checkpoint_state(model)["model"]}
    dcp.load(dict(state), checkpoint_id=str(path))
    return Progress(**_manifest(path)["progress"])


def _finish(temporary: Path, path: Path, progress: Progress, world_size: int) -> None:
    """Add the manifest and give the folder its name; a checkpoint of that name is replaced."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(temporary.iterdir())
    }
    manifest = {"progress": asdict(progress), "world_size": world_size, "files": files}
    write_json(temporary / "manifest.json", manifest)
    if path.exists():
        replaced = path.with_name(f".{path.name}.replaced")
        if replaced.exists():
            shutil.rmtree(replaced)
        path.rename(replaced)
        temporary.rename(path)
        shutil.rmtree(replaced)
    else:
        temporary.rename(path)


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.exists() else []


def _manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_text())


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, None if it is whole."""
    if not (path / "manifest.json").exists():
        return "no such checkpoint" if not path.exists() else "it has no manifest"
    for name, expected in _manifest(path)["files"].items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"] or _sha256(file) != expected["sha256"]:
            return f"{name} is damaged"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
