"""Preparing, start to end: from what the user brings to what training reads.

    SOURCE/day=D -> events -> vocabularies, catalogue -> sequences, requests     (under ROOT)

A plain function; `jobs.prepare` is its command. Every folder it publishes records what it was made
from, so a rerun makes only what changed, and one that was killed leaves nothing half visible.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from ibis.backends.duckdb import Backend
from ibis.expr.types import Table

from pipeline.day_streams import publish_days
from pipeline.digests import code_version, texts_digest
from pipeline.encoding import build_catalogue, encoded_events, read_catalogue
from pipeline.engine import computed, computed_by_users, open_engine, stream
from pipeline.events import clean_events, event_manifests, read_events
from pipeline.examples import prepare_examples
from pipeline.partitions import Contents, Manifest, days_between
from pipeline.preparation import Preparation, PrepareReport
from pipeline.progress import Progress, no_progress, ticker
from pipeline.requests import RequestSettings, count_requests, find_requests, made_requests
from pipeline.schema import (
    DaySettings,
    FeatureSettings,
    check_features,
    requests_schema,
    sequences_schema,
)
from pipeline.sequences import SequenceSettings, count_sequences, cut_sequences, kept_sequences
from pipeline.settings import settings_digest
from pipeline.source import SourceSettings, check_source
from pipeline.vocabulary import build_vocabulary, table_sizes

__all__ = ["prepare"]


def prepare(
    root: Path,
    source: SourceSettings,
    features: Sequence[FeatureSettings],
    days: DaySettings,
    sequences: SequenceSettings,
    requests: RequestSettings,
    progress: Progress = no_progress,
) -> PrepareReport:
    """Make everything under `root` that is missing or was made from something else.

    Raises:
        ConfigError: features or columns that contradict the contract.
        DataError: what is wrong with the data brought, by day, file, column and reason.
    """
    check_features(features)
    check_source(source, features)
    made = Preparation(
        root=Path(root),
        source=source,
        features=tuple(features),
        days=days,
        sequences=sequences,
        requests=requests,
        progress=progress,
    )
    with open_engine(made.root) as connection:
        if source.kind == "examples":
            prepare_examples(connection, made)
        else:
            _prepare_from_events(connection, made)
    sizes = table_sizes(made.root, features)
    made.report.table_rows = {name: num_rows for name, (num_rows, _) in sizes.items()}
    return made.report


def _prepare_from_events(connection: Backend, made: Preparation) -> None:
    wanted = days_between(made.days.training[0], made.days.test[1])
    built = clean_events(connection, made.root, made.source, made.features, wanted, made.progress)
    manifests = event_manifests(made.root, wanted)
    made.report.add("events", manifests, built)
    training = _between(manifests, made.days.training)
    _build_training_tables(connection, made, training)
    stale_sequences = _stale_sequences(made, manifests)
    stale_requests = _stale_requests(made, manifests)
    needed = [made.days.pretraining[1]] * bool(stale_sequences) + list(stale_requests)
    if needed:
        used = {day: manifest for day, manifest in manifests.items() if day <= max(needed)}
        raw = read_events(connection, made.root, used)
        events = encoded_events(connection, made.root, made.features, raw)
        num_events = sum(manifest.num_rows for manifest in used.values())
        _build_sequences(connection, made, events, num_events, stale_sequences)
        _build_requests(connection, made, events, num_events, stale_requests)
    made.collect("sequences", days_between(*made.days.pretraining), stale_sequences)
    made.collect("requests", made.request_days, stale_requests)


def _between(manifests: Mapping[date, Manifest], days: tuple[date, date]) -> dict[date, Manifest]:
    return {day: manifest for day, manifest in manifests.items() if days[0] <= day <= days[1]}


def _build_training_tables(
    connection: Backend, made: Preparation, training: Mapping[date, Manifest]
) -> None:
    """Vocabularies and the catalogue, from training days only."""
    version = code_version("vocabulary", "encoding", "hashing")
    seen = texts_digest(f"{day} {manifest.content_digest}" for day, manifest in training.items())
    stale = made.stale_vocabularies(seen, version)
    for number, (feature, contents) in enumerate(stale.items(), start=1):
        events = read_events(connection, made.root, training)
        occurrences = events.select("day", value=events[feature.name])
        occurrences = computed(connection, "seen", occurrences)
        build_vocabulary(connection, made.root, feature, occurrences, contents)
        made.progress("vocabularies", number, len(stale))
    contents = made.stale_catalogue(seen, version)
    if contents is not None:
        events = read_events(connection, made.root, training)
        encoded = encoded_events(connection, made.root, made.features, events)
        build_catalogue(connection, made.root, made.features, encoded, contents)


def _stale_sequences(made: Preparation, manifests: Mapping[date, Manifest]) -> dict[date, Contents]:
    seen = _between(manifests, made.days.pretraining)
    events = [f"{day} {manifest.content_digest}" for day, manifest in seen.items()]
    inputs = texts_digest([*events, *made.vocabularies.values()])
    version = code_version("sequences", "encoding", "hashing")
    config = settings_digest(made.sequences)
    return made.stale_days("sequences", dict.fromkeys(seen, inputs), config, version)


def _stale_requests(made: Preparation, manifests: Mapping[date, Manifest]) -> dict[date, Contents]:
    texts: list[str] = [*made.vocabularies.values(), made.catalogue.content_digest]
    inputs: dict[date, str] = {}
    # A day's requests depend on that day's events and all earlier ones.
    for day, manifest in manifests.items():
        texts = [texts_digest([*texts, manifest.content_digest])]
        inputs[day] = texts[0]
    version = code_version(
        "requests",
        "baskets",
        "histories",
        "negatives",
        "encoding",
        "hashing",
    )
    wanted = {day: inputs[day] for day in made.request_days}
    return made.stale_days("requests", wanted, settings_digest(made.requests), version)


def _build_sequences(
    connection: Backend,
    made: Preparation,
    events: Table,
    num_events: int,
    stale: Mapping[date, Contents],
) -> None:
    if not stale:
        return
    settings, days = made.sequences, made.days.pretraining

    def cut(part: Table) -> Table:
        return cut_sequences(part, settings, made.features, days)

    pieces = computed_by_users(connection, "pieces", events, num_events, cut)
    counts = count_sequences(connection, pieces, settings)
    rows = kept_sequences(pieces, settings, list(stale))
    publish_days(
        made.root,
        stream(connection, rows),
        made.with_counts(stale, counts),
        sequences_schema(made.features),
        made.row_group_rows,
        ticker(made.progress, "sequences", len(stale)),
    )


def _build_requests(
    connection: Backend,
    made: Preparation,
    events: Table,
    num_events: int,
    stale: Mapping[date, Contents],
) -> None:
    if not stale:
        return
    settings = made.requests
    catalogue = read_catalogue(connection, made.root)

    def find(part: Table) -> Table:
        num_items = made.catalogue.num_rows
        days = list(stale)
        return find_requests(connection, part, catalogue, num_items, settings, made.features, days)

    found = computed_by_users(connection, "requests", events, num_events, find)
    counts = count_requests(connection, found, settings)
    rows = made_requests(found, settings.task, made.features, list(stale))
    publish_days(
        made.root,
        stream(connection, rows),
        made.with_counts(stale, counts),
        requests_schema(made.features, [settings.task]),
        made.row_group_rows,
        ticker(made.progress, "requests", len(stale)),
    )
