"""The engine that evaluates the pipeline's Ibis expressions: DuckDB on one machine, or Spark.

    [engine] -> open_engine -> Engine: read Parquet, evaluate once, stream rows out

The expressions themselves name no engine and give the same rows on both. What is particular to one
is in `duckdb_engine` and `spark_engine`, which are imported only where they are chosen.
"""

import fcntl
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import ibis
import pyarrow as pa
from ibis.expr.types import IntegerValue, Table
from pydantic import Field, model_validator

from pipeline.errors import ConfigError, DataError
from pipeline.held_candidates import HeldCandidates
from pipeline.partitions import file_paths, read_manifest, remove_unpublished
from pipeline.settings import Settings

__all__ = ["DUCKDB", "Engine", "EngineSettings", "least_of", "open_engine", "read_published"]


class EngineSettings(Settings):
    """`[engine]`: where expressions are evaluated; the rows do not depend on it."""

    # In this process, or on a cluster.
    kind: Literal["duckdb", "spark"] = "duckdb"
    # DuckDB: memory it may use, "4GB" say; beyond it goes to disk. Unset: 80% of the machine's.
    memory_limit: str | None = Field(default=None, pattern=r"^[0-9]+(\.[0-9]+)?[KMG]B$")
    # DuckDB: threads; unset: one a core.
    threads: int | None = Field(default=None, ge=1)
    # Spark: configuration properties, "spark.master" first among them.
    spark: dict[str, str] = Field(default={})

    @model_validator(mode="after")
    def _of_one_kind(self) -> "EngineSettings":
        if self.kind == "duckdb" and self.spark:
            raise ValueError("engine.spark is for engine.kind = 'spark'")
        if self.kind == "spark" and (self.memory_limit or self.threads):
            raise ValueError(
                "engine.memory_limit and engine.threads are for engine.kind = 'duckdb'; "
                "give Spark its own under engine.spark (spark.driver.memory, say)"
            )
        return self


DUCKDB = EngineSettings()


class Engine(ABC):
    """What the pipeline asks of an engine. Tables are Ibis expressions bound to it."""

    sql_errors: ClassVar[tuple[type[Exception], ...]]
    """what a wrong SQL condition raises"""
    data_errors: ClassVar[tuple[type[Exception], ...]]
    """what a file raises whose data cannot be read"""

    @abstractmethod
    def read_parquet(self, paths: Sequence[Path], filename: str | None = None) -> Table:
        """Rows of the files, which have equal columns; `filename`: a column with their paths."""

    @abstractmethod
    def in_memory(self, table: pa.Table) -> Table:
        """A small Arrow table as an expression."""

    @abstractmethod
    def computed(self, name: str, table: Table) -> Table:
        """Evaluate `table` once, on disk, in place of what was computed under that name."""

    @abstractmethod
    def added(self, name: str, table: Table) -> None:
        """Evaluate `table`, and add it to what was added under that name since `forget`."""

    @abstractmethod
    def forget(self, *names: str) -> None:
        """Begin anew what is added under these names."""

    @abstractmethod
    def table(self, name: str) -> Table:
        """What was computed or added under that name."""

    def numbered(self, table: Table, name: str) -> Table:
        """`table` and a column of numbers, each row's own, int64; others at every evaluation."""
        return table.mutate(**{name: ibis.row_number()})

    def sorted_lists(
        self,
        name: str,
        table: Table,
        keys: Sequence[str],
        order: Sequence[str],
        names: Sequence[str],
        held: HeldCandidates | None = None,
    ) -> Table:
        """Evaluate once, under `name`: a row for each of `keys`, with a list of each of `names`.

        Values stand in the order of the columns `order`, by which no two rows of the same keys are
        equal. Keys have no nulls. Engines may have a faster way to the same. What is `held`, if the
        engine can hold it, has the lists, and the rows only say where in it they are.
        """
        assert held is None
        # Engines collect in any order, so structs are collected and sorted by their first fields.
        ordered_by = {f"order_{number}": table[column] for number, column in enumerate(order)}
        token = ibis.struct({**ordered_by, **{f"of_{name}": table[name] for name in names}})
        lists = table.group_by(*keys).agg(tokens=token.collect())
        lists = lists.mutate(tokens=lists.tokens.sort())
        columns = {name: lists.tokens.map(lambda t, name=name: t[f"of_{name}"]) for name in names}
        return self.computed(name, lists.select(*keys, **columns))

    def merged(self, name: str, table: Table, keys: Sequence[str]) -> Table:
        """Evaluate once, under `name`: a row for each of `keys`, with the least of all else.

        Keys are two, the first one a number, and have no nulls. Engines may have a faster way to
        the same.
        """
        return self.computed(name, least_of(table, keys))

    @abstractmethod
    def stream(self, table: Table) -> Iterator[pa.RecordBatch]:
        """The table's rows in its order, in bounded memory."""

    @abstractmethod
    def rows_of(self, table: Table) -> list[dict[str, Any]]:
        """A small result (counts) as plain Python values."""

    @abstractmethod
    def with_condition(self, table: Table, name: str, condition: str) -> Table:
        """`table` and a boolean column: where the SQL condition over its columns is true.

        The condition is in the engine's own SQL; it runs with the rights of who wrote the config.

        Raises:
            sql_errors: it is no condition on these columns.
        """

    @abstractmethod
    def num_user_parts(self, num_events: int) -> int:
        """Into how many parts to divide users, so that each fits into memory and all cores work."""

    def can_hold(self, num_bytes: int) -> bool:  # noqa: ARG002 (see below)
        """Whether so much may be held in this process, beside what the engine holds itself."""
        # An engine may well be a cluster, for what is too much for one machine.
        return False

    @contextmanager
    def beside(self) -> Generator["Engine"]:
        """The engine, with what was computed so far, for use by another thread."""
        yield self

    def each_part(self, num_parts: int, build: Callable[["Engine", IntegerValue], None]) -> None:
        """Call `build(engine, part)` for every part; engines may build several at a time.

        `part` is the part's number as a value for expressions. What a part adds to a table
        (`added`) is added to what other parts do; what else it computes is its own, whatever the
        name.
        """
        for part in range(num_parts):
            build(self, ibis.literal(part))


def least_of(table: Table, keys: Sequence[str]) -> Table:
    """A row for each of `keys`, with the least of every other column."""
    others = {name: table[name].min() for name in table.columns if name not in keys}
    return table.group_by(*keys).agg(**others)


def read_published(engine: Engine, folder: Path, schema: pa.Schema) -> Table:
    """Rows of a published folder, which may have none, and so no file; `schema` is then theirs.

    Raises:
        MissingDayError, HalfWrittenDayError, CorruptFileError: there is none, or it is not whole.
    """
    paths = file_paths(folder, read_manifest(folder))
    return engine.read_parquet(paths) if paths else engine.in_memory(schema.empty_table())


@contextmanager
def open_engine(root: Path, settings: EngineSettings = DUCKDB) -> Generator[Engine]:
    """An engine whose tables and spills live in ROOT/.work, which is removed in the end.

    Raises:
        DataError: another process is preparing the same root.
        ConfigError: Spark is asked for, but not there.
    """
    work = Path(root) / ".work"
    with _only_one(root):
        if work.exists():
            # A killed run left it, and perhaps files beside what it published.
            remove_unpublished(Path(root))
            shutil.rmtree(work)
        work.mkdir()
        try:
            with _opened(work, settings) as engine:
                yield engine
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _opened(work: Path, settings: EngineSettings) -> Generator[Engine]:
    if settings.kind == "duckdb":
        from pipeline.duckdb_engine import open_duckdb  # noqa: PLC0415 (only the one chosen)

        with open_duckdb(work, settings) as engine:
            yield engine
        return
    try:
        from pipeline.spark_engine import open_spark  # noqa: PLC0415 (needs pyspark and Java)
    except ImportError as error:
        raise ConfigError(f"engine.kind: 'spark' needs the package pyspark ({error})") from None
    with open_spark(work, settings) as engine:
        yield engine


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
