"""Checkpoints of a training run, written whole or not at all.

    checkpoints/step-00000200/     torch.distributed.checkpoint's files and manifest.json
    checkpoints/best-00000150/     the one with the best validation so far

A checkpoint holds the model, both optimizers, the reader's position and each rank's random state;
frozen tables are not in it, they are in the export they came from. Every rank writes its own
shards into a folder with a temporary name; rank 0 adds the manifest (sizes and digests of all
files, and its own) and renames the folder once all have written.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from embeddings.growth import Growth, load_grown
from embeddings.parameters import checkpoint_state
from embeddings.tables import tables_of
from jobs.checkpoint_files import (
    Progress,
    checkpoints_in,
    finish,
    problem_of,
    read_manifest,
    tidy,
)
from jobs.distributed import World
from jobs.optimizers import optimizer_state
from jobs.runs import remove_unfinished
from pipeline.errors import CheckpointError, FrostrankError, ShortageError
from pipeline.shortage import FULL_DISK

__all__ = ["CheckpointStore", "Progress", "load_model", "newest_checkpoint"]


@dataclass(slots=True, kw_only=True)
class CheckpointStore:
    """The checkpoints of one run."""

    folder: Path
    world: World
    model: nn.Module
    optimizer: torch.optim.AdamW
    keep: int = 2

    def save(self, progress: Progress) -> Path:
        """Write the checkpoint of `progress`, then drop the oldest beyond `keep`.

        Raises:
            ShortageError: the disk is full; the checkpoints before this one are whole.
            CheckpointError: it could not be written.
        """
        return self._write(f"step-{progress.step:08d}", progress)

    def save_best(self, progress: Progress) -> Path:
        """Write the checkpoint of the best validation so far, then drop the one before.

        The one before stays for as long as a run that is resumed would start before this one.

        Raises:
            ShortageError, CheckpointError: as `save`.
        """
        return self._write(f"best-{progress.step:08d}", progress)

    def load(self, path: Path) -> Progress:
        """Read a checkpoint into the live model and optimizer; any world size.

        Raises:
            CheckpointError: it does not fit them.
        """
        manifest = read_manifest(path)
        state = self._state()
        same_world = manifest["world_size"] == self.world.size
        if not same_world:
            state.pop("random")
        _load(state, path)
        if same_world:
            torch.set_rng_state(state["random"][str(self.world.rank)])
        progress = Progress(**manifest["progress"])
        self._on_first(lambda: tidy(self.folder, progress.step, self.keep))
        return progress

    def take_over(self, path: Path, growths: Mapping[str, Growth], *, with_optimizer: bool) -> None:
        """Read what an earlier run learnt, but not how far it was; any world size.

        Args:
            path: the earlier run's checkpoint.
            growths: of the trained tables, by name.
            with_optimizer: also read the state of both optimizers, which else stays zero.

        Raises:
            CheckpointError: it does not fit.
        """
        state = self._state()
        parts = ("model", "table_optimizer", "dense_optimizer") if with_optimizer else ("model",)
        try:
            load_grown({name: state[name] for name in parts if name in state}, path, growths)
        except (OSError, CheckpointException) as error:
            raise CheckpointError(
                f"{path}: cannot be taken over by this model ({_first_line(error)}); go on with "
                "the settings and the sharding it was written with, or start cold (no "
                "continue_from)"
            ) from error

    def _write(self, name: str, progress: Progress) -> Path:
        path, temporary = self.folder / name, self.folder / f".{name}.tmp"
        try:
            self._on_first(lambda: remove_unfinished(self.folder))
            dcp.save(self._state(), checkpoint_id=str(temporary))
            self._on_first(lambda: finish(temporary, path, self._facts(progress)))
            self._on_first(lambda: tidy(self.folder, progress.step, self.keep))
        except (OSError, CheckpointException) as error:
            # Both are raised on all ranks alike.
            reason = self.world.gather_objects(_why_not_written(path, error))[0]
            if self.world.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
            assert isinstance(reason, FrostrankError)
            raise reason from error
        return path

    def _facts(self, progress: Progress) -> dict[str, Any]:
        """What the manifest says of the checkpoint besides its files."""
        tables = {name: asdict(spec) for name, spec in tables_of(self.model).specs.items()}
        return {"progress": asdict(progress), "world_size": self.world.size, "tables": tables}

    def _on_first(self, action: Callable[[], None]) -> None:
        """Let rank 0 do something to files while all wait; what fails there is raised on all."""
        failure: Exception | None = None
        if self.world.is_first:
            try:
                action()
            except (OSError, FrostrankError) as error:
                failure = error
        failed = self.world.gather_objects(failure)[0]
        if isinstance(failed, Exception):
            raise failed

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
    for path in reversed(checkpoints_in(folder, kind)) if world.is_first else ():
        problem = problem_of(path)
        if problem is None:
            found = path
            break
        world.say(f"checkpoint {path} is not usable ({problem}); trying the one before it")
    return world.gather_objects(found)[0]  # type: ignore[return-value]


def load_model(model: nn.Module, path: Path) -> Progress:
    """Read only the model of a checkpoint that `newest_checkpoint` found, for evaluation.

    Raises:
        CheckpointError: it does not fit the model.
    """
    _load({"model": checkpoint_state(model)["model"]}, path)
    return Progress(**read_manifest(path)["progress"])


def _load(state: dict[str, Any], path: Path) -> None:
    try:
        dcp.load(state, checkpoint_id=str(path))
    except (OSError, CheckpointException) as error:
        raise CheckpointError(
            f"{path}: cannot be read into this model ({_first_line(error)}); resume with the "
            "settings and the sharding it was written with, or start over without --resume"
        ) from error


def _why_not_written(path: Path, error: BaseException) -> FrostrankError:
    """What a user is told."""
    line = _first_line(error)
    if any(mark in str(error) for mark in FULL_DISK) or not _has_space(path.parent):
        return ShortageError(
            f"{path}: no space left on its disk ({line}); the checkpoints before it are whole; "
            "make space, then go on with --resume"
        )
    return CheckpointError(
        f"{path}: could not be written ({line}); the checkpoints before it, where they are still "
        "there, are whole; go on with --resume"
    )


def _has_space(folder: Path) -> bool:
    """Torch's own writer, where the disk fills up, may say something else."""
    try:
        return shutil.disk_usage(folder).free > 0
    except FileNotFoundError:
        return True


def _first_line(error: BaseException) -> str:
    """The reason, without the traceback of every rank."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {error}".partition("\n")[0]
