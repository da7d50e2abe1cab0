"""The data contracts: which columns events, sequences and requests have, and of which type.

    events/day=D/      one row an event                 what the user brings
    sequences/day=D/   one row a subsequence of clicks   what pretraining reads
    requests/day=D/    one row a request                 what ranking reads

Ids in sequences and requests are rows of embedding tables; row 0 is "unknown". Which features
exist is the user's schema, declared under `[[features]]` in the config: role "item" for what
describes an item (the first one is always `item_id`), role "context" for what describes a
request. `docs/contracts.md` shows one example of each file.
"""

from collections.abc import Sequence
from datetime import date
from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.errors import ConfigError
from pipeline.settings import Settings

__all__ = [
    "UNKNOWN_ROW",
    "DaySettings",
    "FeatureSettings",
    "check_features",
    "context_features",
    "item_features",
    "requests_schema",
    "sequences_schema",
]

UNKNOWN_ROW = 0

TIME = pa.timestamp("us", tz="UTC")
ROWS = pa.list_(pa.int64())

RESERVED_NAMES = ("user_id", "event_time", "action", "request_id", "request_time", "day", "count")
RESERVED_PREFIXES = ("history_", "candidate_", "label_")
# Columns that `prepare` adds to events and items on the way; a feature's would be overwritten.
INTERNAL_NAMES = (
    *("raw", "found", "since", "raw_item", "part", "corrected", "file"),
    *("source_file", "reason"),
    *("tie", "position", "piece", "chunk", "num_events", "num_open", "tokens", "sort_key"),
    *("number", "own_id", "request_key", "num_before", "num_past", "long_enough", "time", "label"),
    *("given_id", "first_time", "last_time", "goes_on", "num_early"),
    *("as_of", "known", "unknown", "num_items", "num_positives", "num_asked", "num_negatives"),
    *("place", "recent", "until", "is_last", "user_key", "in_validation"),
)
INTERNAL_PREFIXES = ("known_", "open_", "early_", "late_", "span_", "candidates_")


class FeatureSettings(Settings):
    """One categorical feature; it has one vocabulary and one embedding table of the same name."""

    # Of the column, where source.columns does not map it.
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    # What it describes: the item of an event, or the request it is in.
    role: Literal["item", "context"] = "item"
    # The type its raw values have in the events.
    dtype: Literal["int64", "string"] = "string"
    # Values seen less often in the training days share row 0.
    min_count: int = Field(default=1, ge=1)
    # Room for growth: tables have rows in steps this far apart (0.2: each 20% above the last), so a
    # table keeps its size until its vocabulary outgrows the step. 0: as many rows as needed.
    headroom: float = Field(default=0.0, ge=0, le=10)
    # For examples whose ids are rows already: the table's number of rows, row 0 included.
    num_rows: int | None = Field(default=None, ge=2)
    # For features too large for any vocabulary: rows of the table, row 0 included; a value's row
    # is a hash of it, so several values may share one.
    hash_rows: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _one_way(self) -> "FeatureSettings":
        if self.hash_rows is not None and (self.num_rows is not None or self.min_count > 1):
            raise ValueError(
                f"hash_rows of {self.name!r}: a hashed feature has no vocabulary, so neither "
                "num_rows nor min_count"
            )
        if self.fixed_rows is not None and self.headroom:
            raise ValueError(f"headroom of {self.name!r}: its number of rows is given, so 0")
        return self

    @property
    def fixed_rows(self) -> int | None:
        """Rows of the table where they do not follow from a vocabulary."""
        return self.num_rows if self.hash_rows is None else self.hash_rows

    @property
    def fixed_digest(self) -> str:
        """What stands for a vocabulary's digest where there is none."""
        return f"rows-{self.num_rows}" if self.hash_rows is None else f"hashed-{self.hash_rows}"


class DaySettings(Settings):
    """Inclusive day ranges, first and last. Validation and test come after all training days."""

    # Days whose sequences are pretrained on.
    pretraining: tuple[date, date]
    # Days whose requests ranking trains on.
    ranking: tuple[date, date]
    # May be left out: training day after day keeps users back instead (`[holdout]`).
    validation: tuple[date, date] | None = None
    # After validation's; needs it.
    test: tuple[date, date] | None = None
    # What came later is not looked at, not even by labels, as if it had not come yet.
    until: date | None = None
    # Days up to this one are closed: they stay as they were cleaned, whatever became of their files
    # since. The daily chain closes what the models that serve have learned from.
    closed_until: date | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "DaySettings":
        for name, (first, last) in self.ranges.items():
            if first > last:
                raise ValueError(f"days.{name}: first day {first} is after last day {last}")
        if self.until is not None and self.until < self.last:
            raise ValueError(f"days.until: {self.until} is before {self.last}, the last day used")
        if self.validation and self.training[1] >= self.validation[0]:
            raise ValueError(
                f"days.validation starts {self.validation[0]}, but training days run to "
                f"{self.training[1]}; nothing of validation may reach training"
            )
        if self.test and not self.validation:
            raise ValueError("days.validation: required, as days.test is there; or leave out both")
        if self.test and self.validation and self.validation[1] >= self.test[0]:
            raise ValueError(
                f"days.test starts {self.test[0]}, but validation runs to {self.validation[1]}"
            )
        return self

    @property
    def ranges(self) -> dict[str, tuple[date, date]]:
        """Name -> first and last day, of those that there are."""
        names = ("pretraining", "ranking", "validation", "test")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def last(self) -> date:
        """The last day of all."""
        return max(last for _, last in self.ranges.values())

    @property
    def training(self) -> tuple[date, date]:
        """From the first to the last day that any training or vocabulary may see."""
        return min(self.pretraining[0], self.ranking[0]), max(self.pretraining[1], self.ranking[1])


def check_features(features: Sequence[FeatureSettings]) -> None:
    """Raise ConfigError unless the features fit the contract: item_id first, names distinct."""
    names = [feature.name for feature in features]
    if not names or names[0] != "item_id" or features[0].role != "item":
        raise ConfigError("features: the first one must have name = 'item_id' and role = 'item'")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(f"features.{number}.name: {name!r} is there twice")
        if name in RESERVED_NAMES or name.startswith(RESERVED_PREFIXES):
            raise ConfigError(
                f"features.{number}.name: {name!r} is a column of the contract; give the feature "
                "another name and map it to the file's column in source.columns"
            )
        if name in INTERNAL_NAMES or name.startswith(INTERNAL_PREFIXES):
            raise ConfigError(
                f"features.{number}.name: {name!r} is a name that `prepare` uses itself; give the "
                "feature another one and map it to the file's column in source.columns"
            )


def item_features(features: Sequence[FeatureSettings]) -> list[str]:
    """Names of the features that describe an item, `item_id` first."""
    return [feature.name for feature in features if feature.role == "item"]


def context_features(features: Sequence[FeatureSettings]) -> list[str]:
    """Names of the features that describe a request."""
    return [feature.name for feature in features if feature.role == "context"]


def sequences_schema(features: Sequence[FeatureSettings]) -> pa.Schema:
    """One row a subsequence of one user's clicks, oldest first; all lists have one length.

    user_id string; event_time list of times; action list of strings; for each item feature F
    a list of rows, named F.
    """
    return pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("event_time", pa.list_(TIME), nullable=False),
            pa.field("action", pa.list_(pa.string()), nullable=False),
            *(pa.field(name, ROWS, nullable=False) for name in item_features(features)),
        ]
    )


def increments_schema(features: Sequence[FeatureSettings]) -> pa.Schema:
    """A sequence as of a day's evening, with `num_new`: how many of its last events are the day's.

    Columns of `sequences_schema` and num_new int64, at least 1.
    """
    return sequences_schema(features).append(pa.field("num_new", pa.int64(), nullable=False))


def requests_schema(features: Sequence[FeatureSettings], tasks: Sequence[str]) -> pa.Schema:
    """One row a request: the history once, the candidates with their labels as lists.

    request_id, user_id strings; request_time; for each item feature F `history_F` (the user's
    actions strictly before request_time, oldest first) and `candidate_F`; `history_time`;
    `label_T` for each task T (0, 1, or null where the task does not apply to the candidate); for
    each context feature its row. Histories may be empty.
    """
    names = item_features(features)
    return pa.schema(
        [
            pa.field("request_id", pa.string(), nullable=False),
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("request_time", TIME, nullable=False),
            pa.field("history_time", pa.list_(TIME), nullable=False),
            *(pa.field(f"history_{name}", ROWS, nullable=False) for name in names),
            *(pa.field(f"candidate_{name}", ROWS, nullable=False) for name in names),
            *(pa.field(f"label_{task}", pa.list_(pa.int8()), nullable=False) for task in tasks),
            *(pa.field(name, pa.int64(), nullable=False) for name in context_features(features)),
        ]
    )
