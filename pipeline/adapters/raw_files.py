"""Raw files as they lie on a disk: found by their names, and text files read in blocks of lines.

First step of every adapter. Whatever is wrong with a file as a file is an error that names it:
missing, empty, a gzip that ends too soon, no UTF-8 text at all.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipeline.errors import CorruptFileError, DataError

__all__ = ["Block", "find_files", "line_blocks", "utf8_texts"]

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 64 << 20
GZIP = b"\x1f\x8b"
WILDCARDS = ("*", "?", "[")
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of one file, in columns of the contract's names."""

    table: pa.Table
    num_malformed: int = 0
    """rows beside those of the table that could not be read at all"""

    @property
    def num_rows(self) -> int:
        """Rows of the file that this block is about."""
        return self.table.num_rows + self.num_malformed


def find_files(patterns: Sequence[str], setting: str) -> tuple[Path, ...]:
    """The files that paths and globs name, each once; those of a glob in name order.

    Raises:
        DataError: a path or glob names nothing, or a folder.
        CorruptFileError: a file has no bytes.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = _matches(pattern)
        if not paths:
            raise DataError(f"{pattern}: no such file; bring it, or correct {setting}")
        for path in paths:
            if not path.is_file():
                raise DataError(f"{path}: no file; {setting} names files, or globs of files")
            if not path.stat().st_size:
                raise CorruptFileError(f"{path}: has no bytes; bring it again")
            found[path] = None
    return tuple(found)


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern)
    if not any(mark in pattern for mark in WILDCARDS):
        return [path] if path.exists() else []
    start = Path(path.anchor)
    return sorted(start.glob(str(path.relative_to(start))))


def line_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a text file, unpacked if it is a gzip, in blocks that end where lines end.

    A byte order mark is left out. The last line of the last block may lack its line feed.

    Raises:
        CorruptFileError: a gzip that is truncated or none; UTF-16; no lines at all.
    """
    rest = b""
    for number, block in enumerate(_blocks(path)):
        if number == 0 and block.startswith(WIDE):
            raise CorruptFileError(f"{path}: UTF-16 text; write it as UTF-8")
        text = block.removeprefix(codecs.BOM_UTF8) if number == 0 else block
        lines, feed, tail = text.rpartition(b"\n")
        if feed:
            yield rest + lines + feed
            rest = tail
        else:
            rest += tail
        if len(rest) > MAX_LINE_BYTES:
            raise CorruptFileError(
                f"{path}: a line of more than {MAX_LINE_BYTES >> 20} MiB; is it a text file?"
            )
    if rest:
        yield rest


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with ExitStack() as stack:
            file: BinaryIO | gzip.GzipFile = stack.enter_context(path.open("rb"))
            packed = file.read(len(GZIP)) == GZIP
            file.seek(0)
            if packed or path.suffix == ".gz":
                file = stack.enter_context(gzip.open(file))
            num_bytes = 0
            while block := file.read(BLOCK_BYTES):
                num_bytes += len(block)
                yield block
    except (EOFError, OSError, zlib.error) as error:
        raise CorruptFileError(f"{path}: cannot be read ({error}); bring it again") from None
    if not num_bytes:
        raise CorruptFileError(f"{path}: a gzip of no bytes; bring it again")


def utf8_texts(values: pa.Array) -> pa.Array:
    """Bytes as text; null where they are no UTF-8."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_utf8_text(value) for value in values.to_pylist()], pa.string())


def _utf8_text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
