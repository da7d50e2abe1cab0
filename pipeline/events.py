"""Cleaning: the user's Parquet of each day to ROOT/events/day=D, with every row accounted for.

    rows of the day's files = events published + rows set aside, counted by reason and by file

Days are cleaned independently of each other; a day whose files, settings and code are those of
its last cleaning is left alone, and so is one that is closed, or whose files were removed since.
Many days share one query, because starting one costs more than a small day does. Before a day is
published its report is written (`data_report`); a day that a threshold stops is not published, and
what was published of it before stays.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
from ibis.expr.types import Table

from pipeline.accounts import Account, add_reasons
from pipeline.classify import (
    classified_events,
    event_columns,
    events_schema,
    file_problem,
    with_duplicates_marked,
)
from pipeline.data_checks import NO_CHECKS, DataCheckSettings, check_names
from pipeline.data_gate import EventsGate
from pipeline.data_profile import DayProfile, profile_days
from pipeline.day_streams import publish_days
from pipeline.digests import code_version, texts_digest
from pipeline.engine import Engine
from pipeline.errors import DataError, MissingDayError
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
from pipeline.source_digests import SourceDigests
from pipeline.source_files import (
    MISSING,
    Footer,
    SourceDay,
    check_data,
    find_day,
    read_footer,
    source_folder,
)

__all__ = ["CleanedDays", "Cleaning", "clean_events", "event_manifests", "read_events"]

ROW_GROUP_ROWS = 131_072
# Days are cleaned together until they have this many rows; bounds the engine's working set.
ROWS_PER_QUERY = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanedDays:
    """What became of the days, ascending."""

    built: list[date]
    """cleaned now; the others stay as they were"""
    not_taken_in: list[date]
    """closed days whose files are others than those that were cleaned"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """What the user brings, and how it is cleaned."""

    source: SourceSettings
    features: Sequence[FeatureSettings]
    checks: DataCheckSettings = NO_CHECKS
    closed_until: date | None = None


def clean_events(
    engine: Engine,
    root: Path,
    how: Cleaning,
    days: Sequence[date],
    progress: Progress = no_progress,
) -> CleanedDays:
    """Clean those of `days`, which ascend, that changed or have no report.

    A day that was cleaned stays as it is where its files were removed since, and up to
    `closed_until` whatever became of them or of this code.

    Raises:
        MissingDayError, HalfWrittenDayError, CorruptFileError: a day's files are not whole; all
            days are looked at before the first one is cleaned.
        SetAsideError: a day has more bad rows than `source.max_set_aside_share` allows.
        DataCheckError: a day breaks a threshold of `checks`.
        ConfigError: a predicate of `source.set_aside` does not fit the files, or a check names no
            feature.
    """
    source = how.source
    check_names(how.checks, how.features)
    gate = EventsGate(Path(root), days, source, how.checks)
    run = _Run(engine, Path(root), how, gate)
    digests = SourceDigests(Path(root))
    kept = {day: run.kept(day) for day in days}
    found = [_find(source, day, digests) for day in days if kept[day] is None]
    not_taken_in = [day for day, m in kept.items() if m and _is_changed(source, m, digests)]
    digests.save()
    stale = run.stale(found)
    footers = {s.day: [read_footer(path) for path in s.files] for s in found if s.day in stale}
    tick = ticker(progress, "events", len(stale))
    for together in _in_portions(footers):
        run.clean_together(together, {day: stale[day] for day in together}, tick)
    return CleanedDays(built=list(stale), not_taken_in=not_taken_in)


def _find(source: SourceSettings, day: date, digests: SourceDigests) -> SourceDay:
    return find_day(
        source.path,
        day,
        success_marker=source.success_marker,
        allow_missing=source.missing_days == "allow",
        digest=digests.digest,
    )


def _is_changed(source: SourceSettings, kept: Manifest, digests: SourceDigests) -> bool:
    """Whether there are other files than those that a kept day was made from."""
    assert kept.day is not None, "it is a day's"
    if not source_folder(source.path, kept.day).is_dir():
        return False
    try:
        return _find(source, kept.day, digests).digest != kept.input_digest
    except (DataError, OSError):  # being written, or not to be read any more, say
        return True


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


@dataclass(frozen=True)
class _Run:
    """One call of `clean_events`."""

    engine: Engine
    root: Path
    how: Cleaning
    gate: EventsGate

    def kept(self, day: date) -> Manifest | None:
        """What was made of a day that stays as it was cleaned; None if its files decide.

        Raises:
            MissingDayError: other settings would have to clean it again, and its files are gone.
        """
        folder = source_folder(self.how.source.path, day)
        published = find_manifest(day_folder(self.root, "events", day))
        if published is None or not self.gate.has_passed(day):
            return None
        contents = self._contents(day, published.input_digest)
        is_closed = self.how.closed_until is not None and day <= self.how.closed_until
        if is_closed and published.config_digest == contents.config_digest:
            # Also by an older version of the code: what serves has learned from it as it was.
            return published
        if not folder.is_dir() and published.input_digest != MISSING:
            if published.same_build(contents):
                return published
            raise MissingDayError(
                f"{folder}: removed after it was cleaned, and has to be cleaned again for other "
                "settings or another version of the code; bring it back"
            )
        return None

    def _contents(self, day: date, input_digest: str) -> Contents:
        return Contents(
            kind="events",
            day=day,
            input_digest=input_digest,
            config_digest=_config_digest(self.how.source, self.how.features),
            code_version=code_version("casting", "classify"),
        )

    def stale(self, found: Sequence[SourceDay]) -> dict[date, Contents]:
        """The days to be cleaned: what will be published of each, but its counts."""
        stale: dict[date, Contents] = {}
        for source_day in found:
            contents = self._contents(source_day.day, source_day.digest)
            published = find_manifest(day_folder(self.root, "events", source_day.day))
            is_made = published is not None and published.same_build(contents)
            # A report of another version, which was stopped, does not fit the one published.
            if not is_made or not self.gate.has_passed(source_day.day):
                stale[source_day.day] = contents
        return stale

    def clean_together(
        self,
        footers: Mapping[date, list[Footer]],
        contents: Mapping[date, Contents],
        tick: Callable[[], None],
    ) -> None:
        """Clean days in one query, write their reports, publish those that nothing stops."""
        accounts = {day: Account() for day in footers}
        readable: list[Footer] = []
        for day, files in footers.items():
            readable += self._readable(files, accounts[day])
        events = self._events(readable, accounts) if readable else None
        profiles: Mapping[date, DayProfile] = {}
        if events is not None:
            known = self.gate.checks.actions
            profiles = profile_days(self.engine, events, self.how.features, known)
        stops = self.gate.stopped_days(footers, accounts, profiles)
        filled = {
            day: accounts[day].written_into(made, {})
            for day, made in contents.items()
            if day not in stops
        }
        rows = self._in_order(events, list(filled), list(stops)) if events is not None else iter(())
        publish_days(
            self.root, rows, filled, events_schema(self.how.features), ROW_GROUP_ROWS, tick
        )
        if stops:
            raise next(iter(stops.values()))

    def _readable(self, files: Sequence[Footer], account: Account) -> Iterator[Footer]:
        """Files that have all columns; the rows of the others are set aside."""
        for footer in files:
            account.num_rows += footer.num_rows
            problem = file_problem(footer, self.how.source, self.how.features)
            if problem is None:
                yield footer
            elif footer.num_rows:
                reason, account.details[footer.label] = problem
                account.add(footer.label, reason, footer.num_rows)

    def _events(self, readable: Sequence[Footer], accounts: Mapping[date, Account]) -> Table:
        """The events among the files' rows, evaluated; the other rows are put to account."""
        rows = classified_events(self.engine, readable, self.how.source, self.how.features)
        rows = _computed(self.engine, rows, readable)
        rows = with_duplicates_marked(self.engine, rows, self.how.features)
        add_reasons(self.engine, rows, accounts)
        return rows.filter(rows.reason.isnull()).select("day", *event_columns(self.how.features))

    def _in_order(
        self, events: Table, days: Sequence[date], stops: Sequence[date]
    ) -> Iterator[pa.RecordBatch]:
        order = ["day", "user_id", "event_time", "item_id", "action", "request_id"]
        if stops:
            events = events.filter(events.day.notin(stops))
        # A constant costs as much to sort by as any other column.
        return self.engine.stream(events.order_by(order[1:] if len(days) == 1 else order))


def _computed(engine: Engine, rows: Table, readable: Sequence[Footer]) -> Table:
    """Evaluate once; counting and publishing both read the result.

    Raises:
        CorruptFileError: a file breaks off in its data, although its footer is whole.
    """
    try:
        return engine.computed("typed", rows)
    except engine.data_errors:
        for footer in readable:
            check_data(footer)
        raise


def event_manifests(root: Path, days: Sequence[date]) -> dict[date, Manifest]:
    """Manifests of cleaned days."""
    return {day: read_manifest(day_folder(root, "events", day)) for day in days}


def read_events(
    engine: Engine,
    root: Path,
    manifests: Mapping[date, Manifest],
) -> Table:
    """Cleaned events of the given days as one table, with their `day`; times are UTC, no zone."""
    paths = [
        path
        for day, manifest in manifests.items()
        for path in file_paths(day_folder(root, "events", day), manifest)
    ]
    if not paths:
        span = f"from {min(manifests)} to {max(manifests)}" if manifests else "on no day"
        raise MissingDayError(
            f"{root}: no events at all {span}; bring those days, or correct [days]"
        )
    events = engine.read_parquet(paths)
    events = events.mutate(event_time=events.event_time.cast("timestamp(6)"))
    return events.mutate(day=events.event_time.date())
