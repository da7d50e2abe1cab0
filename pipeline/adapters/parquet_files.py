"""Parquet files that are not in day partitions, as blocks of columns in the types they have."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adapters.raw_files import Block
from pipeline.errors import CorruptFileError, SchemaError
from pipeline.source_files import read_footer

__all__ = ["check_alike", "read_parquet"]

BATCH_ROWS = 131_072


def check_alike(
    paths: Sequence[Path], columns: Mapping[str, str], optional: Sequence[str] = ()
) -> None:
    """Look at all files before any is read: each has the columns, in one type.

    Raises:
        CorruptFileError: a file is no whole Parquet file.
        SchemaError: a file lacks a column, or has it in another type than a file before it.
    """
    seen: dict[str, tuple[pa.DataType, Path]] = {}
    for path in paths:
        schema = read_footer(path).schema
        for name, theirs in columns.items():
            if theirs in schema.names:
                dtype = _plain(schema.field(theirs).type)
                first, where = seen.setdefault(name, (dtype, path))
                if dtype != first:
                    raise SchemaError(
                        f"{path}: column {theirs!r} is {dtype}, but {first} in {where}; write "
                        "both in one type"
                    )
            elif name not in optional:
                raise SchemaError(
                    f"{path}: no column {theirs!r}; the file has {', '.join(schema.names)}; say "
                    f"under ingest.columns.{name} which one is the {name}"
                )


def read_parquet(path: Path, columns: Mapping[str, str]) -> Iterator[Block]:
    """Read `columns` (contract name -> name in the file); one that is absent is null.

    Raises:
        CorruptFileError: the file cannot be read to its end.
    """
    try:
        with pq.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            used = sorted(there.intersection(columns.values()))
            for batch in file.iter_batches(BATCH_ROWS, columns=used):
                yield Block(_renamed(batch, columns))
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptFileError(
            f"{path}: its data cannot be read ({reason}); write the file again, then rerun"
        ) from None


def _renamed(batch: pa.RecordBatch, columns: Mapping[str, str]) -> pa.Table:
    absent = pa.nulls(batch.num_rows, pa.string())
    values = {
        name: batch[theirs] if theirs in batch.schema.names else absent
        for name, theirs in columns.items()
    }
    return pa.table({name: value.cast(_plain(value.type)) for name, value in values.items()})


def _plain(dtype: pa.DataType) -> pa.DataType:
    return dtype.value_type if pa.types.is_dictionary(dtype) else dtype
