"""CSV, JSON lines and Parquet whose columns a config names: no code for a new log."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from pipeline.adapters.delimited import read_delimited
from pipeline.adapters.dialect import Dialect
from pipeline.adapters.json_lines import read_json_lines
from pipeline.adapters.parquet_files import check_alike, read_parquet
from pipeline.adapters.raw_files import Block, find_files
from pipeline.adapters.reading import Reading
from pipeline.adapters.settings import IngestSettings
from pipeline.errors import ConfigError
from pipeline.schema import FeatureSettings
from pipeline.source import EVENT_COLUMNS

__all__ = ["generic_reading"]


def generic_reading(
    connection: duckdb.DuckDBPyConnection,
    settings: IngestSettings,
    features: Sequence[FeatureSettings],
) -> Reading:
    """Read the contract's columns and the features, each by its name in `ingest.columns`.

    A request_id that the config does not name may be absent.

    Raises:
        ConfigError: `ingest.columns` has a name that is none of the contract or the features.
        DataError: what is wrong with the files as files, or with their columns.
    """
    columns = _columns(settings, features)
    optional = () if "request_id" in settings.columns else ("request_id",)
    files = find_files(settings.files, "ingest.files")
    dialect = Dialect(
        delimiter=settings.delimiter,
        quote=settings.quote,
        newlines_in_values=settings.newlines_in_values,
        column_names=settings.column_names,
    )

    def read(path: Path) -> Iterator[Block]:
        if settings.format == "csv":
            return read_delimited(path, dialect, columns, optional)
        if settings.format == "jsonl":
            return read_json_lines(connection, path, columns)
        return read_parquet(path, columns)

    if settings.format == "parquet":
        check_alike(files, columns, optional)
    return Reading(
        settings=settings,
        files=files,
        read=read,
        columns=tuple(columns),
        required=tuple(name for name in columns if name not in optional)
        if settings.format == "jsonl"
        else (),
    )


def _columns(settings: IngestSettings, features: Sequence[FeatureSettings]) -> dict[str, str]:
    """Contract name -> their name, of everything there is to read."""
    names = dict.fromkeys([*EVENT_COLUMNS, *(feature.name for feature in features)])
    for name in settings.columns:
        if name not in names:
            raise ConfigError(
                f"ingest.columns.{name}: no such column; known: {', '.join(sorted(names))}"
            )
    if settings.action is not None:
        del names["action"]
    return {name: settings.columns.get(name, name) for name in names}
