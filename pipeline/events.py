"""Cleaning: the user's Parquet of each day to ROOT/events/day=D, with every row accounted for.

    rows of the day's files = events published + rows set aside, counted by reason and by file

Days are cleaned independently of each other; a day whose files, settings and code are those of
its last cleaning is left alone. Many days share one query, because starting one costs more than
a small day does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import Table

from pipeline.accounts import Account, add_reasons
from pipeline.classify import classified_events, event_columns, events_schema, file_problem
from pipeline.day_streams import publish_days
from pipeline.digests import code_version, texts_digest
from pipeline.engine import computed, stream
from pipeline.errors import MissingDayError
from pipeline.partitions import (
    Contents,
    Manifest,
    day_folder,
    file_paths,
    find_manifest,
    read_manifest,
)
from pipeline.progress import Progress, no_progress, ticker
from pipeline.schema import FeatureSettings
from pipeline.source import SourceSettings
from pipeline.source_files import Footer, SourceDay, check_data, find_day, read_footer

__all__ = ["clean_events", "event_manifests", "read_events"]

ROW_GROUP_ROWS = 131_072
# Days are cleaned together until they have this many rows; bounds the engine's working set.
ROWS_PER_QUERY = 4_000_000


def clean_events(
    connection: Backend,
    root: Path,
    source: SourceSettings,
    features: Sequence[FeatureSettings],
    days: Sequence[date],
    progress: Progress = no_progress,
) -> list[date]:
    """Clean those of `days` that changed, and return them.

    Raises:
        MissingDayError, HalfWrittenDayError, CorruptFileError: a day's files are not whole; all
            days are looked at before the first one is cleaned.
        SetAsideError: a day has more bad rows than `source.max_set_aside_share` allows.
        ConfigError: a predicate of `source.set_aside` does not fit the files.
    """
    found = [_find(source, day) for day in days]
    config_digest = _config_digest(source, features)
    stale: dict[date, tuple[SourceDay, Contents]] = {}
    for source_day in found:
        contents = Contents(
            kind="events",
            day=source_day.day,
            input_digest=source_day.digest,
            config_digest=config_digest,
            code_version=code_version("casting", "classify"),
        )
        published = find_manifest(day_folder(root, "events", source_day.day))
        if published is None or not published.same_build(contents):
            stale[source_day.day] = (source_day, contents)
    footers = {day: [read_footer(path) for path in s.files] for day, (s, _) in stale.items()}
    tick = ticker(progress, "events", len(stale))
    for together in _in_portions(footers):
        contents_of = {day: stale[day][1] for day in together}
        _clean_together(connection, root, source, features, together, contents_of, tick)
    return list(stale)


def _find(source: SourceSettings, day: date) -> SourceDay:
    return find_day(
        source.path,
        day,
        success_marker=source.success_marker,
        allow_missing=source.missing_days == "allow",
    )


def _config_digest(source: SourceSettings, features: Sequence[FeatureSettings]) -> str:
    """Over everything that decides what an event is; not where the files lie."""
    columns = [f"{feature.name} {feature.dtype}" for feature in features]
    settings = source.model_dump_json(exclude={"path", "missing_days", "success_marker"})
    return texts_digest([settings, *columns])


def _in_portions(footers: Mapping[date, list[Footer]]) -> Iterator[dict[date, list[Footer]]]:
    portion: dict[date, list[Footer]] = {}
    num_rows = 0
    for day, files in footers.items():
        portion[day] = files
        num_rows += sum(footer.num_rows for footer in files)
        if num_rows >= ROWS_PER_QUERY:
            yield portion
            portion, num_rows = {}, 0
    if portion:
        yield portion


def _clean_together(
    connection: Backend,
    root: Path,
    source: SourceSettings,
    features: Sequence[FeatureSettings],
    footers: Mapping[date, list[Footer]],
    contents: Mapping[date, Contents],
    tick: Callable[[], None],
) -> None:
    accounts = {day: Account() for day in footers}
    readable: list[Footer] = []
    for day, files in footers.items():
        for footer in files:
            accounts[day].num_rows += footer.num_rows
            problem = file_problem(footer, source, features)
            if problem is None:
                readable.append(footer)
            elif footer.num_rows:
                reason, accounts[day].details[footer.label] = problem
                accounts[day].add(footer.label, reason, footer.num_rows)
    events: Iterator[pa.RecordBatch] | pa.RecordBatchReader = iter(())
    if readable:
        rows = classified_events(connection, readable, source, features)
        rows = _computed(connection, rows, readable)
        add_reasons(connection, rows, accounts)
        order = ["day", "user_id", "event_time", "item_id", "action", "request_id"]
        kept = rows.filter(rows.reason.isnull()).select("day", *event_columns(features))
        events = stream(connection, kept.order_by(order))
    for day, account in accounts.items():
        account.check_share(source, day)
    filled = {day: accounts[day].written_into(contents[day], {}) for day in contents}
    publish_days(root, events, filled, events_schema(features), ROW_GROUP_ROWS, tick)


def _computed(connection: Backend, rows: Table, readable: Sequence[Footer]) -> Table:
    """Evaluate once; counting and publishing both read the result.

    Raises:
        CorruptFileError: a file breaks off in its data, although its footer is whole.
    """
    try:
        return computed(connection, "classified", rows)
    except duckdb.Error:
        for footer in readable:
            check_data(footer)
        raise


def event_manifests(root: Path, days: Sequence[date]) -> dict[date, Manifest]:
    """Manifests of cleaned days."""
    return {day: read_manifest(day_folder(root, "events", day)) for day in days}


def read_events(
    connection: Backend,
    root: Path,
    manifests: Mapping[date, Manifest],
) -> Table:
    """Cleaned events of the given days as one table, with their `day`; times are UTC, no zone."""
    paths = [
        str(path)
        for day, manifest in manifests.items()
        for path in file_paths(day_folder(root, "events", day), manifest)
    ]
    if not paths:
        raise MissingDayError("no events at all on the days asked for; see [days] and source.path")
    events = connection.read_parquet(paths, hive_partitioning=False)
    events = events.mutate(event_time=events.event_time.cast("timestamp(6)"))
    return events.mutate(day=events.event_time.date())
