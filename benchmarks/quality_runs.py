"""The runs of `benchmarks.quality`: each variant and seed in a data root of its own, job by job.

    FOLDER/DATA/source                 Beauty's examples, or Complete Journey's days of events
    FOLDER/DATA/prepared               what prepare made of events; roots link to it
    FOLDER/DATA/<variant>/seed-<n>     a root: pretraining, tables, ranking, evaluation, logs

What a root has already is taken as it is, if it was made with the settings that are asked for.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality_plan import BASE, DataSet, Variant
from jobs.runs import RunFolder, write_json
from jobs.settings import JobSettings
from jobs.strategies import Strategy
from pipeline.errors import ConfigError, StageError
from pipeline.settings import load_settings

__all__ = ["Runs"]


class Runs:
    """Runs what is not finished, and reads what is."""

    def __init__(self, folder: Path, data: DataSet) -> None:
        """`folder` is absolute: roots link to each other."""
        self._folder, self._data = folder, data

    def prepare(self) -> None:
        """Fetch and prepare events, where the data set has events."""
        settings = self._load(["data.root=" + str(self._folder / "prepared")])
        if settings.source.kind == "examples":
            return
        overrides = self._overrides(self._folder / "prepared")
        self._job("ingest", overrides, self._folder / "prepared")
        self._job("prepare", overrides, self._folder / "prepared")

    def run(self, name: str, seed: int, strategies: Sequence[Strategy]) -> None:
        """Pretrain, export, rank and evaluate as far as a variant, seed and strategies need it.

        Raises:
            StageError: a job failed.
            ConfigError: what is there was made with other settings.
        """
        variant, root = self._data.variants[name], self._root(name, seed)
        overrides = self._overrides(root, name, seed)
        settings = self._load(overrides)
        self._check_asked(root, settings)
        self._link(root, variant, seed)
        if not (settings.export_folder / "manifest.json").exists():
            self._job("pretrain", overrides, root, "--resume")
            self._job("export", overrides, root)
        for strategy in strategies:
            if not (settings.ranking_folder(strategy) / "result.json").exists():
                asked = [*overrides, f"ranking.strategy={strategy.value}"]
                self._job("rank", asked, root, "--resume")
        tested = _tested(settings)
        if not variant.tested_by_epoch and any(s.value not in tested for s in strategies):
            self._job("evaluate", overrides, root)

    def found(self, num_seeds: int) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
        """Variant -> strategy -> seed -> figures, of what is finished."""
        found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
        for name, variant in self._data.variants.items():
            for strategy in variant.strategies:
                for seed in range(num_seeds):
                    if figures := self._figures(name, strategy, seed):
                        found.setdefault(name, {}).setdefault(strategy.value, {})[seed] = figures
        return found

    def baselines(self) -> dict[str, float]:
        """Test AUC without any training, by name; empty before the base is evaluated."""
        settings = self._load(self._overrides(self._root(BASE, 0), BASE, 0))
        path = settings.evaluation_folder / "result.json"
        found = json.loads(path.read_text())["baselines"]["test"] if path.exists() else {}
        return {name: result["auc"] for name, result in found.items()}

    def _figures(self, name: str, strategy: Strategy, seed: int) -> dict[str, Any]:
        """AUC after each epoch and, where validation users chose the epoch, on test users."""
        settings = self._load(self._overrides(self._root(name, seed), name, seed))
        run = settings.ranking_folder(strategy)
        if not (run / "result.json").exists():
            return {}
        lines = (line for line in RunFolder(run).lines() if line["kind"] == "evaluation")
        figures = {"by_epoch": [line["auc"] for line in lines]}
        if self._data.variants[name].tested_by_epoch:
            return figures
        tested = _tested(settings).get(strategy.value)
        if tested is None:
            return {}
        return {**figures, "auc": tested["test"]["auc"], "log_loss": tested["test"]["log_loss"]}

    def _root(self, name: str, seed: int) -> Path:
        plain = "".join(c if c.isalnum() else "-" for c in name)
        return self._folder / plain / f"seed-{seed}"

    def _overrides(self, root: Path, name: str | None = None, seed: int = 0) -> list[str]:
        of_variant = self._data.variants[name].overrides if name else ()
        return [
            f"data.root={root}",
            f"source.path={self._folder / 'source'}",
            *of_variant,
            f"pretraining.training.seed={seed}",
            f"ranking.training.seed={seed}",
        ]

    def _load(self, overrides: list[str]) -> JobSettings:
        return load_settings(JobSettings, self._data.config, overrides)

    def _check_asked(self, root: Path, settings: JobSettings) -> None:
        """Keep what the root is made with, or compare it with what it was made with."""
        asked = settings.model_dump(mode="json")
        path = root / "asked.json"
        if not path.exists():
            root.mkdir(parents=True, exist_ok=True)
            write_json(path, asked)
        elif json.loads(path.read_text()) != asked:
            raise ConfigError(
                f"{root}: was made with other settings ({path}); name another folder, or remove it"
            )

    def _link(self, root: Path, variant: Variant, seed: int) -> None:
        """Share what events became, and the tables of the variant that pretrained."""
        prepared = self._folder / "prepared"
        shared = list(prepared.iterdir()) if prepared.exists() else []
        if variant.pretrained_by is not None:
            shared.append(self._root(variant.pretrained_by, seed) / "tables")
        for folder in shared:
            is_data = folder.name != "logs" and not folder.name.startswith(".")
            if is_data and not (root / folder.name).exists():
                (root / folder.name).symlink_to(folder)

    def _job(self, verb: str, overrides: list[str], root: Path, *more: str) -> None:
        """One job in a process of its own, its output in the root's logs."""
        log = root / "logs" / f"{verb}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        sets = [word for override in overrides for word in ("--set", override)]
        command = [sys.executable, "-m", f"jobs.{verb}", "--config", str(self._data.config)]
        started_s = time.monotonic()
        with log.open("a") as file:
            done = subprocess.run(
                [*command, *sets, *more], stdout=file, stderr=subprocess.STDOUT, check=False
            )
        where = root.relative_to(self._folder)
        if done.returncode:
            raise StageError(f"{verb} of {where} failed with {done.returncode}: look at {log}")
        print(f"{where} {verb}: {time.monotonic() - started_s:.0f} s", flush=True)


def _tested(settings: JobSettings) -> Mapping[str, Any]:
    """Strategy -> its evaluation, of those that were evaluated."""
    path = settings.evaluation_folder / "result.json"
    return json.loads(path.read_text())["strategies"] if path.exists() else {}
