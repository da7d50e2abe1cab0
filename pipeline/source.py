"""What a user says about the data they bring: where it is, what its columns are called.

`[source]` of the config. `source_files` finds the files, `casting` reads their columns, `events`
sets bad rows aside; ready-made sequences and requests (`kind = "examples"`) go to `examples`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.errors import ConfigError
from pipeline.schema import FeatureSettings
from pipeline.settings import Settings

__all__ = ["BUILT_IN_REASONS", "EVENT_COLUMNS", "SourceSettings", "check_source"]

EVENT_COLUMNS = ("user_id", "item_id", "event_time", "action", "request_id")

# In order of precedence: a row is counted under the first reason that applies. The user's own
# reasons (`source.set_aside`) come before all of these, except where a whole file cannot be read:
# a column is missing or its type is wrong.
BUILT_IN_REASONS = (
    "missing_column",
    "wrong_type",
    "null_user_id",
    "null_item_id",
    "null_action",
    "unparsable_time",
    "null_event_time",
    "future_time",
    "late_time",
    "duplicate",
)


class SourceSettings(Settings):
    """The user's day-partitioned Parquet: PATH/day=YYYY-MM-DD/*.parquet."""

    # A log, or ready-made sequences and requests.
    kind: Literal["events", "examples"] = "events"
    # The folder that has the days' folders.
    path: Path
    # Contract name -> name in the user's files; a column left out has its contract name.
    columns: dict[str, str] = Field(default={})
    # The action of every event, where the files have no such column.
    action: str | None = None
    # Unit of integer and float times since 1970; timestamps and ISO strings carry their own.
    time_unit: Literal["s", "ms", "us"] = "s"
    # Reason -> SQL predicate over the user's own columns. Rows where it is true are set aside
    # under that reason; they were asked for, so they do not count towards the threshold.
    set_aside: dict[str, str] = Field(default={})
    # Share of a day's rows that may be set aside for other reasons before the job fails.
    max_set_aside_share: float = Field(default=0.01, ge=0, le=1)
    # "allow" takes an absent day as a day without events (a closed shop).
    missing_days: Literal["error", "allow"] = "error"
    # A file whose absence means that a day is still being written, "_SUCCESS" say.
    success_marker: str | None = None
    # Whether ready-made examples hold raw ids, or rows of embedding tables.
    ids: Literal["raw", "rows"] = "raw"

    @model_validator(mode="after")
    def _consistent(self) -> "SourceSettings":
        for reason in self.set_aside:
            if reason in BUILT_IN_REASONS or not reason.isidentifier():
                raise ValueError(
                    f"source.set_aside.{reason}: choose another reason, a word that is none of "
                    + ", ".join(BUILT_IN_REASONS)
                )
        if self.action is not None and "action" in self.columns:
            raise ValueError("source.action and source.columns.action exclude each other")
        if self.kind == "events" and self.ids == "rows":
            raise ValueError("source.ids = 'rows' is for kind = 'examples'; events have raw ids")
        if self.kind == "examples" and (self.columns or self.action or self.set_aside):
            raise ValueError(
                "source.columns, source.action and source.set_aside are for kind = 'events'; "
                "ready-made examples come in the contract's own columns"
            )
        return self

    def column(self, name: str) -> str:
        """The user's name for a column of the contract."""
        return self.columns.get(name, name)


def check_source(source: SourceSettings, features: Sequence[FeatureSettings]) -> None:
    """Raise ConfigError where the source's settings do not fit the features'."""
    known = {*EVENT_COLUMNS, *(feature.name for feature in features)}
    for name in source.columns:
        if name not in known:
            raise ConfigError(
                f"source.columns.{name}: no such column; known: {', '.join(sorted(known))}"
            )
    by_rows = source.kind == "examples" and source.ids == "rows"
    for number, feature in enumerate(features):
        if source.kind == "examples" and feature.hash_rows is not None:
            raise ConfigError(
                f"features.{number}.hash_rows: only for events; hash ids of ready-made examples "
                "yourself, and bring them as rows (source.ids = 'rows')"
            )
        if by_rows and feature.num_rows is None:
            raise ConfigError(
                f"features.{number}.num_rows: required for {feature.name!r}, as source.ids = "
                "'rows'; the number of rows of its table, row 0 included"
            )
        if not by_rows and feature.num_rows is not None:
            raise ConfigError(
                f"features.{number}.num_rows: only for ready-made examples with source.ids = "
                f"'rows'; the rows of {feature.name!r} are counted from the data"
            )
