"""Values, names and times as they stand in the SQL that adapters give to DuckDB."""

import pyarrow as pa

__all__ = ["sql_actions", "sql_missing", "sql_name", "sql_text", "sql_time"]

UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
# 0001-01-01 and 9999-12-31T23:59:59: what has a day in every language.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_000_000
# Text that DuckDB takes for a number, it reads in more ways than these.
NUMBER = r"[-+]?[0-9]{1,18}(\.[0-9]*)?([eE][-+]?[0-9]{1,2})?"


def sql_text(text: str) -> str:
    """A text as it stands in SQL."""
    return "'" + text.replace("'", "''") + "'"


def sql_name(name: str) -> str:
    """A column's name as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'


def sql_actions(column: str, actions: dict[str, str]) -> str:
    """Our action for theirs; null for one that nobody named."""
    cases = " ".join(
        f"WHEN {sql_text(theirs)} THEN {sql_text(ours)}" for theirs, ours in actions.items()
    )
    return f"CASE CAST({column} AS VARCHAR) {cases} END"


def sql_missing(column: str, dtype: pa.DataType) -> str:
    """Where a column has no value; blank text is none."""
    return f"nullif(trim({column}), '') IS NULL" if _is_text(dtype) else f"{column} IS NULL"


def sql_time(column: str, dtype: pa.DataType, unit: str | None, time_format: str | None) -> str:
    """UTC time, in microseconds and without zone, of a text, number, time or date.

    Null where it is none, or none of the years 1 to 9999.
    """
    text = _is_text(dtype)
    if unit is not None and not pa.types.is_temporal(dtype):
        return _time_of_number(_number_of_text(column) if text else column, unit)
    if text and time_format is not None:
        time = f"try_strptime(trim({column}), {sql_text(time_format)})"
    elif text:
        time = f"TRY_CAST(trim({column}) AS TIMESTAMPTZ)"
    else:
        time = column
    time = f"CAST({time} AS TIMESTAMP)"
    first, last = (f"make_timestamp({microseconds})" for microseconds in (FIRST_US, LAST_US))
    return f"CASE WHEN {time} BETWEEN {first} AND {last} THEN {time} END"


def _number_of_text(column: str) -> str:
    trimmed = f"trim({column})"
    return f"CASE WHEN regexp_full_match({trimmed}, '{NUMBER}') THEN {trimmed} END"


def _time_of_number(column: str, unit: str) -> str:
    # A float64 has whole microseconds up to the year 2255.
    microseconds = f"round(TRY_CAST({column} AS DOUBLE) * {UNIT_US[unit]})"
    bounded = f"CASE WHEN {microseconds} BETWEEN {FIRST_US} AND {LAST_US} THEN {microseconds} END"
    return f"make_timestamp(CAST({bounded} AS BIGINT))"


def _is_text(dtype: pa.DataType) -> bool:
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype)
