"""What is read: which days of sequences or requests, which of their columns, and how.

settings, days -> Examples -> `reader.Reader`
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Generic, Literal, TypeVar

from pydantic import Field, model_validator

from pipeline.batches import RankingBatch, SequenceBatch
from pipeline.decode import Decoder, RankingDecoder, SequenceDecoder
from pipeline.errors import ConfigError
from pipeline.partitions import day_folder
from pipeline.schema import FeatureSettings
from pipeline.settings import Settings
from pipeline.storage import Location

__all__ = ["B", "Examples", "ReaderSettings", "Requests", "Sequences"]

B = TypeVar("B", SequenceBatch, RankingBatch)


class ReaderSettings(Settings):
    """How rows become batches; none of it depends on the world size."""

    # Rows (sequences or requests) of a step, on all ranks together.
    batch_size: int = Field(default=512, ge=1)
    # Equal parts of an epoch that are read side by side; at least as many as ranks.
    lanes: int = Field(default=8, ge=1)
    # Batches made ahead by a background thread; 0: none, no thread.
    prefetch: int = Field(default=4, ge=0)
    # Threads that read each lane's next row group while one is in use, for stores that take their
    # time; 0: it is read when it is needed. The batches are the same.
    workers: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    # Keep this many of a request's latest history tokens; unset: all of them.
    max_history: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _lanes_divide_batch(self) -> "ReaderSettings":
        # Not a ValueError: settings made in code, past `load_settings`, raise the same error.
        if self.batch_size % self.lanes:
            raise ConfigError(
                f"reader.lanes: {self.lanes} lanes cannot share reader.batch_size "
                f"{self.batch_size} equally; make it a multiple of {self.lanes}"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Examples(ABC, Generic[B]):
    """Which rows to read, and which of their columns."""

    kind: str
    """which of the kinds that prepare publishes"""
    root: Location
    """a local folder, or one in an S3 store: see `pipeline.storage`"""
    days: Sequence[date]
    features: Sequence[FeatureSettings]
    vocabularies: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])
    """feature -> digests of the vocabularies that the rows may have been built with"""

    @property
    def folders(self) -> list[Location]:
        """The published folders that are read, in their order."""
        return [day_folder(self.root, self.kind, day) for day in sorted(self.days)]

    @abstractmethod
    def decoder(self, settings: ReaderSettings) -> Decoder[B]:
        """What turns the files' tables into batches."""


@dataclass(frozen=True, kw_only=True)
class Sequences(Examples[SequenceBatch]):
    """Sequences of clicks, whole; or the days' increments, of which only new events are targets."""

    kind: Literal["sequences", "increments"] = "sequences"
    with_tails: bool = False
    """also those that were still open after the last day"""

    @property
    def folders(self) -> list[Location]:
        """Of the days, and of what was open after the last one."""
        tails = [day_folder(self.root, "tails", max(self.days))] if self.with_tails else []
        return [*super().folders, *tails]

    def decoder(self, settings: ReaderSettings) -> SequenceDecoder:  # noqa: ARG002 (see below)
        """No setting applies: prepare has cut sequences to their length."""
        return SequenceDecoder(self.features, are_increments=self.kind == "increments")


@dataclass(frozen=True, kw_only=True)
class Requests(Examples[RankingBatch]):
    """Requests with the labels of one task: of users to learn from, or of held-out ones."""

    kind: Literal["requests", "held_out"] = "requests"
    task: str

    def decoder(self, settings: ReaderSettings) -> RankingDecoder:
        """With histories cut to `max_history`."""
        return RankingDecoder(self.features, self.task, settings.max_history)
