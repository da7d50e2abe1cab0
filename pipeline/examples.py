"""Ready-made sequences and requests: checked, encoded, and published like our own.

    SOURCE/sequences/day=D, SOURCE/requests/day=D -> ROOT/sequences/day=D, ROOT/requests/day=D

For who builds examples elsewhere (in Spark, say). Either kind may be absent: without sequences one
starts at ranking. With raw ids the vocabularies are made here, from training days only: from the
sequences of the pretraining days if there are any, else from the requests of the ranking days.
"""

from collections.abc import Iterable, Mapping
from datetime import date

import ibis
from ibis.expr.types import Table

from pipeline.accounts import Account, add_reasons
from pipeline.catalogue import grow_catalogue, publish_catalogue
from pipeline.day_streams import publish_days
from pipeline.digests import code_version, texts_digest
from pipeline.encoding import with_rows
from pipeline.engine import Engine
from pipeline.errors import MissingDayError
from pipeline.example_checks import (
    ExampleKind,
    check_types,
    checked_requests,
    checked_sequences,
    example_columns,
    read_examples,
)
from pipeline.example_ids import OCCURRENCE, encoded_batches, item_occurrences
from pipeline.hashing import hash_key
from pipeline.partitions import days_between
from pipeline.preparation import Preparation
from pipeline.progress import ticker
from pipeline.schema import requests_schema, sequences_schema
from pipeline.source_files import Footer, SourceDay, find_day, read_footer
from pipeline.vocabulary import load_vocabulary
from pipeline.vocabulary_growth import grow_vocabulary, publish_vocabulary, read_vocabulary

__all__ = ["prepare_examples"]

KINDS: tuple[ExampleKind, ...] = ("sequences", "requests")


def prepare_examples(engine: Engine, made: Preparation) -> None:
    """Publish what the user brought, as far as it changed.

    Raises:
        SchemaError: a file lacks a column or has another type in it.
        SetAsideError, MissingDayError, HalfWrittenDayError, CorruptFileError: as for events.
    """
    found: dict[ExampleKind, dict[date, SourceDay]] = {}
    for kind in KINDS:
        if days := _found(made, kind):
            found[kind] = days
    if not found:
        raise MissingDayError(
            f"{made.source.path}: neither a sequences nor a requests folder (source.kind is "
            "'examples'); bring day=YYYY-MM-DD folders in one of them or in both"
        )
    _build_training_tables(engine, made, found)
    for kind, days in found.items():
        _build(engine, made, kind, days)


def _found(made: Preparation, kind: ExampleKind) -> dict[date, SourceDay]:
    folder = made.source.path / kind
    if not folder.is_dir():
        return {}
    days = days_between(*made.days.pretraining) if kind == "sequences" else made.request_days
    return {
        day: find_day(
            folder,
            day,
            success_marker=made.source.success_marker,
            allow_missing=made.source.missing_days == "allow",
        )
        for day in days
    }


def _checked(
    engine: Engine,
    made: Preparation,
    kind: ExampleKind,
    days: Iterable[SourceDay],
) -> tuple[Table | None, dict[date, Account]]:
    """Rows of the days with their reasons (None if there are no files), and their accounts."""
    ids = made.source.ids
    columns = example_columns(kind, made.features, list(made.tasks), ids)
    footers: list[Footer] = []
    accounts: dict[date, Account] = {}
    for source_day in days:
        accounts[source_day.day] = Account()
        for footer in map(read_footer, source_day.files):
            check_types(footer, columns)
            accounts[source_day.day].num_rows += footer.num_rows
            footers.append(footer)
    if not footers:
        return None, accounts
    rows = read_examples(engine, footers, columns)
    if kind == "sequences":
        rows = checked_sequences(rows, made.features, ids)
    else:
        rows = checked_requests(rows, made.features, list(made.tasks), ids)
    rows = engine.computed(f"checked_{kind}", rows)
    add_reasons(engine, rows, accounts)
    for day, account in accounts.items():
        account.check_share(made.source, day)
    return rows, accounts


def _build_training_tables(
    engine: Engine, made: Preparation, found: Mapping[ExampleKind, Mapping[date, SourceDay]]
) -> None:
    """Vocabularies (for raw ids) and the catalogue, from training days."""
    training: dict[ExampleKind, list[SourceDay]] = {
        kind: [day for number, day in days.items() if number <= made.days.training[1]]
        for kind, days in found.items()
    }
    seen = texts_digest(
        f"{k} {day.day} {day.digest}" for k, days in training.items() for day in days
    )
    version = code_version("example_checks", "example_ids", "vocabulary", "vocabulary_growth")
    kinds = ["catalogue", "vocabulary"] if made.source.ids == "raw" else ["catalogue"]
    day = made.last_training_day
    if made.is_built([made.contents(kind, day, seen, "", version) for kind in kinds]):
        return
    examples: dict[ExampleKind, Table] = {}
    for kind, days in training.items():
        rows, _ = _checked(engine, made, kind, days)
        if rows is not None:
            examples[kind] = rows.filter(rows.reason.isnull())
    if not examples:
        first, last = made.days.training
        raise MissingDayError(
            f"{made.source.path}: no examples at all from {first} to {last}; bring those days, or "
            "correct [days]"
        )
    items = examples["sequences"] if "sequences" in examples else examples["requests"]
    items = engine.computed("occurrences", item_occurrences(items, made.features))
    if made.source.ids == "raw":
        _build_vocabularies(engine, made, examples, items, seen, version)
        described = [f for f in made.features if f.role == "item"]
        day = made.last_training_day
        known = {f.name: read_vocabulary(engine, made.root, f, day).values for f in described}
        rows = {name: values.select("value", "row") for name, values in known.items()}
        items = with_rows(described, rows, items)
    catalogue = grow_catalogue(engine, made.features, None, items, [OCCURRENCE])
    contents = made.contents("catalogue", made.last_training_day, seen, "", version)
    publish_catalogue(engine, made.root, made.features, catalogue, contents)


def _build_vocabularies(
    engine: Engine,
    made: Preparation,
    examples: Mapping[ExampleKind, Table],
    items: Table,
    seen: str,
    version: str,
) -> None:
    day = made.last_training_day
    contents = made.contents("vocabulary", day, seen, "", version)
    for feature in made.features:
        if feature.role == "item":
            values = items.select("day", value=items[feature.name])
        elif "requests" in examples:
            values = examples["requests"].select("day", value=feature.name)
        else:
            # Sequences say nothing of requests: everything is unknown.
            values = items.limit(0).select("day", value=ibis.null(feature.dtype))
        # Examples are not built day by day: what is seen at all is seen on the last day.
        values = values.mutate(day=ibis.literal(day))
        grown = grow_vocabulary(engine, made.root, feature, None, values, [day])
        publish_vocabulary(engine, made.root, grown, contents)


def _build(
    engine: Engine, made: Preparation, kind: ExampleKind, days: Mapping[date, SourceDay]
) -> None:
    """Check, encode and publish the days of a kind that changed."""
    source, features, tasks = made.source, made.features, list(made.tasks)
    config = texts_digest([source.ids, str(source.max_set_aside_share), *tasks])
    inputs = {
        day: texts_digest([found.digest, *made.vocabularies.values()])
        for day, found in days.items()
    }
    version = code_version("example_checks", "example_ids")
    stale = made.stale_days(kind, inputs, config, version)
    if stale:
        rows, accounts = _checked(engine, made, kind, [days[day] for day in stale])
        batches = iter(()) if rows is None else engine.stream(_in_order(rows, kind))
        if source.ids == "raw":
            day = made.last_training_day
            vocabularies = {f.name: load_vocabulary(made.root, f.name, day) for f in features}
            batches = encoded_batches(batches, features, vocabularies)
        publish_days(
            made.root,
            batches,
            {
                day: accounts[day]
                .written_into(contents, {})
                .model_copy(update={"vocabularies": made.vocabularies, "final_tasks": tuple(tasks)})
                for day, contents in stale.items()
            },
            sequences_schema(features) if kind == "sequences" else requests_schema(features, tasks),
            made.row_group_rows,
            ticker(made.progress, kind, len(stale)),
        )
    made.collect(kind, list(days), list(stale))


def _in_order(rows: Table, kind: ExampleKind) -> Table:
    """Good rows in the order of their files: by hash of the request or user, so users are mixed."""
    good = rows.filter(rows.reason.isnull())
    if kind == "requests":
        key = hash_key(good.user_id, good.request_id)
        return good.order_by(["day", key, "request_time"])
    return good.order_by(["day", hash_key(good.user_id), "event_time", "item_id"])
