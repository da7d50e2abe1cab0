"""How a delimited text separates its values, and what a row of it looks like."""

import re
from dataclasses import dataclass

__all__ = ["Dialect"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How the text separates values."""

    delimiter: str
    quote: str
    """"" where no character quotes"""
    newlines_in_values: bool = False
    column_names: tuple[str, ...] = ()
    """names of all columns; none where the first line has them"""

    @property
    def sound(self) -> re.Pattern[bytes]:
        """What a row looks like whose quotes all close, without its line feed."""
        quote, delimiter = re.escape(self.quote.encode()), re.escape(self.delimiter.encode())
        inside = b"" if self.newlines_in_values else rb"\r\n"
        quoted = rb"%b(?:[^%b%b]|%b%b)*+%b" % (quote, quote, inside, quote, quote, quote)
        value = rb"(?:%b|(?!%b)[^%b\r\n]*+)" % (quoted, quote, delimiter)
        if not quote:
            value = rb"[^%b\r\n]*+" % delimiter
        return re.compile(rb"%b(?:%b%b)*+\r?" % (value, delimiter, value))
