"""Publishing what was built of a block: days first, the state after its last day last.

A state is what the next block starts from, so it becomes visible when all before it is: first
vocabularies and the catalogue, then the users' states.
"""

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
from ibis.expr.types import Table

from pipeline.block_users import RequestsMade
from pipeline.catalogue import Catalogue, publish_catalogue
from pipeline.data_checks import DataCheckSettings
from pipeline.data_report import check_requests
from pipeline.day_streams import publish_days
from pipeline.encoding import Known
from pipeline.engine import Engine
from pipeline.errors import DataCheckError
from pipeline.holdout import is_held_out
from pipeline.partitions import Contents, day_folder, find_manifest, publish
from pipeline.preparation import Preparation
from pipeline.progress import ticker
from pipeline.requests import count_requests
from pipeline.schema import increments_schema, requests_schema, sequences_schema
from pipeline.sequences import (
    closed_sequences,
    count_increments,
    count_sequences,
    count_tails,
    increments,
    open_sequences,
    sequence_columns,
    tails,
)
from pipeline.user_states import publish_states
from pipeline.vocabulary_growth import GrownVocabulary, publish_vocabulary

__all__ = ["BlockOutputs", "publish_block"]

Counts = Mapping[date, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class BlockOutputs:
    """What of a block is to be published: day -> contents without counts."""

    sequences: Mapping[date, Contents]
    tails: Mapping[date, Contents]
    increments: Mapping[date, Contents]
    requests: Mapping[date, Contents]
    held_out: Mapping[date, Contents]
    """requests of held-out users; all days of `requests`, or none"""
    state: Mapping[str, Contents]
    """kind (history, and for training days vocabulary, catalogue) -> contents of the last day"""
    final: Mapping[str, Sequence[date]]
    """task -> the days of `requests` whose labels are final"""


def publish_block(
    engine: Engine,
    made: Preparation,
    outputs: BlockOutputs,
    known: Mapping[date, Known],
    vocabularies: Mapping[str, GrownVocabulary],
    catalogue: Catalogue,
    built: RequestsMade,
) -> None:
    """Publish the tables that the block's users were built into."""
    state = outputs.state
    with _states_beside(engine, made, state.get("history"), vocabularies):
        _publish_sequences(engine, made, outputs, vocabularies)
        if outputs.requests:
            _publish_requests(engine, made, outputs, known, built)
        if "vocabulary" in state:
            for grown in vocabularies.values():
                publish_vocabulary(engine, made.root, grown, state["vocabulary"])
            catalogue_contents = _with_digests(made, state["catalogue"], vocabularies)
            publish_catalogue(engine, made.root, made.features, catalogue, catalogue_contents)


@contextmanager
def _states_beside(
    engine: Engine,
    made: Preparation,
    plain: Contents | None,
    vocabularies: Mapping[str, GrownVocabulary],
) -> Generator[None]:
    """Write the users' states meanwhile; they become visible when what is within is done.

    Writing a file keeps one core busy, and there are two large ones.
    """
    if plain is None:
        yield
        return
    contents = _with_digests(made, plain, vocabularies)
    before: Future[None] = Future()
    with engine.beside() as other, ThreadPoolExecutor(1, "states") as thread:
        table = other.table("states")
        states = thread.submit(
            publish_states, other, made.root, made.features, table, contents, before.result
        )
        try:
            yield
        except BaseException as error:
            before.set_exception(error)
            raise
        before.set_result(None)
        states.result()


def _with_digests(
    made: Preparation,
    contents: Contents,
    vocabularies: Mapping[str, GrownVocabulary],
    counts: Mapping[str, int] | None = None,
) -> Contents:
    """With the digests of the vocabularies by the end of its day."""
    assert contents.day is not None
    day = min(contents.day, made.last_training_day)
    digests = {f.name: f.fixed_digest for f in made.features if f.fixed_rows is not None}
    digests |= {name: grown.by(day)[1] for name, grown in vocabularies.items()}
    return contents.model_copy(update={"vocabularies": digests, "counts": dict(counts or {})})


def _publish_sequences(
    engine: Engine,
    made: Preparation,
    outputs: BlockOutputs,
    vocabularies: Mapping[str, GrownVocabulary],
) -> None:
    pieces, schema = _learned_from(made, engine.table("pieces")), sequences_schema(made.features)
    days = outputs.sequences
    if days:
        counts = count_sequences(engine, pieces, made.sequences)
        publish_days(
            made.root,
            engine.stream(closed_sequences(pieces, made.sequences, list(days))),
            {d: _with_digests(made, c, vocabularies, counts.get(d)) for d, c in days.items()},
            schema,
            made.row_group_rows,
            ticker(made.progress, "sequences", len(days)),
        )
    opened = open_sequences(pieces, made.sequences)
    for day, contents in outputs.tails.items():
        counts = count_tails(engine, opened, made.sequences)
        publish(
            day_folder(made.root, "tails", day),
            _with_digests(made, contents, vocabularies, counts),
            schema,
            engine.stream(tails(opened, made.sequences, day)),
            made.row_group_rows,
        )
    if outputs.increments:
        _publish_increments(engine, made, outputs.increments, vocabularies, pieces)


def _publish_increments(
    engine: Engine,
    made: Preparation,
    days: Mapping[date, Contents],
    vocabularies: Mapping[str, GrownVocabulary],
    pieces: Table,
) -> None:
    cut = increments(pieces, list(days), sequence_columns(made.features))
    counts = count_increments(engine, cut)
    publish_days(
        made.root,
        engine.stream(cut),
        {d: _with_digests(made, c, vocabularies, counts.get(d)) for d, c in days.items()},
        increments_schema(made.features),
        made.row_group_rows,
        ticker(made.progress, "increments", len(days)),
    )


def _learned_from(made: Preparation, rows: Table) -> Table:
    """Without what held-out users did."""
    return rows.filter(~is_held_out(rows, made.holdout)) if made.holdout.share else rows


def _publish_requests(
    engine: Engine,
    made: Preparation,
    outputs: BlockOutputs,
    known: Mapping[date, Known],
    built: RequestsMade,
) -> None:
    tasks, requests = list(made.tasks), engine.table("requests")
    held = built.held.candidates if built.held else None
    counts = count_requests(engine, requests, tasks, held)
    left_out = built.maker.counts(engine.table("heads"))
    contents: dict[date, Contents] = {}
    stopped: list[DataCheckError] = []
    for day, plain in outputs.requests.items():
        of_day = {**counts.get(day, {}), **left_out.get(day, {})}
        before = contents.get(day - timedelta(days=1)) or _published(made, day - timedelta(days=1))
        final = tuple(task for task in tasks if day in outputs.final[task])
        try:
            earlier = before.counts if before else None
            check_requests(made.root, day, of_day, earlier, _checks_of(made, final))
        except DataCheckError as error:
            stopped.append(error)
            continue
        found = {"counts": of_day, "vocabularies": known[day].digests, "final_tasks": final}
        contents[day] = plain.model_copy(update=found)
    good = requests.filter(requests.day.isin(list(contents))) if stopped else requests
    # Held-out users first: a day's requests are there when all of it is.
    if outputs.held_out:
        held = {day: _as_held_out(outputs.held_out[day], c) for day, c in contents.items()}
        held_out = good.filter(is_held_out(good, made.holdout))
        _publish_days(made, built.stream(engine, held_out), held, "held-out requests")
    learned_from = built.stream(engine, _learned_from(made, good))
    _publish_days(made, learned_from, contents, "requests")
    # The days that passed are there; the first that did not says why.
    if stopped:
        raise stopped[0]


def _checks_of(made: Preparation, final: Sequence[str]) -> DataCheckSettings:
    """Without the rates of labels that can still change, which are not written yet."""
    still_open = made.tasks.keys() - set(final)
    rates = {t: bounds for t, bounds in made.checks.label_rate.items() if t not in still_open}
    return made.checks.model_copy(update={"label_rate": rates})


def _publish_days(
    made: Preparation,
    batches: Generator[pa.RecordBatch],
    contents: Mapping[date, Contents],
    what: str,
) -> None:
    # What makes them, which may be a thread, ends here, also after an error.
    with closing(batches):
        publish_days(
            made.root,
            batches,
            contents,
            requests_schema(made.features, list(made.tasks)),
            made.row_group_rows,
            ticker(made.progress, what, len(contents)),
        )


def _as_held_out(plain: Contents, requests: Contents) -> Contents:
    names = ("vocabularies", "final_tasks")
    return plain.model_copy(update={name: getattr(requests, name) for name in names})


def _published(made: Preparation, day: date) -> Contents | None:
    return find_manifest(day_folder(made.root, "requests", day))
