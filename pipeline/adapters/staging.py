"""All rows of all files on their way to days: typed, judged, and in the order of days.

    blocks of an adapter -> `Staging.add` -> one DuckDB table -> `Staging.stream`

The table spills to disk what memory does not hold. A row that cannot go to a day, or was not asked
for, has a reason, the first of these that applies:

    null_event_time    no time
    unparsable_time    a time that is none, or none of the years 1 to 9999
    out_of_range       before ingest.first_day or after ingest.last_day
    unknown_action     none of ingest.actions
    unparsable_rating  ingest.min_rating is set, and the rating is no number
    below_min_rating   lower than that

Whatever else may be wrong with a row is for `prepare` to find, as with anybody's events.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import date

import duckdb
import pyarrow as pa

from pipeline.adapters.raw_files import Block
from pipeline.adapters.settings import IngestSettings
from pipeline.adapters.sql import sql_actions, sql_missing, sql_name, sql_text, sql_time
from pipeline.errors import ConfigError

__all__ = ["RATING", "Staging"]

MALFORMED = "malformed_line"
# The rating that `ingest.min_rating` looks at; no feature can have this name.
RATING = "_rating"
STREAM_ROWS = 8192
# The first of the columns by which a day's rows are ordered; all others follow.
ORDER = ("event_time", "request_id", "item_id")
# The contract's columns come first, as far as there are any.
CONTRACT = ("user_id", "item_id", "event_time", "action", "request_id")


class Staging:
    """The table of rows, and the table that describes their items, of one ingest."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, settings: IngestSettings) -> None:
        self._connection, self._settings = connection, settings
        self._malformed: Counter[int] = Counter()
        self._malformed_items: Counter[int] = Counter()
        self._has_items = False

    def add(self, file: int, block: Block) -> None:
        """Take a block of file number `file`.

        Raises:
            ConfigError: the settings' way of reading times does not fit the column.
        """
        self._malformed[file] += block.num_malformed
        query = self._judged(block.table.schema, file)
        try:
            self._insert("staged", block.table, query)
        except duckdb.InvalidInputException as error:
            if self._settings.time_format is None:
                raise
            raise ConfigError(
                f"ingest.time_format: {self._settings.time_format!r} cannot be used: "
                f'{str(error).splitlines()[0]}; write one such as "%d/%m/%Y %H:%M"'
            ) from None

    def add_items(self, file: int, block: Block) -> None:
        """Take rows that describe items, `item_id` among their columns; an item's first counts."""
        self._malformed_items[file] += block.num_malformed
        self._insert("described", block.table, f"SELECT *, {file} AS _file FROM block")  # noqa: S608
        self._has_items = True

    def _insert(self, name: str, table: pa.Table, query: str) -> None:
        self._connection.register("block", table)
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {name} AS {query} LIMIT 0")
        self._connection.execute(f"INSERT INTO {name} BY NAME {query}")
        self._connection.unregister("block")

    def _judged(self, schema: pa.Schema, file: int) -> str:
        """SQL of a block's rows with their day, their file and their reason."""
        settings = self._settings
        dtype = schema.field("event_time").type
        is_number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype)
        if settings.time_unit is None and (is_number or pa.types.is_decimal(dtype)):
            raise ConfigError(
                f"ingest.time_unit: the times are numbers ({dtype}); say what they count since "
                "1970: 's', 'ms' or 'us'"
            )
        time = sql_time("block.event_time", dtype, settings.time_unit, settings.time_format)
        values = {name: f"block.{sql_name(name)}" for name in schema.names}
        values |= {"event_time": time, "action": self._action()}
        values["_no_time"] = sql_missing("block.event_time", dtype)
        if settings.min_rating is not None:
            values[RATING] = f"TRY_CAST(trim(block.{RATING}) AS DOUBLE)"
        typed = ", ".join(f"{value} AS {sql_name(name)}" for name, value in values.items())
        dropped = ", ".join(name for name in ("_no_time", RATING) if name in values)
        return (
            f"SELECT * EXCLUDE ({dropped}), CAST(event_time AS DATE) AS day, {file} AS _file, "  # noqa: S608
            f"{self._reason()} AS _reason FROM (SELECT {typed} FROM block)"
        )

    def _action(self) -> str:
        if self._settings.actions:
            return sql_actions("block.action", self._settings.actions)
        if self._settings.action is not None:
            return sql_text(self._settings.action)
        return "CAST(block.action AS VARCHAR)"

    def _reason(self) -> str:
        settings = self._settings
        cases = [("_no_time", "null_event_time"), ("event_time IS NULL", "unparsable_time")]
        day = "CAST(event_time AS DATE)"
        if settings.first_day is not None:
            cases.append((f"{day} < DATE '{settings.first_day}'", "out_of_range"))
        if settings.last_day is not None:
            cases.append((f"{day} > DATE '{settings.last_day}'", "out_of_range"))
        if settings.actions:
            cases.append(("action IS NULL", "unknown_action"))
        if settings.min_rating is not None:
            cases.append((f"{RATING} IS NULL OR isnan({RATING})", "unparsable_rating"))
            cases.append((f"{RATING} < {settings.min_rating!r}", "below_min_rating"))
        return "CASE " + " ".join(f"WHEN {when} THEN '{then}'" for when, then in cases) + " END"

    def set_aside(self) -> dict[int, dict[str, int]]:
        """Rows of each file that go to no day, by reason."""
        query = "SELECT _file, _reason, count(*) FROM staged WHERE _reason IS NOT NULL"
        return self._by_file(self._malformed, query)

    def items_set_aside(self) -> dict[int, dict[str, int]]:
        """Rows of each file that describe no item, or one that was described before."""
        if not self._has_items:
            return {}
        # Which row is an item's first does not depend on the engine: rows keep their order.
        self._connection.execute(
            "CREATE TABLE items AS SELECT *, CASE WHEN item_id IS NULL THEN 'null_item_id' "
            "WHEN row_number() OVER (PARTITION BY item_id ORDER BY rowid) > 1 THEN 'duplicate' "
            "END AS _item_reason FROM described"
        )
        query = "SELECT _file, _item_reason, count(*) FROM items WHERE _item_reason IS NOT NULL"
        return self._by_file(self._malformed_items, query)

    def _by_file(self, malformed: Counter[int], query: str) -> dict[int, dict[str, int]]:
        found = {file: {MALFORMED: rows} for file, rows in malformed.items() if rows}
        for file, reason, rows in self._connection.sql(
            f"{query} GROUP BY ALL ORDER BY ALL"
        ).fetchall():
            found.setdefault(file, {})[reason] = rows
        return found

    def days(self) -> dict[date, int]:
        """The days that rows go to, and how many, in order."""
        query = "SELECT day, count(*) FROM staged WHERE _reason IS NULL GROUP BY ALL ORDER BY ALL"
        return dict(self._connection.execute(query).fetchall())

    def empty_columns(self, names: Sequence[str]) -> list[str]:
        """Those of the columns in which no row has a value."""
        counts = ", ".join(f"count({sql_name(name)})" for name in names)
        query = f"SELECT {counts} FROM staged"  # noqa: S608
        found = self._connection.execute(query).fetchall()[0] if names else ()
        return [name for name, num_values in zip(names, found, strict=True) if not num_values]

    def undescribed_rows(self) -> int:
        """Rows that go to a day although nothing describes their item."""
        if not self._has_items:
            return 0
        query = "SELECT count(*) FROM staged ANTI JOIN items USING (item_id) WHERE _reason IS NULL"
        return self._connection.execute(query).fetchall()[0][0]

    def stream(self) -> pa.RecordBatchReader:
        """The rows that go to days, described, in the order of days, and their `day`."""
        rows = "staged"
        if self._has_items:
            items = "SELECT * EXCLUDE (_file, _item_reason) FROM items WHERE _item_reason IS NULL"
            rows = f"staged LEFT JOIN ({items}) USING (item_id)"
        names = self._connection.sql(f"SELECT * EXCLUDE (day, _file, _reason) FROM {rows}").columns  # noqa: S608
        columns, order = _list(names, CONTRACT), _list(names, ORDER)
        query = f"SELECT day, {columns} FROM {rows} WHERE _reason IS NULL ORDER BY day, {order}"  # noqa: S608
        return self._connection.sql(query).to_arrow_reader(STREAM_ROWS)


def _list(names: Sequence[str], first: Sequence[str]) -> str:
    """All names as SQL lists them, those of `first` first."""
    known = [name for name in first if name in names]
    return ", ".join(sql_name(name) for name in dict.fromkeys([*known, *names]))
