"""Building a block of days: from their events and the state before them to all that is published.

    events of the days -> vocabularies, catalogue -> encoded events
        -> `block_users`, a part of the users at a time -> pieces, requests, users' states
        -> `block_outputs` -> sequences/, tails/, requests/, and the state after the last day

The rows do not depend on how days are divided into blocks, nor users into parts.
"""

from collections.abc import Mapping
from datetime import date, timedelta

from ibis.expr.types import Table

from pipeline.baskets import BasketRequests
from pipeline.block_outputs import BlockOutputs, publish_block
from pipeline.block_users import BlockUsers, RequestsMade
from pipeline.catalogue import Catalogue, grow_catalogue, read_catalogue
from pipeline.day_chain import Block
from pipeline.encoding import Known, day_table, encoded_events, with_part
from pipeline.engine import Engine
from pipeline.later import LaterEvents
from pipeline.negatives import make_pool
from pipeline.preparation import Preparation
from pipeline.schema import FeatureSettings
from pipeline.shown import ShownRequests
from pipeline.vocabulary_growth import (
    GrownVocabulary,
    grow_vocabulary,
    hashed_rows,
    read_vocabulary,
)

__all__ = ["build_block"]


def build_block(
    engine: Engine,
    made: Preparation,
    block: Block,
    events: Table,
    later: Table,
    outputs: BlockOutputs,
) -> None:
    """Build the block's days from cleaned `events`, and publish what is asked for.

    `later` are cleaned events of the days after it, as far as its labels depend on them.
    """
    vocabularies = {
        feature.name: _vocabulary(engine, made, block, feature, events)
        for feature in made.features
        if feature.hash_rows is None
    }
    values = {name: grown.values for name, grown in vocabularies.items()}
    values |= {f.name: hashed_rows(f, events) for f in made.features if f.hash_rows is not None}
    (total,) = engine.rows_of(events.agg(count=events.count()))
    num_parts = engine.num_user_parts(total["count"])
    encoded = encoded_events(engine, made.features, values, with_part(events, num_parts))
    catalogue = _catalogue(engine, made, block, encoded)
    known = _known(made, block, vocabularies)
    day_rows = day_table(engine, made.features, known)
    if made.requests.candidates == "events":
        maker = _shown(engine, made, block, outputs, later, num_parts)
    else:
        maker = _baskets(engine, made, outputs, catalogue, day_rows)
    users = BlockUsers(
        made=made,
        before=block.before,
        day_rows=day_rows,
        num_parts=num_parts,
        maker=maker,
        with_requests=bool(outputs.requests),
        with_open=bool(outputs.tails or outputs.increments),
        final=outputs.final,
    )
    built = RequestsMade(maker=maker, held=users.build(engine, encoded))
    publish_block(engine, made, outputs, known, vocabularies, catalogue, built)


def _known_day(made: Preparation, block: Block) -> date | None:
    """The day whose vocabularies and catalogue the block starts from."""
    return min(block.before, made.last_training_day) if block.before else None


def _is_training(made: Preparation, block: Block) -> bool:
    return block.days[-1] <= made.last_training_day


def _vocabulary(
    engine: Engine, made: Preparation, block: Block, feature: FeatureSettings, events: Table
) -> GrownVocabulary:
    """Grown by the block's days; held-out days know what training ended with."""
    if not _is_training(made, block):
        return read_vocabulary(engine, made.root, feature, made.last_training_day)
    seen = events.select("day", value=feature.name)
    return grow_vocabulary(engine, made.root, feature, _known_day(made, block), seen, block.days)


def _catalogue(engine: Engine, made: Preparation, block: Block, encoded: Table) -> Catalogue:
    known_day = _known_day(made, block)
    before = read_catalogue(engine, made.root, made.features, known_day) if known_day else None
    if before and not _is_training(made, block):
        return before
    return grow_catalogue(engine, made.features, before, encoded, made.requests.history_actions)


def _known(
    made: Preparation, block: Block, vocabularies: Mapping[str, GrownVocabulary]
) -> dict[date, Known]:
    """What was known when each day began."""
    known: dict[date, Known] = {}
    for day in block.days:
        as_of = min(day - timedelta(days=1), made.last_training_day)
        rows = {f.name: f.hash_rows or 1 for f in made.features}
        digests = {f.name: f.fixed_digest for f in made.features if f.hash_rows is not None}
        for name, grown in vocabularies.items():
            rows[name], digests[name] = grown.by(as_of)
        known[day] = Known(as_of=as_of, num_rows=rows, digests=digests)
    return known


def _shown(
    engine: Engine,
    made: Preparation,
    block: Block,
    outputs: BlockOutputs,
    later: Table,
    num_parts: int,
) -> ShownRequests:
    days = list(outputs.requests)
    later_events = LaterEvents(
        engine=engine,
        events=later,
        last_day=block.days[-1],
        shown_actions=made.requests.actions,
        tasks=made.tasks,
    )
    return ShownRequests(
        engine=engine,
        settings=made.requests,
        tasks=made.tasks,
        features=made.features,
        days=days,
        final=outputs.final,
        later=later_events,
        # Without requests nobody asks for labels.
        later_actions=later_events.actions(num_parts) if days else later,
    )


def _baskets(
    engine: Engine,
    made: Preparation,
    outputs: BlockOutputs,
    catalogue: Catalogue,
    day_rows: Table,
) -> BasketRequests:
    return BasketRequests(
        engine=engine,
        settings=made.requests,
        task=next(iter(made.tasks)),
        features=made.features,
        days=list(outputs.requests),
        day_rows=day_rows,
        versions=catalogue.versions,
        pool=make_pool(engine, made.requests.negatives, catalogue.recent, day_rows),
    )
