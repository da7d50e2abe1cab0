"""DuckDB as the pipeline's engine: in this process, on one machine, beyond memory on disk.

Tables are temporary, so what outgrows memory goes to disk under the work folder; times
without a zone are UTC. Lists in the making are what DuckDB cannot spill, so users are divided into
parts that fit.
"""

import math
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.operations import Sort
from ibis.expr.types import NumericValue, Table
from ibis.util import gen_name

from pipeline.engine import Engine, EngineSettings
from pipeline.wide_sort import sorted_batches

__all__ = ["DuckDBEngine", "open_duckdb"]

STREAM_ROWS = 8192
# Of an event in lists while they are made, all columns and DuckDB's own overhead.
BYTES_PER_EVENT = 600
# Share of the memory limit that lists in the making may take.
LIST_SHARE = 0.25
# Rows with lists are large: so many at a time where memory counts.
WIDE_ROWS = 1024
# Share of the memory limit that one bucket of them may take; it comes on top of the limit.
BUCKET_SHARE = 0.05
# All are open at once.
MAX_BUCKETS = 256


@contextmanager
def open_duckdb(work: Path, settings: EngineSettings) -> Generator["DuckDBEngine"]:
    """An engine with its database and its spills under `work`."""
    with warnings.catch_warnings():
        # Ibis 12 reads schemas by a method that DuckDB 2 calls deprecated.
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
        # A new name each time: DuckDB waits for ever to open a file again while anything of the
        # first opening lives in this process, such as a stream in an exception that is kept.
        database = work / f"{gen_name('engine')}.duckdb"
        connection = ibis.duckdb.connect(database, temp_directory=str(work / "spill"))
        try:
            connection.raw_sql("SET TimeZone = 'UTC'")
            # Every order that matters is asked for; keeping the others costs memory.
            connection.raw_sql("SET preserve_insertion_order = false")
            if settings.memory_limit:
                connection.raw_sql(f"SET memory_limit = '{settings.memory_limit}'")
            if settings.threads:
                connection.raw_sql(f"SET threads = {settings.threads}")
            yield DuckDBEngine(connection, work)
        finally:
            connection.disconnect()


class DuckDBEngine(Engine):
    """See `Engine`."""

    sql_errors = (duckdb.Error,)
    data_errors = (duckdb.Error,)

    def __init__(self, connection: Backend, work: Path) -> None:
        self._connection = connection
        self._work = work

    def read_parquet(self, paths: Sequence[Path], filename: str | None = None) -> Table:
        """Scanned where they lie."""
        return self._connection.read_parquet(
            [str(path) for path in paths], filename=filename or False, hive_partitioning=False
        )

    def in_memory(self, table: pa.Table) -> Table:
        """Copied into the database. Ibis 12's own way drops a view as DuckDB 2 no longer does."""
        name, given = gen_name("table"), gen_name("given")
        self._connection.con.register(given, table)
        self._connection.raw_sql(f"CREATE TEMP TABLE {name} AS SELECT * FROM {given}")  # noqa: S608
        self._connection.con.unregister(given)
        return self._connection.table(name)

    def computed(self, name: str, table: Table, *, more: bool = False) -> Table:
        """A temporary table: it spills to disk as it must, but is not made to last."""
        if more:
            table = table.select(self._connection.table(name).columns)
            self._connection.raw_sql(f"INSERT INTO {name} {self._query(table)}")
        else:
            self._connection.raw_sql(f"CREATE OR REPLACE TEMP TABLE {name} AS {self._query(table)}")
        return self.table(name)

    def table(self, name: str) -> Table:
        """A temporary table."""
        return self._connection.table(name)

    def near(self, table: Table, key: str) -> Table:
        """In order: DuckDB makes lists of scattered rows two to three times slower."""
        return table.order_by(key)

    def stream(self, table: Table) -> Iterator[pa.RecordBatch]:
        """Computed as they are read.

        Ibis 12's own `to_pyarrow_batches` calls a method that DuckDB 2 no longer has.
        """
        order = table.op()
        if isinstance(order, Sort) and any(dtype.is_array() for dtype in table.schema().values()):
            yield from self._wide_sorted(order)
        else:
            yield from self._batches(table, STREAM_ROWS)

    def rows_of(self, table: Table) -> list[dict[str, Any]]:
        """By way of Arrow."""
        return self._connection.to_pyarrow(table).to_pylist()

    def with_condition(self, table: Table, name: str, condition: str) -> Table:
        """By way of a view."""
        view = gen_name("with_condition")
        condition = f"COALESCE(CAST(({condition}) AS BOOLEAN), FALSE)"
        query = f'SELECT *, {condition} AS "{name}" FROM ({self._connection.compile(table)})'  # noqa: S608
        self._connection.raw_sql(f"CREATE VIEW {view} AS {query}")
        return self._connection.table(view)

    def num_user_parts(self, num_events: int) -> int:
        """By the memory limit in force."""
        needed = num_events * BYTES_PER_EVENT
        return max(1, math.ceil(needed / (LIST_SHARE * self._memory_limit)))

    @property
    def _memory_limit(self) -> float:
        ((limit,),) = self._connection.con.sql(
            "SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'"
        ).fetchall()
        return _bytes_of(limit)

    def _batches(self, table: Table, num_rows: int) -> Iterator[pa.RecordBatch]:
        query = self._connection.compile(table)
        yield from self._connection.con.sql(query).to_arrow_reader(num_rows)

    def _wide_sorted(self, order: Sort) -> Iterator[pa.RecordBatch]:
        """Rows with lists, in order: where they are many, a bucket at a time."""
        rows = order.parent.to_expr()
        keys = {f"sort_key_{number}": key.arg.to_expr() for number, key in enumerate(order.keys)}
        keyed = rows.mutate(**keys)
        bounds = self._bounds(keyed, list(keys))
        if not bounds:
            yield from self._batches(order.to_expr(), STREAM_ROWS)
            return
        folder = self._work / gen_name("sorted")
        batches = self._batches(keyed, WIDE_ROWS)
        yield from sorted_batches(batches, list(keys), bounds, folder, WIDE_ROWS)

    def _bounds(self, keyed: Table, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        """Where buckets of equal size begin, but the first; none where one is enough."""
        (counts,) = self.rows_of(keyed.agg(rows=keyed.count(), num_bytes=_num_bytes(keyed)))
        num_buckets = (counts["num_bytes"] or 0) / (BUCKET_SHARE * self._memory_limit)
        if num_buckets <= 1:
            return []
        rows = math.ceil(counts["rows"] / min(math.ceil(num_buckets), MAX_BUCKETS))
        order = [keyed[key] for key in keys]
        placed = keyed.select(*keys, place=ibis.row_number().over(order_by=order))
        placed = placed.filter(placed.place > 0, placed.place % rows == 0)
        found = self.rows_of(placed.order_by("place"))
        return [tuple(row[key] for key in keys) for row in found]

    def _query(self, table: Table) -> str:
        """SQL of the expression. DuckDB widens sums to 128 bits, Ibis says int64: keep to that."""
        numbers = [name for name, dtype in table.schema().items() if dtype.is_int64()]
        casts = ", ".join(f'CAST("{name}" AS BIGINT) AS "{name}"' for name in numbers)
        replaced = f"* REPLACE ({casts})" if casts else "*"
        return f"SELECT {replaced} FROM ({self._connection.compile(table)})"  # noqa: S608 (names are of our own)


def _num_bytes(table: Table) -> NumericValue:
    """About how much memory the rows take."""
    sizes: list[NumericValue] = []
    for name, dtype in table.schema().items():
        if dtype.is_array():
            of_value = 24 if dtype.value_type.is_string() else 8
            sizes.append((table[name].length() * of_value).sum())
        else:
            sizes.append(table.count() * 24)
    return sum(sizes[1:], sizes[0])


def _bytes_of(text: str) -> float:
    """'1.5 GiB' as DuckDB writes it."""
    number, unit = text.split()
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    return float(number) * 1024 ** units.index(unit)
