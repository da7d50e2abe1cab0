"""Checkpoints of a training run, written whole or not at all.

    checkpoints/step-00000200/     torch.distributed.checkpoint's files and manifest.json
    checkpoints/best-00000150/     the one with the best validation so far

A checkpoint holds the model, both optimizers, the reader's position and each rank's random state;
frozen tables are not in it, they are in the export they came from. Every rank writes its own
shards into a folder with a temporary name; rank 0 adds the manifest (sizes and digests of all
files) and renames the folder once all have written.
"""

import json
import shutil
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
from pipeline.digests import file_sha256

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
        self._keep_last("step", self.keep)
        return path

    def save_best(self, progress: Progress) -> Path:
        """Write the checkpoint of the best validation so far, then drop the last such."""
        path = self._write(f"best-{progress.step:08d}", progress)
        self._keep_last("best", 1)
        return path

    def _keep_last(self, kind: str, count: int) -> None:
        if self.world.is_first:
            for old in _found(self.folder, kind)[:-count]:
                shutil.rmtree(old)

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
        progress = Progress(**manifest["progress"])
        if self.world.is_first:
            # What a run before this one wrote later is damaged, or about to be written again.
            for kind in ("step", "best"):
                for later in _found(self.folder, kind):
                    if int(later.name.partition("-")[2]) > progress.step:
                        shutil.rmtree(later)
        self.world.wait_for_all()
        return progress

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


def newest_checkpoint(folder: Path, world: World, kind: str = "step") -> Path | None:
    """The newest checkpoint that is whole, the same one on all ranks; None if there is none.

    `kind` is "step", or "best" for the best by validation.
    """
    found: Path | None = None
    for path in reversed(_found(folder, kind)) if world.is_first else ():
        problem = _problem(path)
        if problem is None:
            found = path
            break
        world.say(f"checkpoint {path} is not usable ({problem}); trying the one before it")
    return world.gather_objects(found)[0]  # type: ignore[return-value]


def load_model(model: nn.Module, path: Path) -> Progress:
    """Read only the model of a checkpoint that `newest_checkpoint` found, for evaluation."""
    dcp.load({"model": checkpoint_state(model)["model"]}, checkpoint_id=str(path))
    return Progress(**_manifest(path)["progress"])


def _finish(temporary: Path, path: Path, progress: Progress, world_size: int) -> None:
    """Add the manifest and give the folder its name; a checkpoint of that name is replaced."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in sorted(temporary.iterdir())
    }
    manifest = {"progress": asdict(progress), "world_size": world_size, "files": files}
    write_json(temporary / "manifest.json", manifest)
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)


def _found(folder: Path, kind: str) -> list[Path]:
    """Checkpoints of a kind, oldest first."""
    return sorted(folder.glob(f"{kind}-*"))


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
        if file.stat().st_size != expected["bytes"] or file_sha256(file) != expected["sha256"]:
            return f"{name} is damaged"
    return None
