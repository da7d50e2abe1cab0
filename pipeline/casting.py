"""Raw columns as the contract's types, as Ibis expressions: a value, or null and a reason.

Used by `events`. Every function takes a raw column of whatever type the file has and returns its
value in the contract's type, together with the condition under which it could not be read. A
column's type as a whole is judged first, from the file's footer, by `is_readable`.
"""

from typing import Literal

import ibis
import pyarrow as pa
from ibis.expr.types import BooleanValue, Column, FloatingValue, StringValue, Value

__all__ = ["Kind", "int64_value", "is_readable", "string_value", "time_value", "typed_value"]

Kind = Literal["int64", "string", "time"]

TIME = "timestamp(6)"
UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
# 9999-12-31T23:59:59Z: beyond it times are clamped, so that no engine overflows. They are in the
# future either way.
LAST_SECOND = 253_402_300_799
# From here on a float64 cannot hold every int64.
MAX_FLOAT_INT = 2.0**53


def is_readable(dtype: pa.DataType, kind: Kind) -> bool:
    """Whether a file's column of this type can be read as a column of the contract."""
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    text = pa.types.is_string(dtype) or pa.types.is_large_string(dtype)
    number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype)
    if text or number or pa.types.is_null(dtype):
        return True
    if kind == "time":
        return pa.types.is_timestamp(dtype) or pa.types.is_date(dtype)
    if kind == "string" and pa.types.is_boolean(dtype):
        return True
    return pa.types.is_decimal(dtype)


def typed_value(column: Column, kind: Literal["int64", "string"]) -> tuple[Value, BooleanValue]:
    """The column in a feature's declared type, and where a value that is there is none."""
    return int64_value(column) if kind == "int64" else string_value(column)


def string_value(column: Column) -> tuple[Value, BooleanValue]:
    """Text; empty text is null. Whole numbers are written without a fraction: 17850.0 is 17850.

    A number with a fraction is no name: how engines spell it differs.
    """
    dtype = column.type()
    if dtype.is_string():
        return column.nullif(""), ibis.literal(False)
    if dtype.is_boolean():
        return ibis.ifelse(column, "true", "false"), ibis.literal(False)
    number, wrong = int64_value(column)
    return number.cast("string"), wrong


def int64_value(column: Column) -> tuple[Value, BooleanValue]:
    """A whole number, also from floats and text that hold one ("17850", 17850.0, "17850.0")."""
    dtype = column.type()
    if dtype.is_integer():
        value = column.try_cast("int64")
        return value, column.notnull() & value.isnull()
    if dtype.is_string():
        present = column.strip().nullif("")
        value = _int_of_text(present)
        return value, present.notnull() & value.isnull()
    present = _without_nan(column.cast("float64"))
    whole = (present == present.floor()) & (present.abs() <= MAX_FLOAT_INT)
    value = ibis.ifelse(whole, present, ibis.null("float64")).cast("int64")
    return value, present.notnull() & value.isnull()


def _without_nan(number: FloatingValue) -> FloatingValue:
    """Null in place of NaN, which is how pandas writes null.

    Not `nullif`: DuckDB decides comparisons by a file's minimum and maximum, which leave out NaN.
    """
    return ibis.ifelse(number.isnan(), ibis.null("float64"), number)


def _int_of_text(text: StringValue) -> Value:
    digits = text.re_replace(r"\.0+$", "")
    # Engines disagree on what else they take for a number, so only digits pass.
    return ibis.ifelse(
        digits.re_search(r"^[-+]?[0-9]{1,19}$"), digits, ibis.null("string")
    ).try_cast("int64")


def time_value(column: Column, unit: str) -> tuple[Value, BooleanValue]:
    """UTC time without zone, in microseconds, and where a text that is there is no time.

    Numbers count `unit`s since 1970. Time stamps and texts without a zone are UTC.
    """
    dtype = column.type()
    if dtype.is_string():
        present = column.strip().nullif("")
        value = present.try_cast("timestamp('UTC')").cast(TIME)
        return value, present.notnull() & value.isnull()
    if dtype.is_integer() or dtype.is_floating():
        return _time_of_number(column, unit), ibis.literal(False)
    return column.cast(TIME), ibis.literal(False)


def _time_of_number(column: Column, unit: str) -> Value:
    scale = UNIT_US[unit]
    last = LAST_SECOND * (1_000_000 // scale)
    if column.type().is_floating():
        present = _without_nan(column.cast("float64"))
        number = (present.clip(0, last) * scale).round().cast("int64")
    else:
        number = column.clip(0, last).cast("int64") * scale
    return (ibis.timestamp("1970-01-01 00:00:00") + number.as_interval("us")).cast(TIME)
