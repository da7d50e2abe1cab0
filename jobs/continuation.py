"""Where a run starts that goes on from the finished run of an earlier day.

    [pretraining] or [ranking] continue_from -> that run's last checkpoint -> take_over

Its parameters come over, and with `carry_optimizer` its optimizers' state; steps, schedule and
reader start at 0. Tables may have grown since, see `embeddings.growth`. What the two runs must have
in common is checked first, whatever else may differ.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from embeddings.growth import Growth, growth
from embeddings.settings import TableSpec
from jobs.checkpoint_files import content_digest, read_manifest
from jobs.checkpoints import CheckpointStore, newest_checkpoint
from jobs.distributed import World
from jobs.runs import RunFolder, differences
from jobs.sections import PretrainingSettings, RankingSettings
from jobs.settings import JobSettings
from pipeline.errors import CheckpointError, ConfigError, VocabularyError
from pipeline.partitions import day_folder

__all__ = ["Continuation", "pretraining_start", "ranking_start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """The finished run that another one goes on from."""

    day: date
    checkpoint: Path
    digest: str
    """of what the checkpoint holds: a rerun that learnt the same has the same"""
    growths: Mapping[str, Growth]
    """of the tables that are trained, by name"""
    carry_optimizer: bool

    @property
    def identity(self) -> dict[str, str]:
        """What makes two runs start alike."""
        return {"day": self.day.isoformat(), "checkpoint": self.digest}

    def report(self) -> dict[str, Any]:
        """For result.json: where the run started and how its tables have grown since."""
        tables = {name: grown.report() for name, grown in self.growths.items()}
        return {**self.identity, "optimizer": self.carry_optimizer, "tables": tables}

    def take_over(self, checkpoints: CheckpointStore) -> None:
        """Read it into the model and the optimizers of `checkpoints`; a collective.

        Raises:
            CheckpointError: it does not fit them.
        """
        checkpoints.take_over(self.checkpoint, self.growths, with_optimizer=self.carry_optimizer)


def pretraining_start(
    settings: JobSettings, specs: Sequence[TableSpec], world: World
) -> Continuation | None:
    """What `pretraining.continue_from` names, None where it is not set; a collective.

    Raises:
        ConfigError: it is not an earlier day.
        CheckpointError: no finished run of that day, or it does not fit.
        VocabularyError: its rows stand for other values.
    """
    section = settings.pretraining
    if section.continue_from is None:
        return None
    _check_earlier("pretraining", section.continue_from, settings.days.pretraining[1])
    run = RunFolder(day_folder(settings.data.root, "pretraining", section.continue_from))
    return _start(settings, section, run, specs, world)


def ranking_start(
    settings: JobSettings, trained: Sequence[TableSpec], world: World
) -> Continuation | None:
    """What `ranking.continue_from` names, the ranker of the same task and strategy; a collective.

    `trained` are the tables that are not frozen.

    Raises:
        ConfigError, CheckpointError, VocabularyError: as `pretraining_start`.
    """
    section = settings.ranking
    if section.continue_from is None:
        return None
    _check_earlier("ranking", section.continue_from, settings.days.training[1])
    today = settings.ranking_folder(section.strategy)
    run = RunFolder(today.with_name(f"day={section.continue_from.isoformat()}"))
    return _start(settings, section, run, trained, world)


def _check_earlier(section: str, day: date, last: date) -> None:
    if day >= last:
        raise ConfigError(
            f"{section}.continue_from: {day} is not before {last}, the last day of this run; name "
            "an earlier day"
        )


def _start(
    settings: JobSettings,
    section: PretrainingSettings | RankingSettings,
    run: RunFolder,
    trained: Sequence[TableSpec],
    world: World,
) -> Continuation:
    """The run's last checkpoint, after all checks."""
    assert section.continue_from is not None, "there is something to continue"
    if not run.is_finished:
        raise CheckpointError(
            f"{run.path}: no finished run to continue from; finish that day first, name another "
            "one in continue_from, or start cold without it"
        )
    name = "ranking" if isinstance(section, RankingSettings) else "pretraining"
    _check_alike(settings, name, run, with_optimizer=section.carry_optimizer)
    checkpoint = _last_checkpoint(run, world)
    manifest = read_manifest(checkpoint)
    return Continuation(
        day=section.continue_from,
        checkpoint=checkpoint,
        digest=content_digest(manifest),
        growths=_growths(settings, manifest, trained, checkpoint),
        carry_optimizer=section.carry_optimizer,
    )


def _check_alike(
    settings: JobSettings, section: str, run: RunFolder, *, with_optimizer: bool
) -> None:
    """Raise CheckpointError unless the parameters are the same ones and mean the same."""
    parts = {
        section: ("architecture", "bidirectional"),
        "embeddings": ("dtype", "optimizer") if with_optimizer else ("dtype",),
    }
    then, now = (
        {name: {part: whole[name].get(part) for part in names} for name, names in parts.items()}
        for whole in (run.identity, settings.model_dump(mode="json"))
    )
    difference = next(differences(then, now), None)
    if difference:
        raise CheckpointError(
            f"{run.path}: was made with {difference}; set it back to continue from this run, or "
            "start cold without continue_from"
        )


def _last_checkpoint(run: RunFolder, world: World) -> Path:
    """That of the run's last step: what came out of it, not something on the way."""
    checkpoint = newest_checkpoint(run.checkpoints, world)
    steps = json.loads((run.path / "result.json").read_text())["steps"]
    if checkpoint is None or read_manifest(checkpoint)["progress"]["step"] != steps:
        raise CheckpointError(
            f"{run.checkpoints}: the last checkpoint (step {steps}) is damaged or gone; run that "
            "day again, or continue from another day"
        )
    return checkpoint


def _growths(
    settings: JobSettings,
    manifest: Mapping[str, Any],
    trained: Sequence[TableSpec],
    checkpoint: Path,
) -> dict[str, Growth]:
    before = {name: TableSpec(**spec) for name, spec in manifest["tables"].items()}
    lineages = settings.vocabulary_lineages(trained)
    for spec in trained:
        if spec.name not in before:
            raise CheckpointError(
                f"{checkpoint}: has no table {spec.name}, only {', '.join(sorted(before))}; a new "
                "feature needs a cold start (no continue_from)"
            )
    try:
        return {spec.name: growth(before[spec.name], spec, lineages[spec.name]) for spec in trained}
    except (CheckpointError, VocabularyError) as error:
        raise type(error)(f"{checkpoint}: {error}") from None
