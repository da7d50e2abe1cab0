"""The row groups of a range of days: where each lies, and reading one.

Manifests say which files a day has and how many rows each row group holds, so nothing is opened
to plan an epoch. `RowGroups` numbers all row groups and all rows in the order of days and files;
`RowGroupFiles` opens files as they are needed and hands decoded rows out.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.decode import Decoder
from pipeline.errors import CorruptFileError, DigestError, VocabularyError
from pipeline.jagged import Rows
from pipeline.manifests import Manifest
from pipeline.partitions import read_manifest
from pipeline.storage import Location, S3Path, open_parquet, store_errors

__all__ = ["MAX_OPEN_FILES", "RowGroupFiles", "RowGroups"]

MAX_OPEN_FILES = 16
MANIFEST_THREADS = 16
# Rows looked at to find a short one.
HEAD_ROWS = 64
# How much of a batch an error message describes.
MAX_FILES_SHOWN = 5
MAX_RANGES_SHOWN = 5

Int64Array = NDArray[np.int64]


class _File(NamedTuple):
    path: Location
    label: str
    row_group_rows: tuple[int, ...]


class RowGroups:
    """All row groups of some published folders of sequences or requests, in their order.

    Args:
        vocabularies: feature -> digests the rows may have been built with: the vocabulary in use
            and what it grew from.

    Raises:
        MissingDayError, HalfWrittenDayError, CorruptFileError: from the days' manifests.
        VocabularyError: a folder was built with another vocabulary.
    """

    def __init__(
        self, folders: Sequence[Location], vocabularies: Mapping[str, Collection[str]]
    ) -> None:
        self.files: list[_File] = []
        for folder, manifest in zip(folders, _read_manifests(folders), strict=True):
            _check_vocabularies(manifest, str(folder), vocabularies)
            for file in manifest.files:
                label = f"{folder.name}/{file.name}"
                self.files.append(_File(folder / file.name, label, file.row_group_rows))
        counts = [len(file.row_group_rows) for file in self.files]
        self.rows: Int64Array = np.array(
            [rows for file in self.files for rows in file.row_group_rows], dtype=np.int64
        )
        """(G,) rows in each row group"""
        self.starts: Int64Array = np.concatenate([[0], np.cumsum(self.rows)])
        """(G+1,) number of each row group's first row"""
        self._file_starts: Int64Array = np.cumsum([0, *counts])

    @property
    def num_rows(self) -> int:
        """Rows of all days."""
        return int(self.starts[-1])

    def locate(self, row_group: int) -> tuple[int, int]:
        """The file's number and the row group's number within it."""
        file = int(np.searchsorted(self._file_starts, row_group, "right")) - 1
        return file, row_group - int(self._file_starts[file])

    def describe(self, row_ids: Int64Array) -> str:
        """Where rows are, in short: `day=2024-03-01/part-0.parquet rows 0-3, 7; ...`."""
        row_ids = np.sort(row_ids)
        first_rows = self.starts[self._file_starts]
        file_numbers = np.searchsorted(first_rows, row_ids, "right") - 1
        found = np.unique(file_numbers)
        parts = [
            f"{self.files[file].label} "
            f"rows {_ranges(row_ids[file_numbers == file] - first_rows[file])}"
            for file in found[:MAX_FILES_SHOWN].tolist()
        ]
        if len(found) > MAX_FILES_SHOWN:
            parts.append(f"and {len(found) - MAX_FILES_SHOWN} more files")
        return "; ".join(parts)


def _read_manifests(folders: Sequence[Location]) -> list[Manifest]:
    """Of all folders; a store is asked for several at a time, since each takes three requests."""
    if not any(isinstance(folder, S3Path) for folder in folders):
        return [read_manifest(folder) for folder in folders]
    with ThreadPoolExecutor(MANIFEST_THREADS) as threads:
        return list(threads.map(read_manifest, folders))


def _check_vocabularies(
    manifest: Manifest, what: str, expected: Mapping[str, Collection[str]]
) -> None:
    for feature, digests in sorted(expected.items()):
        found = manifest.vocabularies.get(feature, "none")
        if found not in digests:
            raise VocabularyError(
                f"{what}: feature {feature} was built with vocabulary {found}, which is neither "
                "the one in use nor one that it grew from; run prepare again for this day"
            )


def _ranges(rows: Int64Array) -> str:
    """Sorted row numbers as ranges: `0-3, 7`."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    if len(runs) > MAX_RANGES_SHOWN:
        num_hidden = sum(len(run) for run in runs[MAX_RANGES_SHOWN:])
        shown[MAX_RANGES_SHOWN:] = [f"and {num_hidden} more up to {rows[-1]}"]
    return ", ".join(shown)


class RowGroupFiles:
    """Reads row groups, keeping the files used last open. For one thread.

    Raises (all methods):
        CorruptFileError: a file cannot be read.
        DigestError: a file's row groups are not those its manifest names.
        SchemaError: a file lacks a column, or one has another type or nulls.
        DataError: the store refused, or cannot be reached.
    """

    def __init__(self, row_groups: RowGroups, decoder: Decoder[Any]) -> None:
        self._row_groups = row_groups
        self._decoder = decoder
        self._columns = list(decoder.columns)
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        # Lanes that are in the same row group share it; one that no lane holds is forgotten.
        self._decoded: WeakValueDictionary[int, Rows] = WeakValueDictionary()

    def read(self, row_group: int) -> Rows:
        """All rows of a row group, decoded."""
        rows = self._decoded.get(row_group)
        if rows is None:
            rows = self._decoded[row_group] = self._decode(row_group, self._read_table)
        return rows

    def read_head(self, row_group: int) -> Rows:
        """The first rows of a row group, decoded."""
        return self._decode(row_group, self._read_first_batch)

    def metadata(self, number: int) -> pq.FileMetaData:
        """The footer of a file."""
        return self._file(number).metadata

    def check_schema(self) -> None:
        """Check the first file, so that a missing column shows before any work is done."""
        if self._row_groups.files:
            self._file(0)

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _decode(self, row_group: int, read: Any) -> Rows:
        number, index = self._row_groups.locate(row_group)
        path = self._row_groups.files[number].path
        file = self._file(number)
        try:
            with store_errors(path):
                table = read(file, index)
        except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise _corrupt(path, error) from error
        first_row = int(self._row_groups.starts[row_group])
        return self._decoder.decode(table, first_row=first_row, where=str(path))

    def _read_table(self, file: pq.ParquetFile, index: int) -> pa.Table:
        # One thread: the reader already runs beside the training thread, on every rank.
        return file.read_row_group(index, columns=self._columns, use_threads=False)

    def _read_first_batch(self, file: pq.ParquetFile, index: int) -> pa.Table:
        batches = file.iter_batches(HEAD_ROWS, [index], columns=self._columns, use_threads=False)
        return pa.Table.from_batches([next(batches)])

    def _file(self, number: int) -> pq.ParquetFile:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) == MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        file = self._open_file(self._row_groups.files[number])
        self._open[number] = file
        return file

    def _open_file(self, entry: _File) -> pq.ParquetFile:
        try:
            file = open_parquet(entry.path)
        except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise _corrupt(entry.path, error) from error
        metadata = file.metadata
        found = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        if found != entry.row_group_rows:
            raise DigestError(
                f"{entry.path}: has {metadata.num_rows} rows in {len(found)} row groups, but its "
                f"manifest says {sum(entry.row_group_rows)} in {len(entry.row_group_rows)} (or "
                "cut differently); run prepare again for this day"
            )
        self._decoder.check(file.schema_arrow, str(entry.path))
        return file


def _corrupt(path: Location, error: Exception) -> CorruptFileError:
    return CorruptFileError(f"{path}: cannot be read ({error}); run prepare again for this day")
