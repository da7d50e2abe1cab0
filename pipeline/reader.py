"""Days of sequences or requests to batches, on one of several ranks.

    manifests -> placement -> row groups -> decode -> batches, a few ahead of the training thread

The order of rows is `pipeline.placement`'s; its state is (epoch, step), so a run goes on from a
checkpoint on any world size without reading what it has seen.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.batches import RankingBatch, SequenceBatch
from pipeline.decode import Decoder, RankingDecoder, SequenceDecoder
from pipeline.errors import ConfigError
from pipeline.jagged import Pick
from pipeline.placement import (
    epoch_order,
    lane_segments,
    lanes_of_rank,
    row_permutation,
    segments_by_step,
    steps_per_epoch,
)
from pipeline.prefetch import prefetched
from pipeline.row_groups import RowGroupFiles, RowGroups
from pipeline.schema import FeatureSettings
from pipeline.settings import Settings

__all__ = ["Examples", "Reader", "ReaderSettings", "Requests", "Sequences"]

B = TypeVar("B", SequenceBatch, RankingBatch)
Int64Array = NDArray[np.int64]


class ReaderSettings(Settings):
    """How rows become batches; none of it depends on the world size."""

    # Rows (sequences or requests) of a step, on all ranks together.
    batch_size: int = Field(default=512, ge=1)
    # Equal parts of an epoch that are read side by side; at least as many as ranks.
    lanes: int = Field(default=8, ge=1)
    # Batches made ahead by a background thread; 0: none, no thread.
    prefetch: int = Field(default=4, ge=0)
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

    root: Path
    days: Sequence[date]
    features: Sequence[FeatureSettings]
    vocabularies: Mapping[str, str] = field(default_factory=dict[str, str])
    """feature -> digest of the vocabulary that the rows must have been built with"""
    kind: ClassVar[str]

    @abstractmethod
    def decoder(self, settings: ReaderSettings) -> Decoder[B]:
        """What turns the files' tables into batches."""


@dataclass(frozen=True, kw_only=True)
class Sequences(Examples[SequenceBatch]):
    """Sequences of clicks, whole."""

    kind = "sequences"

    def decoder(self, settings: ReaderSettings) -> SequenceDecoder:  # noqa: ARG002 (see below)
        """No setting applies: prepare has cut sequences to their length."""
        return SequenceDecoder(self.features)


@dataclass(frozen=True, kw_only=True)
class Requests(Examples[RankingBatch]):
    """Requests with the labels of one task."""

    kind = "requests"
    task: str

    def decoder(self, settings: ReaderSettings) -> RankingDecoder:
        """With histories cut to `max_history`."""
        return RankingDecoder(self.features, self.task, settings.max_history)


class Reader(Generic[B]):
    """Batches of one rank.

    Args:
        shuffle: permute row groups and the rows in them each epoch, or keep the order of the files.
        pin_memory: put batches into page-locked memory, for copies to a CUDA device.

    Raises:
        ConfigError: more ranks than `reader.lanes`.
        SchemaError: the first file lacks a column or the task's labels.
        MissingDayError, HalfWrittenDayError, CorruptFileError, VocabularyError: a day is not fit.
    """

    def __init__(
        self,
        examples: Examples[B],
        settings: ReaderSettings,
        *,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self._lanes = lanes_of_rank(settings.lanes, world_size, rank)
        self._settings = settings
        self._seed = settings.seed if shuffle else None
        self._pin_memory = pin_memory
        self._decoder = examples.decoder(settings)
        self._row_groups = RowGroups(
            examples.root, examples.kind, examples.days, examples.vocabularies
        )
        files = RowGroupFiles(self._row_groups, self._decoder)
        files.check_schema()
        files.close()

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, on all ranks together."""
        return self._row_groups.num_rows

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return steps_per_epoch(self.num_rows, self._settings.lanes, self._settings.batch_size)

    def batches(self, epoch: int, first_step: int = 0) -> Generator[B, None, None]:
        """The rank's batches of steps `first_step` to `steps_per_epoch` (exclusive).

        A rank whose lanes have run out of rows yields a filler (weights 0), so that all ranks
        take the same number of steps. Close the generator to stop early.

        Raises:
            CorruptFileError, DigestError, SchemaError: from a file, with its path.
        """
        return prefetched(self._make(epoch, first_step), self._settings.prefetch)

    def describe(self, batch: B) -> str:
        """Day, file and row numbers of a batch's rows, short enough for an error message."""
        return self._row_groups.describe(batch.row_ids.cpu().numpy())

    def _make(self, epoch: int, first_step: int) -> Generator[B, None, None]:
        files = RowGroupFiles(self._row_groups, self._decoder)
        try:
            order = epoch_order(len(self._row_groups.rows), self._seed, epoch)
            lanes = [self._lane(files, lane, epoch, order, first_step) for lane in self._lanes]
            for _ in range(first_step, self.steps_per_epoch):
                picks = [pick for lane in lanes for pick in next(lane, [])]
                batch = self._decoder.batch(picks) if picks else self._filler(files)
                yield batch.pin_memory() if self._pin_memory else batch
        finally:
            files.close()

    def _lane(
        self, files: RowGroupFiles, lane: int, epoch: int, order: Int64Array, first_step: int
    ) -> Iterator[list[Pick]]:
        """One lane's rows of each step, holding one row group at a time."""
        lanes, batch_size = self._settings.lanes, self._settings.batch_size
        segments = lane_segments(
            self._row_groups.rows,
            order,
            lanes=lanes,
            lane=lane,
            batch_size=batch_size,
            first_step=first_step,
        )
        held: dict[int, Pick] = {}
        for step in segments_by_step(segments, batch_size // lanes):
            picks: list[Pick] = []
            for row_group, first, last in step:
                if row_group not in held:
                    num_rows = int(self._row_groups.rows[row_group])
                    indices = row_permutation(num_rows, self._seed, epoch, row_group)
                    held = {row_group: Pick(files.read(row_group), indices)}
                rows, indices = held[row_group]
                picks.append(Pick(rows, indices[first:last]))
            yield picks

    def _filler(self, files: RowGroupFiles) -> B:
        """A short row (not an empty one, where there is another), with weights 0."""
        rows = files.read_head(int(np.flatnonzero(self._row_groups.rows)[0]))
        lengths = rows.lengths
        shortest = np.argmin(np.where(lengths > 0, lengths, np.iinfo(np.int64).max))
        return self._decoder.batch([Pick(rows, np.array([shortest]))], filler=True)
