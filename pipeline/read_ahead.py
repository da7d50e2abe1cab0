"""Row groups of several lanes in their order, each lane's next one read while one is in use.

    lane's row groups --worker thread--> Rows, one ahead --> `pipeline.reader`

With no workers a row group is read when it is asked for. Which worker reads for which lane follows
from their numbers alone, and what is handed out does not depend on how many workers there are.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipeline.decode import Decoder
from pipeline.jagged import Rows
from pipeline.row_groups import RowGroupFiles, RowGroups

__all__ = ["LaneReaders", "worker_of_lane"]


def worker_of_lane(index: int, workers: int) -> int:
    """Which of a rank's workers reads for the lane that is its `index`-th."""
    return index % workers


class LaneReaders:
    """Reads the row groups of a rank's lanes. To be closed.

    Args:
        workers: threads that read ahead, each with its own open files; 0: none.
    """

    def __init__(self, row_groups: RowGroups, decoder: Decoder[Any], workers: int) -> None:
        self._files = [RowGroupFiles(row_groups, decoder) for _ in range(max(workers, 1))]
        self._threads = [ThreadPoolExecutor(1, f"read-ahead-{n}") for n in range(workers)]

    def lane(self, index: int, row_groups: Sequence[int]) -> Iterator[Rows]:
        """The rows of `row_groups` for the rank's `index`-th lane; a worker starts at once.

        Raises:
            CorruptFileError, DigestError, SchemaError, DataError: when a row group is asked for.
        """
        if not self._threads:
            return map(self._files[0].read, row_groups)
        number = worker_of_lane(index, len(self._threads))
        return _ReadAhead(self._threads[number], self._files[number], row_groups)

    def close(self) -> None:
        """Stop reading and close all files."""
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        for files in self._files:
            files.close()


class _ReadAhead(Iterator[Rows]):
    """One lane's row groups; handing one out starts reading the next."""

    def __init__(
        self, thread: ThreadPoolExecutor, files: RowGroupFiles, row_groups: Sequence[int]
    ) -> None:
        self._thread = thread
        self._files = files
        self._waiting = iter(row_groups)
        self._next = self._start()

    def __next__(self) -> Rows:
        if self._next is None:
            raise StopIteration
        rows = self._next.result()
        self._next = self._start()
        return rows

    def _start(self) -> Future[Rows] | None:
        for row_group in self._waiting:
            return self._thread.submit(self._files.read, row_group)
        return None
