"""The public data sets' protocol: each user's last event against drawn items, users being split.

    events of days.pretraining -> all but each user's last -> vocabularies, catalogue, sequences
                               -> the last ones -> requests of training, validation and test users

Users whose last events are the latest (`split = "time"`), or whose hash says so ("hash"), are test
users; validation users are taken from the others by hash. As the groups are users and not days,
their requests are filed under the first day of days.ranking, days.validation and days.test, which
come after the log and have no events of their own. Source: the GPSD paper, section 5 (public data
sets), and what its code does where the paper is silent: test users are those whose last event is
later than 70% of all, pretraining sees every user up to the event before the last.

Everything is built at once: there is no next day in such a data set.
"""

from collections.abc import Mapping

import ibis
from ibis.expr.types import Table

from pipeline.baskets import BasketRequests
from pipeline.block_outputs import BlockOutputs, publish_block
from pipeline.block_users import Asked, Past, RequestsMade, add_requests, all_spans
from pipeline.catalogue import Catalogue, grow_catalogue
from pipeline.corrected import PartEvents
from pipeline.digests import code_version, texts_digest
from pipeline.encoding import Known, day_table, encoded_events, with_part
from pipeline.engine import Engine
from pipeline.errors import ConfigError
from pipeline.events import clean_events, event_manifests, read_events
from pipeline.hashing import hash_key, hash_number
from pipeline.histories import placed_events
from pipeline.negatives import make_pool
from pipeline.partitions import days_between
from pipeline.preparation import Preparation
from pipeline.schema import item_features
from pipeline.sequences import cut_sequences, sequence_columns
from pipeline.settings import settings_digest
from pipeline.vocabulary_growth import GrownVocabulary, grow_vocabulary, hashed_rows

__all__ = ["prepare_last_events"]

CODE = (
    *(
        "last_event",
        "vocabulary",
        "vocabulary_growth",
        "encoding",
        "catalogue",
        "hashing",
        "histories",
        "sequences",
    ),
    *("requests", "baskets", "negatives"),
)
HASH_SPACE = 2**52


def prepare_last_events(engine: Engine, made: Preparation) -> None:
    """Build sequences and requests of the protocol, if anything changed.

    Raises:
        ConfigError: the days of the groups are days of the log.
        DataError: as when days are built one after the other.
    """
    if not (made.days.validation and made.days.test):
        raise ConfigError(
            "days.validation, days.test: required with requests.candidates = 'last_event', whose "
            "groups of users they name"
        )
    if made.days.ranking[0] <= made.days.pretraining[1]:
        raise ConfigError(
            f"days.ranking: {made.days.ranking[0]} is a day of the log (days.pretraining); with "
            "requests.candidates = 'last_event' the days of ranking, validation and test only "
            "name the groups of users, so choose days after it"
        )
    days = days_between(*made.days.pretraining)
    cleaned = clean_events(engine, made.root, made.cleaning, days, made.progress)
    manifests = event_manifests(made.root, days)
    made.report.add("events", manifests, cleaned.built)
    made.report.not_taken_in = cleaned.not_taken_in
    inputs = texts_digest(manifest.content_digest for manifest in manifests.values())
    config = texts_digest([settings_digest(made.requests), settings_digest(made.sequences)])
    outputs = _outputs(made, inputs, config)
    stale = [outputs.sequences, outputs.tails, outputs.requests]
    if any(stale) or not made.is_built(list(outputs.state.values())):
        events = read_events(engine, made.root, manifests)
        _build(engine, made, events, outputs)
    made.collect("sequences", days, list(outputs.sequences))
    made.collect("tails", days[-1:], list(outputs.tails))
    made.collect("requests", made.request_days, list(outputs.requests))


def _outputs(made: Preparation, inputs: str, config: str) -> BlockOutputs:
    version, last = code_version(*CODE), made.days.pretraining[1]
    days = dict.fromkeys(days_between(*made.days.pretraining), inputs)
    requests = dict.fromkeys(made.request_days, inputs)
    kinds = ("vocabulary", "catalogue")
    return BlockOutputs(
        sequences=made.stale_days("sequences", days, config, version),
        tails=made.stale_days("tails", {last: inputs}, config, version),
        increments={},
        requests=made.stale_days("requests", requests, config, version),
        held_out={},
        state={
            kind: made.contents(kind, made.last_training_day, inputs, config, version)
            for kind in kinds
        },
        final=dict.fromkeys(made.tasks, made.request_days),
    )


def _build(engine: Engine, made: Preparation, events: Table, outputs: BlockOutputs) -> None:
    """From cleaned events to published folders."""
    raw = engine.computed("marked", _marked(events, made.requests.actions))
    earlier = raw.filter(~raw.is_last)
    # Everything is built at once, so the first day knows what the last one does.
    days = [*days_between(*made.days.pretraining), made.last_training_day]
    grown = {
        feature.name: grow_vocabulary(
            engine,
            made.root,
            feature,
            None,
            earlier.select(value=feature.name, day=ibis.literal(days[0])),
            days,
        )
        for feature in made.features
        if feature.hash_rows is None
    }
    values = {name: vocabulary.values.select("value", "row") for name, vocabulary in grown.items()}
    values |= {f.name: hashed_rows(f, raw) for f in made.features if f.hash_rows is not None}
    encoded = encoded_events(engine, made.features, values, with_part(raw, 1))
    before = encoded.filter(~encoded.is_last).drop("is_last")
    before = engine.computed("before", before)
    last = encoded.filter(encoded.is_last).drop("is_last")
    last = engine.computed("last", _in_groups(last, made))
    catalogue = grow_catalogue(engine, made.features, None, before, made.requests.history_actions)
    known = {day: _known(made, grown) for day in made.request_days}
    maker = _maker(engine, made, catalogue, day_table(engine, made.features, known))
    _build_users(engine, made, before, last, maker)
    publish_block(engine, made, outputs, known, grown, catalogue, RequestsMade(maker=maker))


def _marked(events: Table, actions: tuple[str, ...]) -> Table:
    """Events and `is_last`: whether it is its user's last one of these actions."""
    chosen = events.action.isin(actions)
    key = hash_key(events.item_id.cast("string"), events.request_id.fill_null(""))
    order = [events.event_time.desc(), key]
    place = ibis.row_number().over(group_by=[events.user_id, chosen], order_by=order)
    return events.mutate(is_last=chosen & (place == 0))


def _in_groups(last: Table, made: Preparation) -> Table:
    """Each user's last event, its day being that of the user's group."""
    settings = made.requests
    seed = str(settings.seed)
    share = hash_number(hash_key(seed, "validation", last.user_id)) / HASH_SPACE
    last = last.mutate(
        user_key=hash_key(seed, last.user_id), in_validation=share < settings.validation_share
    )
    if settings.split == "hash":
        in_test = hash_number(last.user_key) / HASH_SPACE < settings.test_share
    else:
        order = ibis.window(order_by=[last.event_time, last.user_key])
        in_test = ibis.row_number().over(order) >= last.count().over() * (1 - settings.test_share)
    ranges = made.days.ranges
    day = ibis.cases(
        (in_test, ranges["test"][0]),
        (last.in_validation, ranges["validation"][0]),
        else_=made.days.ranking[0],
    )
    return last.mutate(day=day).drop("user_key", "in_validation")


def _known(made: Preparation, grown: Mapping[str, GrownVocabulary]) -> Known:
    rows = {f.name: f.hash_rows or grown[f.name].last_num_rows for f in made.features}
    digests = {
        f.name: f.fixed_digest if f.hash_rows else grown[f.name].last_digest for f in made.features
    }
    return Known(as_of=made.last_training_day, num_rows=rows, digests=digests)


def _maker(
    engine: Engine, made: Preparation, catalogue: Catalogue, day_rows: Table
) -> BasketRequests:
    return BasketRequests(
        engine=engine,
        settings=made.requests,
        task=next(iter(made.tasks)),
        features=made.features,
        days=made.request_days,
        day_rows=day_rows,
        versions=catalogue.versions,
        pool=make_pool(engine, made.requests.negatives, catalogue.recent, day_rows),
    )


def _build_users(
    engine: Engine, made: Preparation, before: Table, last: Table, maker: BasketRequests
) -> None:
    """The tables that are published: pieces, heads, requests."""
    names = item_features(made.features)
    in_sequences = placed_events(before, made.sequences.actions, names)
    columns = sequence_columns(made.features)
    pieces = cut_sequences(engine, in_sequences, None, made.sequences, columns)
    engine.computed("pieces", pieces)
    engine.forget("heads", "requests")
    placed = placed_events(before, made.requests.history_actions, names)
    placed = engine.computed("placed", placed)
    past = Past(placed=placed, spans=all_spans(engine, made, placed, None))
    asked = Asked(events=PartEvents(others=last), part=ibis.literal(0))
    add_requests(engine, made, maker, maker.day_rows, past, asked)
