"""How much memory a rank's shuffling takes at most, from the footers of the files.

Rows are shuffled within row groups, so what is held is decoded row groups. A lane holds those that
one step's rows lie in: parts of two, and whole ones between them where row groups are smaller than
a step; and one more where its next row group is read ahead. With L lanes of the rank, D and C the
largest row group in bytes, decoded (with the order of its rows) and compressed, b rows of a lane a
step, d the largest decoded bytes a row, A = 1 with workers and 0 without, F open files:

    bytes <= L * ((2 + A) * D + b * d) + F * C

The last term is Arrow's: it keeps the compressed bytes of the row group last read from each file.
Not in it: the batches made ahead (`prefetch` + 1 of them, of the batches' own size), and Arrow's
table of the row group that each thread is just decoding (about D).
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.decode import Decoder
from pipeline.row_groups import MAX_OPEN_FILES, RowGroupFiles, RowGroups

__all__ = ["shuffle_memory_bytes"]

NUMBER_BYTES = 8
# Labels are held as float32, so that they can be NaN.
LABEL_BYTES = 4


def shuffle_memory_bytes(
    row_groups: RowGroups, decoder: Decoder[Any], *, lanes: int, rows_per_step: int, workers: int
) -> int:
    """The bound above for a rank with `lanes` lanes, of `rows_per_step` rows each a step.

    Every file is opened, so this takes a request or two a file.

    Raises:
        CorruptFileError, DigestError, SchemaError, DataError: as `RowGroupFiles`.
    """
    if not row_groups.num_rows:
        return 0
    decoded, compressed = _sizes(row_groups, decoder)
    densest = (decoded / np.maximum(row_groups.rows, 1)).max()
    row_groups_held = 3 if workers else 2
    a_lane = row_groups_held * int(decoded.max()) + math.ceil(rows_per_step * densest)
    open_files = min(MAX_OPEN_FILES, len(row_groups.files)) * max(workers, 1)
    return lanes * a_lane + open_files * int(compressed.max())


def _sizes(
    row_groups: RowGroups, decoder: Decoder[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(G,) bytes of each row group, decoded and compressed."""
    files = RowGroupFiles(row_groups, decoder)
    try:
        footers = [files.metadata(number) for number in range(len(row_groups.files))]
    finally:
        files.close()
    parts = [footer.row_group(i) for footer in footers for i in range(footer.num_row_groups)]
    decoded = [_decoded_bytes(part, decoder) for part in parts]
    columns = [map(part.column, range(part.num_columns)) for part in parts]
    compressed = [sum(column.total_compressed_size for column in part) for part in columns]
    return np.array(decoded, dtype=np.int64), np.array(compressed, dtype=np.int64)


def _decoded_bytes(row_group: pq.RowGroupMetaData, decoder: Decoder[Any]) -> int:
    """Of the columns read, with an order of the rows; a footer counts empty lists as values."""
    num_bytes = NUMBER_BYTES * row_group.num_rows
    for column in map(row_group.column, range(row_group.num_columns)):
        dtype = decoder.columns.get(column.path_in_schema.partition(".")[0])
        if dtype is None:
            continue
        if not pa.types.is_list(dtype):
            num_bytes += NUMBER_BYTES * column.num_values
            continue
        width = LABEL_BYTES if pa.types.is_int8(dtype.value_type) else NUMBER_BYTES
        num_bytes += width * column.num_values + NUMBER_BYTES * (row_group.num_rows + 1)
    return num_bytes
