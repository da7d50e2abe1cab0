"""A connection to DuckDB: queries of Ibis expressions, tables, views, streams.

For `duckdb_engine`, every worker of which has one. A connection does one thing at a time, so a
stream that is read while something else is done has its own. Times without a zone are UTC.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.operations import Node
from ibis.expr.types import IntegerValue, Table
from ibis.util import gen_name

__all__ = ["DuckDBConnection"]

WITH_ZONE = dt.Timestamp(timezone="UTC", scale=6)


@ibis.udf.scalar.builtin
def getvariable(variable: str) -> int:
    """DuckDB's own function: the value of a variable of the connection."""
    # Ibis takes the name and the types, and makes SQL of them: nobody gets here.
    raise NotImplementedError


class DuckDBConnection:
    """One connection to a database in memory.

    Args:
        schema: where it makes its tables; those of the database's own schema it sees too.
        texts: SQL of expressions, which connections share that compute the same.
    """

    def __init__(
        self, backend: Backend, schema: str = "main", texts: dict[Node, str] | None = None
    ) -> None:
        self._backend = backend
        self._session = {
            "TimeZone": "SET TimeZone = 'UTC'",
            "search_path": f"SET search_path = '{schema},main'",
        }
        self._texts = texts

    @contextmanager
    def another(
        self, schema: str, texts: dict[Node, str] | None = None
    ) -> Generator["DuckDBConnection"]:
        """To the same database, for another thread; tables of the schema end with it."""
        self.run(f"CREATE SCHEMA {schema}")
        with self._backend.con.cursor() as cursor:
            backend = ibis.duckdb.from_connection(cursor)
            made = DuckDBConnection(backend, schema, texts)
            for statement in made._session.values():
                made.run(statement)
            try:
                yield made
            finally:
                made.run(f"DROP SCHEMA {schema} CASCADE")

    def run(self, sql: str) -> None:
        """Run a statement that returns nothing."""
        self._backend.raw_sql(sql)

    def table(self, name: str) -> Table:
        """A table or view."""
        return self._backend.table(name)

    def view(self, query: str) -> Table:
        """A view by a new name, which all connections see."""
        name = gen_name("view")
        self.run(f"CREATE VIEW {name} AS {query}")
        return self.table(name)

    def variable(self, name: str, value: int) -> IntegerValue:
        """A value for this connection's queries, whose text does not depend on what it is."""
        self._session[name] = f"SET VARIABLE {name} = {value}"
        self.run(self._session[name])
        return getvariable(name)

    def compiled(self, table: Table) -> str:
        """SQL of the expression."""
        if self._texts is None:
            return self._backend.compile(table)
        # Expressions are equal where they are built alike.
        expression = table.op()
        if expression not in self._texts:
            self._texts[expression] = self._backend.compile(table)
        return self._texts[expression]

    def query(self, table: Table) -> str:
        """SQL of the expression. DuckDB widens sums to 128 bits, Ibis says int64: keep to that."""
        numbers = [name for name, dtype in table.schema().items() if dtype.is_int64()]
        casts = ", ".join(f'CAST("{name}" AS BIGINT) AS "{name}"' for name in numbers)
        replaced = f"* REPLACE ({casts})" if casts else "*"
        return f"SELECT {replaced} FROM ({self.compiled(table)})"  # noqa: S608 (names are of our own)

    def scan(self, paths: Sequence[Path], filename: str | None = None) -> Table:
        """Rows of Parquet files, and their paths in a column `filename`.

        Times with a zone come as UTC times without one.
        """
        files = ", ".join(_quoted(str(path)) for path in paths)
        named = f", filename = {_quoted(filename)}" if filename else ""
        scanned = f"read_parquet([{files}], hive_partitioning = false{named})"
        table = self.view(f"SELECT * FROM {scanned}")  # noqa: S608 (quoted)
        found = {name: _utc_times(f'"{name}"', dtype) for name, dtype in table.schema().items()}
        replaced = ", ".join(f'{time} AS "{name}"' for name, time in found.items() if time)
        if not replaced:
            return table
        return self.view(f"SELECT * REPLACE ({replaced}) FROM {scanned}")  # noqa: S608 (quoted)

    def create(self, name: str, rows: pa.Table | pa.RecordBatchReader) -> None:
        """A table of Arrow's rows, in place of what had the name."""
        given = gen_name("given")
        self._backend.con.register(given, rows)
        self.run(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM {given}")  # noqa: S608
        self._backend.con.unregister(given)

    def batches(self, table: Table, num_rows: int) -> Iterator[pa.RecordBatch]:
        """Computed as they are read, so many rows at a time.

        Ibis 12's own `to_pyarrow_batches` calls a method that DuckDB 2 no longer has.
        """
        query = self.compiled(table)
        with self._cursor() as cursor:
            yield from cursor.sql(query).to_arrow_reader(num_rows)

    def rows_of(self, table: Table) -> list[dict[str, Any]]:
        """All rows, by way of Arrow."""
        rows = self._backend.con.sql(self.compiled(table)).to_arrow_table()
        return rows.cast(table.schema().to_pyarrow()).to_pylist()

    def setting(self, name: str) -> str:
        """The value in force."""
        query = f"SELECT value FROM duckdb_settings() WHERE name = '{name}'"  # noqa: S608 (of our own)
        ((value,),) = self._backend.con.sql(query).fetchall()
        return value

    @property
    def memory_limit(self) -> float:
        """In bytes."""
        number, unit = self.setting("memory_limit").split()
        units = ("bytes", "KiB", "MiB", "GiB", "TiB")
        return float(number) * 1024 ** units.index(unit)

    @contextmanager
    def fewer_threads(self, number: int) -> Generator[None]:
        """DuckDB has so many threads fewer of its own, as who calls it from other threads is one.

        More threads than cores took a tenth more processor time.
        """
        threads = int(self.setting("threads"))
        self.run(f"SET threads = {threads - number}")
        try:
            yield
        finally:
            self.run(f"SET threads = {threads}")

    @contextmanager
    def _cursor(self) -> Generator[duckdb.DuckDBPyConnection]:
        with self._backend.con.cursor() as cursor:
            for statement in self._session.values():
                cursor.execute(statement)
            yield cursor


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _utc_times(column: str, dtype: dt.DataType) -> str | None:
    """SQL of the column's times without their zone; None where there are none."""
    if isinstance(dtype, dt.Array) and dtype.value_type == WITH_ZONE:
        return f"list_transform({column}, lambda value: {_without_zone('value')})"
    return _without_zone(column) if dtype == WITH_ZONE else None


def _without_zone(column: str) -> str:
    """A cast asks the calendar about every value; this does so only for what has no number."""
    number = f"make_timestamp(epoch_us({column}))"
    return f"CASE WHEN isfinite({column}) THEN {number} ELSE CAST({column} AS TIMESTAMP) END"
