"""One stage of a day, ready to be submitted: its settings, what it reads and where it works."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jobs.chain.settings import DailySettings, Submitted
from jobs.claims import prepare_folder
from jobs.ledger.records import StageKey
from jobs.monitoring.settings import MonitoringSettings
from jobs.settings import JobSettings
from pipeline.settings import settings_digest

__all__ = ["Job"]

VERBS: dict[Submitted, str] = {
    "prepare": "prepare",
    "test": "judge",
    "pretrain": "pretrain",
    "export": "export",
    "rank": "rank",
    "gate": "judge",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of a day, ready to be submitted."""

    stage: Submitted
    task: str
    day: date
    settings: JobSettings
    """with the overrides"""
    overrides: tuple[str, ...]
    inputs: dict[str, str]
    """what it reads -> digest"""
    folder: Path
    """where its progress.json is"""

    @property
    def key(self) -> StageKey:
        """As the ledger calls it."""
        return StageKey(self.day, self.stage, self.task)

    @property
    def verb(self) -> str:
        """The component."""
        return VERBS[self.stage]

    @property
    def claimed(self) -> Path:
        """The folder that its process keeps others out of."""
        return prepare_folder(self.folder) if self.stage == "prepare" else self.folder

    @property
    def config_digest(self) -> str:
        """Over the settings, but for those of the chain itself."""
        own = {"daily": DailySettings(), "monitoring": MonitoringSettings()}
        return settings_digest(self.settings.model_copy(update=own))

    def say(self, text: str) -> None:
        """Print a line about it."""
        print(f"{self.key}: {text}", flush=True)
