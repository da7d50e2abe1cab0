"""Lists out of sorted rows, as they stream by: neighbours with equal keys become one row.

    sorted record batches -> `listed_batches` -> record batches with a list a column

For `duckdb_engine`, whose own aggregates make lists several times slower and hold all of them in
memory. Values are not copied: a list is where it begins and ends among the sorted values.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["listed_batches", "listed_schema", "placed_slices", "repeated"]

Int64Array = NDArray[np.int64]


def listed_schema(rows: pa.Schema, keys: Sequence[str], names: Sequence[str]) -> pa.Schema:
    """The columns `keys`, and a list of each of `names`."""
    lists = [pa.field(name, pa.list_(rows.field(name).type)) for name in names]
    return pa.schema([*(rows.field(key) for key in keys), *lists])


def listed_batches(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, keys: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """One row for all neighbours that have the same `keys`, which have no nulls.

    `schema` is that of `listed_schema`: other columns become lists, in the order of the rows.
    """
    # The last keys of a batch may go on in the next.
    rest: pa.RecordBatch | None = None
    for batch in batches:
        if not batch.num_rows:
            continue
        rows = pa.concat_batches([rest, batch]) if rest is not None else batch
        starts = _starts(rows, keys)
        rest = rows.slice(starts[-1])
        if len(starts) > 1:
            yield _listed(rows, starts, schema, keys)
    if rest is not None:
        yield _listed(rest, np.array([0, rest.num_rows]), schema, keys)


def _starts(rows: pa.RecordBatch, keys: Sequence[str]) -> Int64Array:
    """Where rows of other keys begin."""
    is_new = np.ones(rows.num_rows, dtype=np.bool_)
    is_new[1:] = False
    for key in keys:
        values = rows[key]
        is_other = pc.not_equal(values[1:], values[:-1])
        is_new[1:] |= is_other.to_numpy(zero_copy_only=False)
    return np.flatnonzero(is_new)


def _listed(
    rows: pa.RecordBatch, starts: Int64Array, schema: pa.Schema, keys: Sequence[str]
) -> pa.RecordBatch:
    """A row from each of `starts` to the next; the last one is the end."""
    first, offsets = pa.array(starts[:-1]), pa.array(starts, pa.int32())
    columns: list[pa.Array] = []
    for field in schema:
        if field.name in keys:
            columns.append(rows[field.name].take(first))
        else:
            values = rows[field.name][: starts[-1]]
            columns.append(pa.ListArray.from_arrays(offsets, values, type=field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def placed_slices(starts: Int64Array, lengths: Int64Array) -> tuple[pa.Array, Int64Array]:
    """(N + 1,) offsets of lists of these lengths, and (E,) the places of what they hold.

    List i holds what is at `starts[i]` and the places after it.
    """
    ends = np.cumsum(lengths)
    places = np.repeat(starts - ends + lengths, lengths)
    places += np.arange(len(places))
    return pa.array(np.concatenate([[0], ends]), pa.int32()), places


def repeated(values: pa.Array, lengths: Int64Array) -> Int64Array | np.int64:
    """Each value as often as its length says; one for all where they are equal, as in a day."""
    numbers = values.to_numpy()
    if len(numbers) and (numbers == numbers[0]).all():
        return numbers[0]
    return np.repeat(numbers, lengths)
