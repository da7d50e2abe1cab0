"""The part of a block's work that is done user by user: pieces, requests, states.

    encoded events, states of the day before -> tables `pieces`, `heads`, `requests`, `states`

Users are independent of each other, so parts of them are built side by side, on all cores, and one
after the other where they do not fit into memory together.
"""

from dataclasses import dataclass
from datetime import date

from ibis.expr.types import Table

from pipeline.baskets import BasketRequests
from pipeline.engine import Engine
from pipeline.histories import chunks_of, count_before, placed_events, spans_of
from pipeline.preparation import Preparation
from pipeline.requests import finished_requests, in_contract
from pipeline.schema import item_features
from pipeline.sequences import cut_sequences, open_sequences, sequence_columns
from pipeline.shown import ShownRequests
from pipeline.user_states import next_states, past_events, past_sequences, read_states

__all__ = ["BlockUsers", "Maker", "Past", "add_requests", "all_spans"]

Maker = ShownRequests | BasketRequests


@dataclass(frozen=True, kw_only=True)
class Past:
    """What users did before their requests."""

    placed: Table
    """the history events of the days being built, by `histories.placed_events`"""
    spans: Table
    """the same and what came before those days, by `histories.spans_of`"""

    def measured(self, heads: Table, min_history: int) -> Table:
        """request_key, num_before (events of these days), long_enough (with those before them)."""
        counted = count_before(self.placed, heads)
        past = self.spans.filter(self.spans.chunk < 0)
        past = past.select("user_id", num_past=past.event_time.length())
        counted = counted.left_join(past, "user_id")
        enough = counted.num_before + counted.num_past.fill_null(0) >= min_history
        return counted.select("request_key", "num_before", long_enough=enough)


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

    def build(self, engine: Engine, encoded: Table) -> None:
        """Make the tables of the block."""
        engine.forget("pieces", "states", "heads", "requests")
        engine.each_part(self.num_parts, lambda worker, part: self._build(worker, encoded, part))

    def _build(self, engine: Engine, encoded: Table, part: int) -> None:
        """Add the part's rows."""
        requests = self.made.requests
        names = item_features(self.made.features)
        events = self.maker.corrected(engine, encoded.filter(encoded.part == part))
        states = self._states(engine, part)
        placed = engine.computed("placed", placed_events(events, requests.history_actions, names))
        past = past_events(states, names) if states is not None else None
        spans = all_spans(engine, self.made, placed, past)
        opened = self._sequences(engine, events, placed, states)
        engine.added("states", next_states(spans, opened, names, requests.max_history))
        if self.with_requests:
            past = Past(placed=placed, spans=spans)
            add_requests(engine, self.made, self.maker, self.day_rows, past, events, part)

    def _states(self, engine: Engine, part: int) -> Table | None:
        if self.before is None:
            return None
        features, num_parts = self.made.features, self.num_parts
        states = read_states(engine, self.made.root, features, self.before, num_parts)
        return engine.computed("before", states.filter(states.part == part))

    def _sequences(
        self, engine: Engine, events: Table, placed: Table, states: Table | None
    ) -> Table:
        """Add the part's pieces; returns those that stay open."""
        settings = self.made.sequences
        names = item_features(self.made.features)
        if set(settings.actions) != set(self.made.requests.history_actions):
            placed = placed_events(events, settings.actions, names)
        opened = past_sequences(states, names) if states is not None else None
        columns = sequence_columns(self.made.features)
        pieces = cut_sequences(engine, placed, opened, settings, columns)
        pieces = engine.computed("part_pieces", pieces)
        engine.added("pieces", pieces)
        return open_sequences(pieces, settings)


def all_spans(engine: Engine, made: Preparation, placed: Table, past: Table | None) -> Table:
    """Spans of histories, of `placed` events and what was before them."""
    names = ["event_time", *item_features(made.features)]
    chunks = chunks_of(engine, placed, names, made.requests.max_history)
    return spans_of(engine, chunks, past, names)


def add_requests(
    engine: Engine,
    made: Preparation,
    maker: Maker,
    day_rows: Table,
    past: Past,
    events: Table,
    part: int = 0,
) -> None:
    """Add the requests that the maker finds in `events`, and their heads, to be counted."""
    tasks = list(made.tasks)
    heads = engine.computed("part_heads", maker.heads(engine, events, part))
    measured = engine.computed("measured", past.measured(heads, made.requests.min_history))
    heads = heads.inner_join(measured, "request_key")
    engine.added("heads", maker.to_count(heads))
    finished = finished_requests(
        maker.made(engine, heads), past.spans, day_rows, made.requests, made.features, tasks
    )
    engine.added("requests", in_contract(finished, tasks, made.features))
