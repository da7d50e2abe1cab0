"""The part of a block's work that is done user by user: pieces, requests, states.

    encoded events, states of the day before -> tables `pieces`, `heads`, `requests`, `states`

Users are independent of each other, so parts of them are built side by side, on all cores, and one
after the other where they do not fit into memory together.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import ibis
import pyarrow as pa
from ibis.expr.types import IntegerValue, Table

from pipeline.baskets import BasketRequests
from pipeline.corrected import PartEvents
from pipeline.engine import Engine
from pipeline.held_candidates import HeldCandidates
from pipeline.held_spans import HeldSpans
from pipeline.histories import chunks_of, count_before, placed_events, spans_of
from pipeline.prefetch import prefetched
from pipeline.preparation import Preparation
from pipeline.requests import finished_requests, in_contract, in_file_order
from pipeline.schema import item_features
from pipeline.sequences import (
    cut_sequences,
    full_sequences,
    open_sequences,
    sequence_columns,
)
from pipeline.shown import ShownRequests
from pipeline.user_states import next_states, past_events, past_sequences, read_states

__all__ = ["Asked", "BlockUsers", "Past", "RequestsMade", "add_requests", "all_spans"]

Maker = ShownRequests | BasketRequests
BATCHES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Past:
    """What users did before their requests."""

    placed: Table
    """the history events of the days being built, by `histories.placed_events`"""
    spans: Table
    """the same and what came before those days, by `histories.spans_of`"""

    def measured(self, heads: Table, min_history: int) -> Table:
        """request_key, num_before (events of these days), num_past (before them), long_enough."""
        counted = count_before(self.placed, heads)
        past = self.spans.filter(self.spans.chunk < 0)
        past = past.select("user_id", num_past=past.event_time.length())
        counted = counted.left_join(past, "user_id")
        counted = counted.mutate(num_past=counted.num_past.fill_null(0))
        enough = counted.num_before + counted.num_past >= min_history
        return counted.select("request_key", "num_before", "num_past", long_enough=enough)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Where a part's requests come from, and where their candidates go."""

    events: PartEvents
    part: IntegerValue
    held: HeldCandidates | None = None


class Held(NamedTuple):
    """What is in memory of the requests' lists."""

    spans: HeldSpans
    candidates: HeldCandidates


@dataclass(frozen=True, kw_only=True)
class RequestsMade:
    """What the tables `requests` and `heads` are from."""

    maker: Maker
    held: Held | None = None
    """what fills in the requests' lists; None where they have them"""

    def stream(self, engine: Engine, requests: Table) -> Generator[pa.RecordBatch]:
        """Some of the requests, whole, in the order of their files. To be closed."""
        batches = engine.stream(in_file_order(requests))
        if self.held:
            # Filled in by a thread of their own, while those before them are written.
            filled = self.held.spans.filled(self.held.candidates.filled(batches))
            yield from prefetched(filled, BATCHES_AHEAD)
        else:
            yield from batches


@dataclass(frozen=True, kw_only=True)
class BlockUsers:
    """Builds the parts of the users."""

    made: Preparation
    before: date | None
    """the day whose states the users start from"""
    day_rows: Table
    """what was known when a day began, by `encoding.day_table`"""
    num_parts: int
    maker: Maker
    with_requests: bool
    with_open: bool
    """whether pieces that are still open are published too, as tails or increments"""
    final: Mapping[str, Sequence[date]]
    """task -> the days whose labels are final"""

    def build(self, engine: Engine, encoded: Table) -> Held | None:
        """Make the tables of the block; returns what the lists of its requests are in.

        None where requests have their lists already.
        """
        engine.forget("pieces", "states", "heads", "requests")
        before = self._before(engine)
        held = self._held(engine, encoded, before)

        def build(worker: Engine, part: IntegerValue) -> None:
            of_part = before.filter(before.part == part) if before is not None else None
            self._build(worker, encoded.filter(encoded.part == part), of_part, part, held)

        engine.each_part(self.num_parts, build)
        engine.forget("before")
        return held

    def _before(self, engine: Engine) -> Table | None:
        """The states that users start from, read once for all parts."""
        if self.before is None:
            return None
        features = self.made.features
        states = read_states(engine, self.made.root, features, self.before, self.num_parts)
        return engine.computed("before", states)

    def _held(self, engine: Engine, encoded: Table, before: Table | None) -> Held | None:
        """What will hold the lists, if they fit: an event is in two spans."""
        if not self.with_requests:
            return None
        requests, names = self.made.requests, item_features(self.made.features)
        is_past = encoded.action.isin(requests.history_actions)
        is_asked = encoded.action.isin(requests.actions)
        (row,) = engine.rows_of(encoded.agg(past=is_past.sum(), asked=is_asked.sum()))
        num_past = int(row["past"] or 0)
        if before is not None:
            (earlier,) = engine.rows_of(before.agg(past=before.history_time.length().sum()))
            num_past += int(earlier["past"] or 0)
        num_candidates = int(row["asked"] or 0) * requests.candidates_per_event
        # A time and rows; rows and labels.
        num_bytes = 2 * num_past * 8 * (1 + len(names))
        num_bytes += num_candidates * (8 * len(names) + len(self.final))
        if not engine.can_hold(num_bytes):
            return None
        return Held(HeldSpans(names), HeldCandidates(names, self.final))

    def _build(
        self,
        engine: Engine,
        encoded: Table,
        states: Table | None,
        part: IntegerValue,
        held: Held | None,
    ) -> None:
        """Add the part's rows."""
        requests = self.made.requests
        names = item_features(self.made.features)
        events = self.maker.corrected(engine, encoded)
        chosen = events.of(requests.history_actions)
        placed = engine.computed("placed", placed_events(chosen, requests.history_actions, names))
        past = past_events(states, names) if states is not None else None
        numbers = (part, self.num_parts) if held else None
        spans = all_spans(engine, self.made, placed, past, numbers)
        opened = self._sequences(engine, events, placed, states)
        engine.added("states", next_states(spans, opened, names, requests.max_history))
        if self.with_requests:
            past = Past(placed=placed, spans=spans)
            asked = Asked(events=events, part=part, held=held.candidates if held else None)
            add_requests(engine, self.made, self.maker, self.day_rows, past, asked)
            if held:
                held.spans.add(engine.stream(spans.select("number", "event_time", *names)))

    def _sequences(
        self, engine: Engine, events: PartEvents, placed: Table, states: Table | None
    ) -> Table:
        """Add the part's pieces; returns those that stay open."""
        settings = self.made.sequences
        names = item_features(self.made.features)
        if set(settings.actions) != set(self.made.requests.history_actions):
            placed = placed_events(events.of(settings.actions), settings.actions, names)
        opened = past_sequences(states, names) if states is not None else None
        columns = sequence_columns(self.made.features)
        pieces = cut_sequences(engine, placed, opened, settings, columns)
        pieces = engine.computed("part_pieces", pieces)
        engine.added("pieces", pieces if self.with_open else full_sequences(pieces, settings))
        return open_sequences(pieces, settings)


def all_spans(
    engine: Engine,
    made: Preparation,
    placed: Table,
    past: Table | None,
    numbers: tuple[IntegerValue, int] | None = None,
) -> Table:
    """Spans of histories, of `placed` events and what was before them; evaluated.

    `numbers`, the part and how many there are: `number` is then unlike that of any other span.
    """
    names = ["event_time", *item_features(made.features)]
    chunks = chunks_of(engine, placed, names, made.requests.max_history)
    spans = spans_of(chunks, past, names)
    if numbers:
        part, num_parts = numbers
        spans = spans.mutate(number=ibis.row_number() * num_parts + part)
    return engine.computed("spans", spans)


def add_requests(
    engine: Engine,
    made: Preparation,
    maker: Maker,
    day_rows: Table,
    past: Past,
    asked: Asked,
) -> None:
    """Add the requests that the maker finds in the events, and their heads, to be counted."""
    tasks = list(made.tasks)
    heads = maker.heads(engine, asked.events, asked.part, asked.held)
    heads = engine.computed("part_heads", heads)
    measured = engine.computed("measured", past.measured(heads, made.requests.min_history))
    heads = heads.inner_join(measured, "request_key")
    engine.added("heads", maker.to_count(heads))
    finished = finished_requests(
        *(maker.made(engine, heads, asked.held), past.spans, day_rows),
        *(made.requests, made.features, tasks),
    )
    engine.added("requests", in_contract(finished, tasks, made.features))
