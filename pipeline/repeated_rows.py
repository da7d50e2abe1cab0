"""Rows that may be there more than once, found by sorting hashes: most tables have none.

    group and hash of every row --repeated_groups--> the groups to be looked at closely

For `duckdb_engine`: to group millions of rows by what names them takes it twice as long.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["repeated_groups"]

# Odd, so that different groups stay different.
FACTOR = np.int64(0x1E3779B97F4A7C15)

Int64Array = NDArray[np.int64]


def repeated_groups(read: Callable[[], Iterable[pa.RecordBatch]]) -> Int64Array:
    """Groups in which a row may be twice; all in which one is.

    `read` gives batches of two int64 columns without nulls, in any order: a row's group, and the
    hash of the rest of it.
    """
    hashes = np.concatenate([np.zeros(0, np.int64), *map(_hashes, read())])
    hashes.sort()
    twice = hashes[1:][hashes[1:] == hashes[:-1]]
    found = [np.zeros(0, np.int64)]
    if len(twice):
        found += [batch[0].to_numpy()[np.isin(_hashes(batch), twice)] for batch in read()]
    return np.unique(np.concatenate(found))


def _hashes(batch: pa.RecordBatch) -> Int64Array:
    return batch[1].to_numpy() ^ (batch[0].to_numpy() * FACTOR)
