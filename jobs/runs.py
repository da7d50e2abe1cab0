"""A run's folder: its resolved config, metrics as it goes, result, and checkpoints.

config.json      every setting, as resolved          progress.json   where it is, for watchers
metrics.jsonl    one JSON object a line, in order    result.json     what came out, at the end
checkpoints/     see jobs.checkpoints

Beside it, `.<name>.lock` keeps a second process out while one is at work (`jobs.claims`).
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from jobs.claims import claim
from pipeline.errors import CheckpointError
from pipeline.settings import Settings

__all__ = ["RunFolder", "differences", "remove_unfinished", "write_json"]

# Settings that may differ between a run and its continuation: they change no number.
_OPERATIONAL = (
    "*.training.checkpoint_every_steps",
    "*.training.keep_checkpoints",
    "*.training.log_every_steps",
    "transferred.export",
)


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that readers see the old file or the new one, never a part.

    Raises:
        CheckpointError: the folder is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _open(temporary, "w") as file:
        json.dump(_plain(value), file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def remove_unfinished(folder: Path, names: str = "*") -> None:
    """Remove what processes that were killed were writing in `folder`, of these names.

    For who alone writes them now.
    """
    for left in folder.glob(f".{names}.tmp"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def _open(path: Path, mode: str) -> IO[str]:
    try:
        return path.open(mode)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: was removed while the run was writing to it; start over"
        ) from None


def _plain(value: Any) -> Any:
    """NaN and infinity, which JSON does not know, to null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder; rank 0 writes, all ranks may read."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.path / "checkpoints"

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "result.json").exists()

    @property
    def final_checkpoint(self) -> Path:
        """What a finished run ended with."""
        steps = json.loads((self.path / "result.json").read_text())["steps"]
        return self.checkpoints / f"step-{steps:08d}"

    def start(
        self,
        settings: Settings,
        identity: Mapping[str, Any],
        *,
        resume: bool,
        attempt: str = "",
    ) -> str | None:
        """Make the folder ready: continue what is there, or set it aside as `<name>.previous`.

        Returns what a user should know of the run that was there, if there was one to set aside.

        Args:
            settings: every setting, kept as config.json.
            identity: what makes a continuation the same run, kept as identity.json.
            resume: continue the run that is there, if there is one.
            attempt: of the daily chain, where that started it.

        Raises:
            CheckpointError: `resume`, but the run there has another identity; or the folder cannot
                be claimed.
        """
        claim(self.path, attempt)
        aside = None
        if resume and (self.path / "identity.json").exists():
            self.check(identity, "set it back to resume, or start over without --resume")
        elif self.path.exists():
            aside = self._set_aside()
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.path)
        write_json(self.path / "config.json", settings.model_dump(mode="json"))
        write_json(self.path / "identity.json", identity)
        return aside

    def _set_aside(self) -> str:
        """Keep what is there as the previous run, unless that one came to its end and this not."""
        previous = RunFolder(self.path.with_name(self.path.name + ".previous"))
        what = (
            "a finished run" if self.is_finished else "an unfinished run (--resume continues one)"
        )
        if previous.is_finished and not self.is_finished:
            shutil.rmtree(self.path)
            return f"{self.path}: {what} was there; starting over"
        if previous.path.exists():
            shutil.rmtree(previous.path)
        self.path.rename(previous.path)
        return f"{self.path}: {what} was there; it is now {previous.path.name}, starting over"

    def check(
        self, identity: Mapping[str, Any], remedy: str, *, but_for: Sequence[str] = ()
    ) -> None:
        """Compare the run's identity with another, but for paths like `ranking.training.*`.

        Raises:
            CheckpointError: with the first setting that differs, both values and the remedy.
        """
        path = self.path / "identity.json"
        if not path.exists():
            raise CheckpointError(f"{path}: no such file, so no run to go on from")
        now = json.loads(json.dumps(identity))
        difference = next(differences(self.identity, now, but_for), None)
        if difference:
            raise CheckpointError(f"{path}: this run was made with {difference}; {remedy}")

    @property
    def identity(self) -> dict[str, Any]:
        """What the run was made from; see `jobs.identity`."""
        return json.loads((self.path / "identity.json").read_text())

    def log(self, line: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl.

        Raises:
            CheckpointError: the run's folder is gone.
        """
        with _open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(_plain(line), allow_nan=False) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; a last line cut short by a kill does not count."""
        path = self.path / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps that a resumed run is about to make again."""
        kept = [line for line in self.lines() if line["step"] <= step]
        path = self.path / "metrics.jsonl"
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(path)


def differences(before: Any, now: Any, ignored: Sequence[str] = (), at: str = "") -> Iterator[str]:
    """Each place where two identities differ: `path = value, now it is value`."""
    if any(fnmatchcase(at, pattern) for pattern in (*_OPERATIONAL, *ignored)):
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            path = f"{at}.{key}".removeprefix(".")
            yield from differences(before.get(key), now.get(key), ignored, path)
    elif before != now:
        yield f"{at} = {before!r}, now it is {now!r}"
