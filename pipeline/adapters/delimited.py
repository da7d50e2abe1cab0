"""Delimited text (CSV, TSV) as blocks of columns, all of them text.

    line_blocks -> lines whose quotes close -> pyarrow's parser -> Block

A line is malformed, and counted as one row, if it has too many or too few columns, a quote that
does not close, a carriage return in its middle or bytes that are no UTF-8. Empty lines are no rows.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from pipeline.adapters.dialect import Dialect
from pipeline.adapters.raw_files import BLOCK_BYTES, Block, line_blocks, utf8_texts
from pipeline.errors import CorruptFileError, SchemaError

__all__ = ["read_delimited"]


def read_delimited(
    path: Path, dialect: Dialect, columns: Mapping[str, str], optional: Sequence[str] = ()
) -> Iterator[Block]:
    """Read `columns` (contract name -> name in the file); an optional one may be absent.

    Raises:
        CorruptFileError: see `line_blocks`; with `newlines_in_values`, a quote out of place.
        SchemaError: the file has no such column, or has it twice.
    """
    blocks = line_blocks(path)
    names = list(dialect.column_names)
    if not names:
        names, blocks = _header(path, dialect, blocks)
    wanted = _positions(path, names, columns, optional)
    if dialect.newlines_in_values:
        yield from _parsed_stream(path, dialect, len(names), wanted, blocks)
    else:
        for block in blocks:
            yield _parsed_lines(dialect, len(names), wanted, block)


def _header(
    path: Path, dialect: Dialect, blocks: Iterator[bytes]
) -> tuple[list[str], Iterator[bytes]]:
    first = next(blocks)
    line, _, rest = first.partition(b"\n")
    quoting = csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE
    try:
        text = [line.decode().rstrip("\r")]
        reader = csv.reader(
            text, delimiter=dialect.delimiter, quotechar=dialect.quote or None, quoting=quoting
        )
        names = next(reader, [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorruptFileError(f"{path}: its first line is no header: {error}") from None

    def others() -> Iterator[bytes]:
        yield rest
        yield from blocks

    return names, others()


def _positions(
    path: Path, names: Sequence[str], columns: Mapping[str, str], optional: Sequence[str]
) -> dict[str, int | None]:
    """Contract name -> position in the line, None for an optional column that is not there."""
    positions: dict[str, int | None] = {}
    for name, theirs in columns.items():
        if names.count(theirs) > 1:
            raise SchemaError(f"{path}: column {theirs!r} is there {names.count(theirs)} times")
        if theirs not in names and name not in optional:
            raise SchemaError(
                f"{path}: no column {theirs!r}; the file has {', '.join(names)}; say under "
                f"ingest.columns.{name} which one is the {name}"
            )
        positions[name] = names.index(theirs) if theirs in names else None
    return positions


class _Rejects:
    """Counts the rows that the parser refuses."""

    def __init__(self, dialect: Dialect) -> None:
        self.num_rows = 0
        self.runaway: str | None = None
        """a row that ran over several lines because of a quote out of place"""
        self._sound = dialect.sound

    def __call__(self, row: arrow_csv.InvalidRow) -> str:
        self.num_rows += 1
        text = row.text.strip("\r\n")
        if "\n" in text and not self._sound.fullmatch(text.encode()):
            self.runaway = text
        return "skip"

    def taken(self) -> int:
        """Rows refused since this was last asked."""
        num_rows, self.num_rows = self.num_rows, 0
        return num_rows


def _parsed_lines(
    dialect: Dialect, num_columns: int, wanted: Mapping[str, int | None], block: bytes
) -> Block:
    block, num_unsound = _sound_lines(dialect, block)
    if not block.strip(b"\r\n"):
        empty = pa.table({name: pa.array([], pa.string()) for name in wanted})
        return Block(empty, num_unsound)
    rejects = _Rejects(dialect)
    options = _options(dialect, num_columns, wanted, rejects, len(block) + 1)
    table = arrow_csv.read_csv(pa.BufferReader(block), *options)
    return _as_text(table, wanted, num_unsound + rejects.taken())


def _sound_lines(dialect: Dialect, block: bytes) -> tuple[bytes, int]:
    """The block without lines on which a value does not end, and how many those were."""
    quote = dialect.quote.encode()
    has_quotes = bool(quote) and quote in block
    if not has_quotes and block.count(b"\r") == block.count(b"\r\n"):
        return block, 0
    block = block if block.endswith(b"\n") else block + b"\n"
    # One match takes all lines up to the next that is not sound.
    sound_lines = re.compile(b"(?:%b\n)*+" % dialect.sound.pattern)
    kept: list[bytes] = []
    start = num_unsound = 0
    while start < len(block):
        found = sound_lines.match(block, start)
        assert found is not None
        kept.append(found[0])
        start = found.end()
        if start < len(block):
            num_unsound += 1
            start = block.index(b"\n", start) + 1
    return b"".join(kept), num_unsound


def _parsed_stream(
    path: Path,
    dialect: Dialect,
    num_columns: int,
    wanted: Mapping[str, int | None],
    blocks: Iterable[bytes],
) -> Iterator[Block]:
    rejects = _Rejects(dialect)
    options = _options(dialect, num_columns, wanted, rejects, BLOCK_BYTES)
    try:
        with arrow_csv.open_csv(_Stream(blocks), *options) as reader:
            for batch in reader:
                _check_quotes(path, rejects)
                yield _as_text(pa.Table.from_batches([batch]), wanted, rejects.taken())
    except pa.ArrowInvalid as error:
        raise CorruptFileError(f"{path}: cannot be read as CSV: {error}") from None
    _check_quotes(path, rejects)
    if rejects.num_rows:
        empty = pa.table({name: pa.array([], pa.string()) for name in wanted})
        yield Block(empty, rejects.taken())


def _check_quotes(path: Path, rejects: _Rejects) -> None:
    if rejects.runaway is not None:
        raise CorruptFileError(
            f"{path}: a quote out of place, or one that never closes, in the row that starts with "
            f"{rejects.runaway[:80]!r}; correct it, or set ingest.newlines_in_values = false"
        )


class _Stream(io.RawIOBase):
    """Blocks of bytes as a file that can be read."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._rest = block
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _options(
    dialect: Dialect,
    num_columns: int,
    wanted: Mapping[str, int | None],
    rejects: _Rejects,
    block_bytes: int,
) -> tuple[arrow_csv.ReadOptions, arrow_csv.ParseOptions, arrow_csv.ConvertOptions]:
    # Columns go by their positions: names may be there twice where nobody asked for them.
    names = [str(position) for position in range(num_columns)]
    used = sorted({str(position) for position in wanted.values() if position is not None})
    return (
        arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=block_bytes),
        arrow_csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char=dialect.quote or False,
            newlines_in_values=dialect.newlines_in_values,
            invalid_row_handler=rejects,
        ),
        arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(used, pa.binary()), include_columns=used
        ),
    )


def _as_text(table: pa.Table, wanted: Mapping[str, int | None], num_malformed: int) -> Block:
    """The parsed bytes as text under the contract's names, without rows that are no UTF-8."""
    texts = {name: utf8_texts(table[name].combine_chunks()) for name in table.column_names}
    absent = pa.nulls(table.num_rows, pa.string())
    columns = {
        name: absent if position is None else texts[str(position)]
        for name, position in wanted.items()
    }
    unreadable = [text.is_null() for text in texts.values() if text.null_count]
    renamed = pa.table(columns)
    if unreadable:
        renamed = renamed.filter(pc.invert(reduce(pc.or_, unreadable)))
    return Block(renamed, num_malformed + table.num_rows - renamed.num_rows)
