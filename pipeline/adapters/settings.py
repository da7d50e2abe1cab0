"""What a user says about files that are no day-partitioned Parquet yet: `[ingest]`.

`ingest` reads them by these settings and writes what `[source]` then points to. A format that is
known as a whole (`taobao`, say) takes few settings, a generic one (`csv`) takes many.
"""

from collections.abc import Iterator
from datetime import date
from typing import Literal, get_args

from pydantic import Field, model_validator

from pipeline.settings import Settings

__all__ = ["IngestSettings"]

Format = Literal[
    "csv", "jsonl", "parquet", "amazon_reviews", "taobao", "movielens", "complete_journey"
]

ALL_FORMATS = get_args(Format)
GENERIC = ("csv", "jsonl", "parquet")
FETCHED = ("movielens", "complete_journey")
RATED = ("amazon_reviews", "movielens")
# Setting -> the formats that it means something to.
FORMATS_OF = {
    "format": ALL_FORMATS,
    "files": ALL_FORMATS,
    "first_day": ALL_FORMATS,
    "last_day": ALL_FORMATS,
    "columns": GENERIC,
    "action": (*GENERIC, *RATED),
    "actions": (*GENERIC, "taobao"),
    "time_unit": GENERIC,
    "time_format": GENERIC,
    "delimiter": ("csv",),
    "quote": ("csv",),
    "header": ("csv",),
    "column_names": ("csv",),
    "newlines_in_values": ("csv",),
    "metadata": ("amazon_reviews",),
    "min_rating": RATED,
}


class IngestSettings(Settings):
    """Raw files, and how their rows become events: `[ingest]`."""

    # What the files are (docs/adapters.md).
    format: Format
    # Paths or globs. Formats that a package on PyPI has are fetched where none are given.
    files: tuple[str, ...] = ()
    # Contract name -> their name: of a column, or in JSON lines of a key or a /pointer/to/one.
    columns: dict[str, str] = Field(default={})
    # The action of every event, where the files do not say.
    action: str | None = None
    # Their action -> ours. Others are set aside.
    actions: dict[str, str] = Field(default={})
    # For times that are numbers: what they count since 1970. Otherwise times are ISO 8601 or
    # have a `time_format`.
    time_unit: Literal["s", "ms", "us"] | None = None
    # Of times that are texts, in strptime's letters, "%d/%m/%Y %H:%M" say. No zone is UTC, and
    # so are days.
    time_format: str | None = None
    # Events of days before it are set aside.
    first_day: date | None = None
    # Events of days after it are set aside.
    last_day: date | None = None
    # One character of ASCII, as is `quote`.
    delimiter: str = Field(default=",", pattern=r"^[\x00-\x09\x0b\x0c\x0e-\x7f]$")
    # "" where no character quotes.
    quote: str = Field(default='"', pattern=r"^[\x00-\x09\x0b\x0c\x0e-\x7f]?$")
    # Whether the first line of each file names the columns; if not, `column_names` does.
    header: bool = True
    # The columns' names in order, where no line has them.
    column_names: tuple[str, ...] = ()
    # Whether quoted values may run over several lines.
    newlines_in_values: bool = False
    # Files that describe the items.
    metadata: tuple[str, ...] = ()
    # Lower ratings are set aside.
    min_rating: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _consistent(self) -> "IngestSettings":
        problem = next(self._problems(), None)
        if problem is not None:
            raise ValueError(f"ingest.{problem}")
        return self

    def _problems(self) -> Iterator[str]:
        for name in sorted(self.model_fields_set):
            if self.format not in FORMATS_OF[name]:
                known = [other for other, formats in FORMATS_OF.items() if self.format in formats]
                yield (
                    f"{name}: says nothing about format = {self.format!r}; its settings: "
                    + ", ".join(known)
                )
        if not self.files and self.format not in FETCHED:
            yield f"files: name the files to read; format {self.format!r} does not fetch any"
        if self.action is not None and (self.actions or "action" in self.columns):
            yield "action: is for files without actions; ingest.actions or .columns names theirs"
        if self.time_unit is not None and self.time_format is not None:
            yield "time_format: is for texts, ingest.time_unit for numbers; choose one"
        if self.first_day and self.last_day and self.first_day > self.last_day:
            yield f"first_day: {self.first_day} is after ingest.last_day = {self.last_day}"
        if self.header == bool(self.column_names):
            yield "column_names: required where ingest.header is false, and only there"
        if len(set(self.column_names)) < len(self.column_names):
            yield "column_names: a name is there twice"
        if self.delimiter == self.quote:
            yield "quote: is the delimiter too"
