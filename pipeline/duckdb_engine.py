"""DuckDB as the pipeline's engine: in this process, on one machine, beyond memory on disk.

Tables are in memory, and what outgrows it goes to disk under the work folder; times without a zone
are UTC. Lists in the making are what DuckDB cannot spill, so users are divided into parts that
fit. Within a query DuckDB shares out rows by 122,880, more than many a table of users has: so parts
are built side by side, by workers with a connection each.
"""

import math
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import duckdb
import ibis
import pyarrow as pa
from ibis.expr.operations import Node, Sort
from ibis.expr.types import IntegerValue, Table
from ibis.util import gen_name

from pipeline.duckdb_connection import DuckDBConnection
from pipeline.engine import Engine, EngineSettings, least_of
from pipeline.held_candidates import HeldCandidates
from pipeline.lists import listed_batches, listed_schema
from pipeline.repeated_rows import repeated_groups
from pipeline.wide_sort import bucket_bounds, sorted_batches

__all__ = ["DuckDBEngine", "open_duckdb"]

STREAM_ROWS = 8192
# Rows that are made into lists at a time.
LISTED_ROWS = 65_536
# Of an event in lists while they are made, all columns and DuckDB's own overhead.
BYTES_PER_EVENT = 600
# Share of the memory limit that lists in the making may take.
LIST_SHARE = 0.25
# Rows with lists are large: so many at a time where memory counts.
WIDE_ROWS = 1024
# Share of the memory limit that a bucket, or what else is outside of DuckDB, may take on top of it.
BUCKET_SHARE = 0.05
# Python compiles queries for one at a time.
MAX_WORKERS = 4
# Share of the memory limit that DuckDB does not give back to the system before the end: to get it
# again for every table took a tenth of the processor's time.
KEPT_SHARE = 0.1
# With fewer, another worker costs more in compiling than it saves.
EVENTS_PER_WORKER = 200_000


@contextmanager
def open_duckdb(work: Path, settings: EngineSettings) -> Generator["DuckDBEngine"]:
    """An engine with its spills under `work`."""
    with warnings.catch_warnings():
        # Ibis 12 reads schemas by a method that DuckDB 2 calls deprecated.
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
        backend = ibis.duckdb.connect(":memory:", temp_directory=str(work / "spill"))
        connection = DuckDBConnection(backend)
        try:
            # Every order that matters is asked for; keeping the others costs memory.
            connection.run("SET preserve_insertion_order = false")
            if settings.memory_limit:
                connection.run(f"SET memory_limit = '{settings.memory_limit}'")
            kept = int(KEPT_SHARE * connection.memory_limit)
            connection.run(f"SET block_allocator_memory = '{kept}B'")
            if settings.threads:
                connection.run(f"SET threads = {settings.threads}")
            yield DuckDBEngine(connection, work, Lock())
        finally:
            backend.disconnect()


class DuckDBEngine(Engine):
    """See `Engine`.

    Args:
        lock: guards the beginning of tables that several workers add to.
    """

    sql_errors = (duckdb.Error,)
    data_errors = (duckdb.Error,)

    def __init__(self, connection: DuckDBConnection, work: Path, lock: Lock) -> None:
        self._connection = connection
        self._work = work
        self._lock = lock

    def read_parquet(self, paths: Sequence[Path], filename: str | None = None) -> Table:
        """Scanned where they lie."""
        return self._connection.scan(paths, filename)

    def in_memory(self, table: pa.Table) -> Table:
        """Copied into the database. Ibis 12's own way drops a view as DuckDB 2 no longer does."""
        name = gen_name("table")
        self._connection.create(name, table)
        return self._connection.table(name)

    def computed(self, name: str, table: Table) -> Table:
        """A table in memory, of this worker."""
        query = self._connection.query(table)
        self._connection.run(f"CREATE OR REPLACE TABLE {name} AS {query}")
        return self.table(name)

    def added(self, name: str, table: Table) -> None:
        """A table in memory, of all workers."""
        query = self._connection.query(table)
        with self._lock:
            self._connection.run(f"CREATE TABLE IF NOT EXISTS main.{name} AS {query} LIMIT 0")
        self._connection.run(f"INSERT INTO main.{name} BY NAME {query}")

    def forget(self, *names: str) -> None:
        """Dropped."""
        for name in names:
            self._connection.run(f"DROP TABLE IF EXISTS {name}")

    def table(self, name: str) -> Table:
        """The worker's own, if it has one of that name."""
        return self._connection.table(name)

    def sorted_lists(
        self,
        name: str,
        table: Table,
        keys: Sequence[str],
        order: Sequence[str],
        names: Sequence[str],
        held: HeldCandidates | None = None,
    ) -> Table:
        """Sorted by DuckDB, and made into lists as the rows stream by."""
        rows = table.select(*dict.fromkeys([*keys, *order, *names]))
        types = rows.schema().to_pyarrow()
        schema = listed_schema(types, keys, names)
        sorted_rows = self._connection.batches(rows.order_by([*keys, *order]), LISTED_ROWS)
        lists = listed_batches((batch.cast(types) for batch in sorted_rows), schema, keys)
        if held:
            lists = held.kept(lists)
            schema = held.kept_schema(schema)
        reader = pa.RecordBatchReader.from_batches(schema, lists)
        self._connection.create(name, reader)
        return self.table(name)

    def merged(self, name: str, table: Table, keys: Sequence[str]) -> Table:
        """Only rows of groups in which some may be repeated are grouped."""
        rows = self.computed(name, table)
        hashed = rows.select(keys[0], hash=rows[keys[1]].hash())
        groups = repeated_groups(lambda: self._connection.batches(hashed, LISTED_ROWS))
        if not len(groups):
            return rows
        some = self.in_memory(pa.table({keys[0]: groups}))
        merged = least_of(rows.semi_join(some, keys[0]), keys)
        others = rows.anti_join(some, keys[0])
        return self.computed(name, ibis.union(others, merged.select(others.columns)))

    def stream(self, table: Table) -> Iterator[pa.RecordBatch]:
        """Computed as they are read, by a connection of their own."""
        order = table.op()
        if isinstance(order, Sort) and any(dtype.is_array() for dtype in table.schema().values()):
            yield from self._wide_sorted(order)
        else:
            yield from self._connection.batches(table, STREAM_ROWS)

    def rows_of(self, table: Table) -> list[dict[str, Any]]:
        """By way of Arrow."""
        return self._connection.rows_of(table)

    def with_condition(self, table: Table, name: str, condition: str) -> Table:
        """By way of a view."""
        condition = f"COALESCE(CAST(({condition}) AS BOOLEAN), FALSE)"
        query = f'SELECT *, {condition} AS "{name}" FROM ({self._connection.compiled(table)})'  # noqa: S608
        return self._connection.view(query)

    def num_user_parts(self, num_events: int) -> int:
        """By the memory limit in force; each worker gets a part where that is worth its while."""
        needed = num_events * BYTES_PER_EVENT / (LIST_SHARE * self._connection.memory_limit)
        workers = min(self._num_workers, num_events // EVENTS_PER_WORKER)
        return max(1, math.ceil(needed)) * max(1, workers)

    def each_part(self, num_parts: int, build: Callable[[Engine, IntegerValue], None]) -> None:
        """As many at a time as there are workers; after an error no further part is begun."""
        num_workers = min(num_parts, self._num_workers)
        if num_workers == 1:
            super().each_part(num_parts, build)
            return
        free: SimpleQueue[DuckDBEngine] = SimpleQueue()
        texts: dict[Node, str] = {}

        def build_one(part: int) -> None:
            worker = free.get()
            try:
                build(worker, worker._connection.variable("part", part))
            finally:
                free.put(worker)

        with ExitStack() as opened:
            opened.enter_context(self._connection.fewer_threads(num_workers - 1))
            for number in range(num_workers):
                free.put(opened.enter_context(self._worker_of(f"users_{number}", texts)))
            pool = opened.enter_context(ThreadPoolExecutor(num_workers, "users"))
            try:
                for done in as_completed([pool.submit(build_one, p) for p in range(num_parts)]):
                    done.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def can_hold(self, num_bytes: int) -> bool:
        """No more than a bucket."""
        return num_bytes <= BUCKET_SHARE * self._connection.memory_limit

    @contextmanager
    def beside(self) -> Generator[Engine]:
        """By a connection of its own."""
        with self._worker_of("beside") as worker:
            yield worker

    @contextmanager
    def _worker_of(
        self, name: str, texts: dict[Node, str] | None = None
    ) -> Generator["DuckDBEngine"]:
        """An engine on the same database, whose own tables have a schema of that name."""
        with self._connection.another(name, texts) as connection:
            yield DuckDBEngine(connection, self._work, self._lock)

    @property
    def _num_workers(self) -> int:
        return min(int(self._connection.setting("threads")), MAX_WORKERS)

    def _wide_sorted(self, order: Sort) -> Iterator[pa.RecordBatch]:
        """Rows with lists, in order: where they are many, a bucket at a time."""
        keys = {f"sort_key_{number}": key.arg.to_expr() for number, key in enumerate(order.keys)}
        keyed = order.parent.to_expr().mutate(**keys)
        most = BUCKET_SHARE * self._connection.memory_limit
        bounds = bucket_bounds(self, keyed, list(keys), most)
        if not bounds:
            yield from self._connection.batches(order.to_expr(), STREAM_ROWS)
            return
        folder = self._work / gen_name("sorted")
        batches = self._connection.batches(keyed, WIDE_ROWS)
        yield from sorted_batches(batches, list(keys), bounds, folder, WIDE_ROWS)
