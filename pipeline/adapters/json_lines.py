"""JSON lines as blocks of columns, all of them text.

    line_blocks -> DuckDB's JSON functions -> Block

A line is malformed if it is no JSON object, or no UTF-8. Empty lines are no rows, and an absent
key is null. Numbers become text as they stand; lists and objects become their JSON.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.adapters.raw_files import Block, line_blocks, utf8_texts
from pipeline.adapters.sql import sql_name, sql_text

__all__ = ["read_json_lines"]

Repair = Callable[[str], str | None]


def read_json_lines(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    columns: Mapping[str, str],
    repair: Repair | None = None,
) -> Iterator[Block]:
    """Read `columns`: contract name -> key, or a JSON pointer (`/user/id`) into each line.

    `repair` is given each line that is no JSON, and returns it as JSON or None.

    Raises:
        CorruptFileError: see `line_blocks`.
    """
    query = _query(columns)
    for block in line_blocks(path):
        lines = [line for line in block.split(b"\n") if not line.isspace() and line]
        texts = utf8_texts(pa.array(lines, pa.binary()))
        if repair is not None:
            texts = _repaired(connection, texts, repair)
        with connection.cursor() as cursor:
            cursor.register("lines", pa.table({"line": texts}))
            table = cursor.sql(query).to_arrow_table()
        yield Block(table, len(lines) - table.num_rows)


def _query(columns: Mapping[str, str]) -> str:
    # The cast is reached by valid JSON only: on other text it would fail.
    record = "CASE WHEN json_valid(line) THEN CAST(line AS JSON) END AS record"
    values = ", ".join(
        f"json_extract_string(record, {sql_text(_pointer(theirs))}) AS {sql_name(name)}"
        for name, theirs in columns.items()
    )
    return f"SELECT {values} FROM (SELECT {record} FROM lines) WHERE json_type(record) = 'OBJECT'"  # noqa: S608


def _pointer(theirs: str) -> str:
    if theirs.startswith("/"):
        return theirs
    return "/" + theirs.replace("~", "~0").replace("/", "~1")


def _repaired(connection: duckdb.DuckDBPyConnection, texts: pa.Array, repair: Repair) -> pa.Array:
    with connection.cursor() as cursor:
        cursor.register("lines", pa.table({"line": texts}))
        query = "SELECT coalesce(json_valid(line), true) AS valid FROM lines"
        valid = cursor.sql(query).to_arrow_table()["valid"].to_pylist()
    if all(valid):
        return texts
    pairs = zip(texts.to_pylist(), valid, strict=True)
    return pa.array([text if good else repair(text) for text, good in pairs], pa.string())
