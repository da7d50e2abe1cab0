"""The engine that evaluates the pipeline's Ibis expressions on one machine: DuckDB.

The expressions themselves name no engine. What is particular to DuckDB is here and in the reading
of source files: a database file under the data root, so that intermediate tables and sorts that
outgrow memory go to disk, and UTC as the zone of every time without one.
"""

import fcntl
import shutil
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import Table
from ibis.util import gen_name

from pipeline.errors import DataError

__all__ = ["computed", "computed_by_users", "open_engine", "rows_of", "stream", "with_condition"]

STREAM_ROWS = 8192
EVENTS_PER_PART = 20_000_000


@contextmanager
def open_engine(root: Path) -> Generator[Backend]:
    """A connection whose tables and spills live in ROOT/.work, which is removed in the end.

    Raises:
        DataError: another process is preparing the same root.
    """
    work = Path(root) / ".work"
    with _only_one(root), warnings.catch_warnings():
        # Ibis 12 reads schemas by a method that DuckDB 2 calls deprecated.
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
        # What a killed run left behind.
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        connection = ibis.duckdb.connect(work / "engine.duckdb", temp_directory=str(work / "spill"))
        try:
            connection.raw_sql("SET TimeZone = 'UTC'")
            yield connection
        finally:
            connection.disconnect()
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _only_one(root: Path) -> Generator[None]:
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{root}: another process is preparing it; wait for it") from None
        # Closing the file, by whatever end of the process, gives the lock back.
        yield


def computed(connection: Backend, name: str, table: Table) -> Table:
    """Evaluate `table` once into a table of the engine's own file, replacing one of that name."""
    connection.raw_sql(f"CREATE OR REPLACE TABLE {name} AS {_query(connection, table)}")
    return connection.table(name)


def with_condition(connection: Backend, table: Table, name: str, condition: str) -> Table:
    """`table` and a boolean column `name`: where the SQL condition over its columns is true.

    Raises:
        duckdb.Error: it is no condition on these columns.
    """
    view = gen_name("with_condition")
    # SQL from the config is meant: it runs with the rights of the user who wrote it.
    condition = f"COALESCE(CAST(({condition}) AS BOOLEAN), FALSE)"
    query = f'SELECT *, {condition} AS "{name}" FROM ({connection.compile(table)})'  # noqa: S608
    connection.raw_sql(f"CREATE VIEW {view} AS {query}")
    return connection.table(view)


def _query(connection: Backend, table: Table) -> str:
    """SQL of the expression. DuckDB widens sums to 128 bits, Ibis says int64: keep to that."""
    numbers = [name for name, dtype in table.schema().items() if dtype.is_int64()]
    casts = ", ".join(f'CAST("{name}" AS BIGINT) AS "{name}"' for name in numbers)
    replaced = f"* REPLACE ({casts})" if casts else "*"
    return f"SELECT {replaced} FROM ({connection.compile(table)})"  # noqa: S608 (names are of our own)


def computed_by_users(
    connection: Backend,
    name: str,
    events: Table,
    num_events: int,
    make: Callable[[Table], Table],
) -> Table:
    """Evaluate `make(events)` for one part of the users after the other, into one table.

    What is made of a user's events must depend on that user's events only. Lists in the making
    are what the engine cannot spill, so this bounds memory by the events of one part.
    """
    num_digits = 0
    while num_events > EVENTS_PER_PART * 16**num_digits:
        num_digits += 1
    part_of = events.user_id.hexdigest("md5").substr(0, num_digits)
    if not num_digits:
        return computed(connection, name, make(events))
    made = computed(connection, name, make(events.filter(part_of == "0" * num_digits)))
    for number in range(1, 16**num_digits):
        part = events.filter(part_of == f"{number:0{num_digits}x}")
        query = _query(connection, make(part).select(made.columns))
        connection.raw_sql(f"INSERT INTO {name} {query}")
    return made


def stream(connection: Backend, table: Table) -> pa.RecordBatchReader:
    """The table's rows as record batches, computed as they are read.

    Ibis 12's own `to_pyarrow_batches` calls a method that DuckDB 2 no longer has.
    """
    return connection.con.sql(connection.compile(table)).to_arrow_reader(STREAM_ROWS)


def rows_of(connection: Backend, table: Table) -> list[dict[str, Any]]:
    """A small result (counts) as plain Python values."""
    return connection.to_pyarrow(table).to_pylist()
