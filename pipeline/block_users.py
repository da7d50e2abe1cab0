"""The part of a block's work that is done user by user: pieces, requests, states.

    encoded events, states of the day before -> tables `pieces`, `heads`, `requests`, `states`

Users are independent of each other, so a part of them is built at a time: lists in the making are
what an engine on one machine cannot put on disk.
"""

from dataclasses import dataclass
from datetime import date

import ibis
from ibis.expr.types import Table

from pipeline.baskets import BasketRequests
from pipeline.encoding import with_part
from pipeline.engine import Engine
from pipeline.histories import chunks_of, count_before, placed_events
from pipeline.preparation import Preparation
from pipeline.requests import finished_requests, in_contract
from pipeline.schema import item_features
from pipeline.sequences import cut_sequences, open_sequences, sequence_columns
from pipeline.shown import ShownRequests
from pipeline.user_states import next_states, past_chunks, past_sequences, read_states

__all__ = ["BlockUsers", "Maker", "Past", "add_requests"]

Maker = ShownRequests | BasketRequests


@dataclass(frozen=True, kw_only=True)
class Past:
    """What users did before their requests."""

    placed: Table
    """the history events of the days being built, by `histories.placed_events`"""
    chunks: Table
    """the same and what came before those days, in chunks"""

    def measured(self, heads: Table, min_history: int) -> Table:
        """request_key, num_before (events of these days), long_enough (with those before them)."""
        counted = count_before(self.placed, heads)
        past = self.chunks.filter(self.chunks.chunk < 0)
        counted = counted.left_join(past.select("user_id", num_past="num_events"), "user_id")
        enough = counted.num_before + counted.num_past.fill_null(0) >= min_history
        return counted.select("request_key", "num_before", long_enough=enough)


@dataclass(frozen=True, kw_only=True)
class BlockUsers:
    """Builds one part of the users after the other."""

    engine: Engine
    made: Preparation
    before: date | None
    """the day whose states the users start from"""
    day_rows: Table
    """what was known when a day began, by `encoding.day_table`"""
    num_parts: int
    maker: Maker
    with_requests: bool

    def build(self, encoded: Table, part: int) -> None:
        """Add the part's rows to the tables of the block; part 0 starts them."""
        engine, requests, more = self.engine, self.made.requests, part > 0
        names = item_features(self.made.features)
        events = encoded.filter(encoded.part == part)
        states = self._states(part)
        placed = engine.computed("placed", placed_events(events, requests.history_actions, names))
        chunks = chunks_of(placed, ["event_time", *names], requests.max_history)
        if states is not None:
            chunks = ibis.union(chunks, past_chunks(states, names).select(chunks.columns))
        chunks = engine.computed("chunks", chunks)
        opened = self._sequences(events, placed, states, part)
        after = next_states(chunks, opened, names, requests.max_history)
        engine.computed("states", after, more=more)
        if self.with_requests:
            past = Past(placed=placed, chunks=chunks)
            add_requests(engine, self.made, self.maker, self.day_rows, past, events, part)

    def _states(self, part: int) -> Table | None:
        if self.before is None:
            return None
        features, num_parts = self.made.features, self.num_parts
        states = read_states(self.engine, self.made.root, features, self.before, num_parts)
        return states.filter(states.part == part)

    def _sequences(self, events: Table, placed: Table, states: Table | None, part: int) -> Table:
        """Add the part's pieces; returns those that stay open."""
        engine, settings = self.engine, self.made.sequences
        names = item_features(self.made.features)
        if set(settings.actions) != set(self.made.requests.history_actions):
            placed = placed_events(events, settings.actions, names)
        opened = past_sequences(states, names) if states is not None else None
        pieces = cut_sequences(placed, opened, settings, sequence_columns(self.made.features))
        pieces = engine.computed("pieces", pieces, more=part > 0)
        pieces = with_part(pieces, self.num_parts)
        return open_sequences(pieces.filter(pieces.part == part), settings)


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
    more, tasks = part > 0, list(made.tasks)
    heads = engine.computed("part_heads", maker.heads(events, part))
    measured = engine.computed("measured", past.measured(heads, made.requests.min_history))
    heads = heads.inner_join(measured, "request_key")
    engine.computed("heads", maker.to_count(heads), more=more)
    finished = finished_requests(
        maker.made(heads), past.chunks, day_rows, made.requests, made.features, tasks
    )
    engine.computed("requests", in_contract(finished, tasks, made.features), more=more)
