"""Days of sequences or requests to batches, on one of several ranks.

    manifests -> placement -> row groups -> decode -> batches, a few ahead of the training thread

The order of rows is `pipeline.placement`'s; its state is (epoch, step), so a run goes on from a
checkpoint on any world size without reading what it has seen.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from pipeline.example_sets import B, Examples, ReaderSettings, Requests, Sequences
from pipeline.jagged import Pick, Rows
from pipeline.placement import (
    Segment,
    epoch_order,
    lane_segments,
    lanes_of_rank,
    row_permutation,
    segments_by_step,
    steps_per_epoch,
)
from pipeline.prefetch import prefetched
from pipeline.read_ahead import LaneReaders
from pipeline.row_groups import RowGroupFiles, RowGroups
from pipeline.shuffle_memory import shuffle_memory_bytes

__all__ = ["Examples", "Reader", "ReaderSettings", "Requests", "Sequences"]

Int64Array = NDArray[np.int64]


class Reader(Generic[B]):
    """Batches of one rank.

    Shuffling holds a few decoded row groups a lane, never a day: at most `shuffle_memory_bytes`,
    whose formula is in `pipeline.shuffle_memory`. On top come the batches made ahead.

    Args:
        shuffle: permute row groups and the rows in them each epoch, or keep the order of the files.
        pin_memory: put batches into page-locked memory, for copies to a CUDA device.

    Raises:
        ConfigError: more ranks than `reader.lanes`.
        SchemaError: the first file lacks a column or the task's labels.
        MissingDayError, HalfWrittenDayError, CorruptFileError, VocabularyError: a day is not fit.
        DataError: the store refused, or cannot be reached.
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
        self._rows_per_step = settings.batch_size // settings.lanes
        self._settings = settings
        self._seed = settings.seed if shuffle else None
        self._pin_memory = pin_memory
        self._decoder = examples.decoder(settings)
        self._row_groups = RowGroups(examples.folders, examples.vocabularies)
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
            DataError: the store refused, or cannot be reached.
        """
        return prefetched(self._make(epoch, first_step), self._settings.prefetch)

    def describe(self, batch: B) -> str:
        """Day, file and row numbers of a batch's rows, short enough for an error message."""
        return self._row_groups.describe(batch.row_ids.cpu().numpy())

    def shuffle_memory_bytes(self) -> int:
        """The most bytes that this rank's shuffling holds at once; every file is opened for it."""
        return shuffle_memory_bytes(
            self._row_groups,
            self._decoder,
            lanes=len(self._lanes),
            rows_per_step=self._rows_per_step,
            workers=self._settings.workers,
        )

    def _make(self, epoch: int, first_step: int) -> Generator[B, None, None]:
        readers = LaneReaders(self._row_groups, self._decoder, self._settings.workers)
        try:
            lanes = self._start_lanes(readers, epoch, first_step)
            for _ in range(first_step, self.steps_per_epoch):
                batch = self._batch(lanes)
                yield batch.pin_memory() if self._pin_memory else batch
        finally:
            readers.close()

    def _batch(self, lanes: Sequence[Iterator[list[Pick]]]) -> B:
        """One step's rows; no row group is kept for it once they are gathered."""
        picks = [pick for lane in lanes for pick in next(lane, [])]
        return self._decoder.batch(picks) if picks else self._filler()

    def _start_lanes(
        self, readers: LaneReaders, epoch: int, first_step: int
    ) -> list[Iterator[list[Pick]]]:
        """The rank's lanes, each giving its rows of one step after the other."""
        order = epoch_order(len(self._row_groups.rows), self._seed, epoch)
        lanes: list[Iterator[list[Pick]]] = []
        for index, lane in enumerate(self._lanes):
            segments = lane_segments(
                self._row_groups.rows,
                order,
                lanes=self._settings.lanes,
                lane=lane,
                batch_size=self._settings.batch_size,
                first_step=first_step,
            )
            rows = readers.lane(index, [segment.row_group for segment in segments])
            lanes.append(self._picks(segments, rows, epoch))
        return lanes

    def _picks(
        self, segments: Sequence[Segment], row_groups: Iterator[Rows], epoch: int
    ) -> Iterator[list[Pick]]:
        """One lane's rows of each step, holding no row group but those that they lie in."""
        held: dict[int, Pick] = {}
        for step in segments_by_step(segments, self._rows_per_step):
            picks: list[Pick] = []
            for row_group, first, last in step:
                if row_group not in held:
                    num_rows = int(self._row_groups.rows[row_group])
                    indices = row_permutation(num_rows, self._seed, epoch, row_group)
                    held = {row_group: Pick(next(row_groups), indices)}
                rows, indices = held[row_group]
                picks.append(Pick(rows, indices[first:last]))
            yield picks

    def _filler(self) -> B:
        """A short row (not an empty one, where there is another), with weights 0."""
        files = RowGroupFiles(self._row_groups, self._decoder)
        try:
            rows = files.read_head(int(np.flatnonzero(self._row_groups.rows)[0]))
        finally:
            files.close()
        lengths = rows.lengths
        shortest = np.argmin(np.where(lengths > 0, lengths, np.iinfo(np.int64).max))
        return self._decoder.batch([Pick(rows, np.array([shortest]))], filler=True)
