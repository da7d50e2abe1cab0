"""Spark as the pipeline's engine: local mode, or a cluster by `engine.spark."spark.master"`.

The work folder and the data root must be visible to all executors under the same path. What is
evaluated once lies there as Parquet, which also keeps query plans short. Published files are
written by the driver, from Parquet that the executors wrote in order, as on one machine.
"""

import re
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.pyspark import Backend
from ibis.expr.types import Table
from ibis.util import gen_name
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.engine import Engine, EngineSettings
from pipeline.errors import ConfigError

__all__ = ["SparkEngine", "open_spark"]

STREAM_ROWS = 8192
# Unless the config says otherwise.
DEFAULTS = {
    "spark.master": "local[*]",
    "spark.app.name": "frostrank prepare",
    "spark.ui.enabled": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
# What results depend on; the config cannot change these.
FIXED = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "false",
    "spark.sql.ansi.enabled": "true",
}


@contextmanager
def open_spark(work: Path, settings: EngineSettings) -> Generator["SparkEngine"]:
    """An engine on a session of its own, which is stopped in the end."""
    builder = SparkSession.builder
    warehouse = {"spark.sql.warehouse.dir": str(work / "warehouse")}
    for name, value in (DEFAULTS | warehouse | settings.spark | FIXED).items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except (PySparkException, Py4JJavaError) as error:
        raise _not_started(error) from None
    try:
        yield SparkEngine(session, work)
    finally:
        session.stop()


def _not_started(error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0]
    if isinstance(error, Py4JJavaError):
        reason = str(error.java_exception.getMessage())
    return ConfigError(
        f"engine.kind: 'spark' did not start ({reason}); it needs Java 17 or 21, on the PATH or by "
        "JAVA_HOME, and settings under engine.spark that Spark takes"
    )


class SparkEngine(Engine):
    """See `Engine`."""

    sql_errors = (PySparkException,)
    data_errors = (PySparkException, Py4JJavaError)

    def __init__(self, session: SparkSession, work: Path) -> None:
        self._session = session
        self._work = work
        self._connection: Backend = ibis.pyspark.connect(session)
        self._folders: dict[str, Path] = {}
        self._tables: dict[str, Table] = {}

    def read_parquet(self, paths: Sequence[Path], filename: str | None = None) -> Table:
        """As a view; nothing is read yet but a footer."""
        frame = self._session.read.parquet(*map(_uri, paths))
        if filename is not None:
            # Names come as in URLs, but for a plus, which stands for itself.
            name = F.regexp_replace(F.input_file_name(), r"\+", "%2B")
            frame = frame.withColumn(filename, F.url_decode(name))
        return self._view(frame)

    def in_memory(self, table: pa.Table) -> Table:
        """By way of a file, which keeps the types as they are."""
        folder = self._work / gen_name("given")
        folder.mkdir()
        pq.write_table(table, folder / "part-0.parquet")
        return self.read_parquet([folder])

    def computed(self, name: str, table: Table) -> Table:
        """Parquet under the work folder, a new folder each time: the old one may still be read."""
        self.forget(name)
        self.added(name, table)
        return self._tables[name]

    def added(self, name: str, table: Table) -> None:
        """More files in the folder."""
        folder = self._folders.setdefault(name, self._work / gen_name(name))
        frame = self._frame(table)
        frame.write.mode("append").parquet(_uri(folder))
        # The schema is known, so no footer is read; what files there are is seen now.
        self._tables[name] = self._view(
            self._session.read.schema(frame.schema).parquet(_uri(folder))
        )

    def forget(self, *names: str) -> None:
        """The next ones get a folder of their own."""
        for name in names:
            self._folders.pop(name, None)

    def table(self, name: str) -> Table:
        """Read from its folder."""
        return self._tables[name]

    def numbered(self, table: Table, name: str) -> Table:
        """By partition: counting through all rows would take them to one executor."""
        return self._view(self._frame(table).withColumn(name, F.monotonically_increasing_id()))

    def stream(self, table: Table) -> Iterator[pa.RecordBatch]:
        """Written by the executors, read file after file in the order of their partitions."""
        folder = self._work / gen_name("streamed")
        self._frame(table).write.parquet(_uri(folder))
        try:
            for path in sorted(folder.glob("part-*.parquet")):
                with pq.ParquetFile(path) as file:
                    yield from file.iter_batches(STREAM_ROWS)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def rows_of(self, table: Table) -> list[dict[str, Any]]:
        """By way of Arrow."""
        return self._frame(table).toArrow().to_pylist()

    def with_condition(self, table: Table, name: str, condition: str) -> Table:
        """Spark SQL."""
        frame = self._frame(table)
        true = F.coalesce(F.expr(condition).cast("boolean"), F.lit(False))
        return self._view(frame.withColumn(name, true))

    def num_user_parts(self, num_events: int) -> int:  # noqa: ARG002 (see below)
        """One: Spark divides by itself, and spills."""
        return 1

    def _frame(self, table: Table) -> DataFrame:
        """What the expression says, also in its types: Spark numbers rows in 32 bits, say."""
        frame = self._session.sql(self._connection.compile(table))
        kinds = {8: "tinyint", 16: "smallint", 32: "int", 64: "bigint"}
        numbers = {
            name: F.col(name).cast(kinds[dtype.nbytes * 8])
            for name, dtype in table.schema().items()
            if dtype.is_integer()
        }
        return frame.withColumns(numbers)

    def _view(self, frame: DataFrame) -> Table:
        name = gen_name("view")
        frame.createOrReplaceTempView(name)
        table = self._connection.table(name)
        # Spark's times are microseconds and do not say so, which unions insist on.
        times = {n: "timestamp(6)" for n, dtype in table.schema().items() if dtype.is_timestamp()}
        return table.cast(times) if times else table


def _uri(path: Path) -> str:
    """With a scheme, as clusters have their own default, and what would be patterns escaped."""
    return "file://" + re.sub(r"([\[\]{}*?\\])", r"\\\1", str(path.resolve()))
