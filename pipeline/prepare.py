"""Preparing, start to end: from what the user brings to what training reads.

    SOURCE/day=D -> events -> vocabulary, catalogue, history (the state after a day)
                           -> sequences, tails, requests                         (under ROOT)

A plain function; `jobs.prepare` is its command. Every folder it publishes records what it was made
from, so a rerun makes only what changed, and one that was killed leaves nothing half visible. Days
are built from the state that the day before left, never from earlier days' events.
"""

from collections.abc import Mapping, Sequence
from datetime import date

from ibis.expr.types import Table

from pipeline.block import build_block
from pipeline.block_outputs import BlockOutputs
from pipeline.classify import events_schema
from pipeline.day_chain import Block, blocks_of, chain, days_after
from pipeline.digests import code_version, texts_digest
from pipeline.engine import DUCKDB, Engine, EngineSettings, open_engine
from pipeline.errors import ConfigError, DataError
from pipeline.events import clean_events, event_manifests, read_events
from pipeline.examples import prepare_examples
from pipeline.last_event import prepare_last_events
from pipeline.partitions import Contents, Manifest, day_folder, days_between, remove_folder
from pipeline.preparation import Preparation, PrepareReport
from pipeline.requests import check_candidates
from pipeline.schema import check_features
from pipeline.settings import settings_digest
from pipeline.source import check_source
from pipeline.source_files import days_that_follow
from pipeline.tasks import final_tasks, lookahead_days
from pipeline.vocabulary import table_sizes

__all__ = ["prepare"]

# What decides a user's state, and with it all that is built from states.
STATE_CODE = (
    *(
        "vocabulary",
        "vocabulary_growth",
        "encoding",
        "catalogue",
        "hashing",
        "histories",
        "sequences",
    ),
    *("user_states", "shown", "corrected", "block", "block_users"),
)
REQUEST_CODE = (
    *STATE_CODE,
    *(
        "requests",
        "held_spans",
        "held_candidates",
        "baskets",
        "negatives",
        "labels",
        "later",
        "tasks",
    ),
)


def prepare(made: Preparation, settings: EngineSettings = DUCKDB) -> PrepareReport:
    """Make everything under `made.root` that is missing or was made from something else.

    Raises:
        ConfigError: features or columns that contradict the contract.
        DataError: what is wrong with the data brought, by day, file, column and reason.
    """
    check_features(made.features)
    check_source(made.source, made.features)
    check_candidates(made.requests, made.features)
    _check_holdout(made)
    with open_engine(made.root, settings) as engine:
        if made.source.kind == "examples":
            prepare_examples(engine, made)
        elif made.requests.candidates == "last_event":
            prepare_last_events(engine, made)
        else:
            _prepare_days(engine, made)
    sizes = table_sizes(made.root, made.features, made.last_training_day)
    made.report.table_rows = {name: num_rows for name, (num_rows, _) in sizes.items()}
    return made.report


def _check_holdout(made: Preparation) -> None:
    by_day = made.source.kind == "events" and made.requests.candidates != "last_event"
    if made.holdout.share and not by_day:
        raise ConfigError(
            "holdout.share: users are held out of days of events; with source.kind = 'examples' or "
            "requests.candidates = 'last_event' leave it out"
        )


def _prepare_days(engine: Engine, made: Preparation) -> None:
    manifests = _clean(engine, made)
    plan = _Plan(made, manifests)
    for block in plan.blocks():
        events = _events(engine, made, plan.of_days(block.days))
        following = days_after(manifests, block.days[-1], lookahead_days(made.tasks))
        later = _later(_events(engine, made, plan.of_days(following)))
        build_block(engine, made, block, events, later, plan.outputs(block))
    plan.remove_old_states()
    made.collect("sequences", days_between(*made.days.pretraining), list(plan.sequences))
    made.collect("tails", [made.days.pretraining[1]], list(plan.tails))
    if made.sequences.increments:
        made.collect("increments", days_between(*made.days.pretraining), list(plan.increments))
    made.collect("requests", made.request_days, list(plan.requests))
    if made.holdout.share:
        made.collect("held_out", made.request_days, list(plan.held_out))
    made.report.open_days = plan.open_days


def _clean(engine: Engine, made: Preparation) -> dict[date, Manifest]:
    """Manifests of all days that are built, and of those after them that their labels need."""
    first, last = made.days.training[0], made.days.last
    wanted = days_between(first, last)
    wanted += days_that_follow(
        made.source.path,
        last,
        _days_ahead(made),
        success_marker=made.source.success_marker,
        allow_missing=made.source.missing_days == "allow",
    )
    cleaned = clean_events(engine, made.root, made.cleaning, wanted, made.progress)
    manifests = event_manifests(made.root, wanted)
    made.report.add("events", manifests, cleaned.built)
    made.report.not_taken_in = cleaned.not_taken_in
    if not made.report.num_rows["events"]:
        raise DataError(
            f"{made.source.path}: no events at all from {wanted[0]} to {wanted[-1]}; bring those "
            "days, or correct [days]"
        )
    return manifests


def _days_ahead(made: Preparation) -> int:
    """How many days after the last one are looked at, for labels."""
    days = lookahead_days(made.tasks)
    return days if made.days.until is None else min(days, (made.days.until - made.days.last).days)


def _events(engine: Engine, made: Preparation, manifests: Mapping[date, Manifest]) -> Table:
    """Cleaned events of the days, which may have none at all."""
    if any(manifest.num_rows for manifest in manifests.values()):
        return read_events(engine, made.root, manifests)
    events = engine.in_memory(events_schema(made.features).empty_table())
    events = events.mutate(event_time=events.event_time.cast("timestamp(6)"))
    return events.mutate(day=events.event_time.date())


def _later(events: Table) -> Table:
    """What labels need of events after their day."""
    columns = ["user_id", "action", "event_time", "request_id", "day"]
    return events.select(*columns, raw_item=events.item_id)


class _Plan:
    """What is stale, and what it is made from."""

    def __init__(self, made: Preparation, manifests: Mapping[date, Manifest]) -> None:
        self._made = made
        self._manifests = manifests
        digests = {day: manifest.content_digest for day, manifest in manifests.items()}
        self._chain = chain(self._state_config(), digests, made.last_training_day)
        self.sequences = self._stale_sequences()
        self.tails = self._stale_tails()
        self.increments = self._stale_increments()
        self.requests = self._stale_requests(digests)
        self.held_out = self._stale_held_out()

    @property
    def open_days(self) -> dict[str, list[date]]:
        """Task -> request days that are not final for it."""
        days = self._made.request_days
        return {
            task: [day for day in days if task not in self._final(day)] for task in self._made.tasks
        }

    def blocks(self) -> list[Block]:
        """What to build; training ends with a state, which consumers read."""
        made = self._made
        last_training_day = made.last_training_day
        stale = {*self.sequences, *self.tails, *self.increments, *self.requests}
        if not self._has_state(last_training_day):
            stale.add(last_training_day)
        return list(
            blocks_of(
                days=list(self._manifests),
                stale=stale,
                has_state=self._has_state,
                ends=(made.days.pretraining[1], last_training_day),
                num_events={day: m.num_rows for day, m in self._manifests.items()},
            )
        )

    def of_days(self, days: Sequence[date]) -> dict[date, Manifest]:
        """Manifests of some days."""
        return {day: self._manifests[day] for day in days}

    def outputs(self, block: Block) -> BlockOutputs:
        """What of the block is published."""
        made, last = self._made, block.days[-1]
        kinds = ["history"]
        if last <= made.last_training_day:
            kinds += ["vocabulary", "catalogue"]
        requests = {day: c for day, c in self.requests.items() if day in block.days}
        return BlockOutputs(
            sequences={day: c for day, c in self.sequences.items() if day in block.days},
            tails={day: c for day, c in self.tails.items() if day == last},
            increments={day: c for day, c in self.increments.items() if day in block.days},
            requests=requests,
            held_out={day: c for day, c in self.held_out.items() if day in block.days},
            state={kind: self._state_contents(kind, last) for kind in kinds},
            final={t: [d for d in requests if t in self._final(d)] for t in made.tasks},
        )

    def remove_old_states(self) -> None:
        """Keep the latest states, and that of the last training day."""
        made = self._made
        for kind in ("history", "catalogue", "vocabulary/*", "pending/*"):
            for folder in made.root.glob(kind):
                days = sorted(folder.glob("day=*"))
                training = day_folder(folder.parent, folder.name, made.last_training_day)
                for old in {*days[: -made.keep_states]} - {training}:
                    remove_folder(old)

    def _state_config(self) -> str:
        made = self._made
        shown = made.requests.actions if made.requests.candidates == "events" else ()
        texts = [
            made.columns_digest,
            str((made.requests.history_actions, made.requests.max_history, shown)),
            str((made.sequences.actions, made.sequences.max_length)),
            code_version(*STATE_CODE),
        ]
        return texts_digest(texts)

    def _state_contents(self, kind: str, day: date) -> Contents:
        return self._made.contents(kind, day, self._chain[day], "", "")

    def _has_state(self, day: date) -> bool:
        """Whether the state after `day` is there, and what it says is still true."""
        known_day = min(day, self._made.last_training_day)
        state = [("history", day), ("catalogue", known_day), ("vocabulary", known_day)]
        return self._made.is_built([self._state_contents(kind, d) for kind, d in state])

    def _stale_sequences(self) -> dict[date, Contents]:
        days = days_between(*self._made.days.pretraining)
        inputs = {day: self._chain[day] for day in days}
        return self._made.stale_days("sequences", inputs, self._holdout_config(), "")

    def _stale_increments(self) -> dict[date, Contents]:
        if not self._made.sequences.increments:
            return {}
        inputs = {day: self._chain[day] for day in days_between(*self._made.days.pretraining)}
        return self._made.stale_days("increments", inputs, self._holdout_config(), "")

    def _stale_held_out(self) -> dict[date, Contents]:
        """Those of the stale requests: they are published together, held-out users first."""
        if not self._made.holdout.share:
            return {}
        return {day: c.model_copy(update={"kind": "held_out"}) for day, c in self.requests.items()}

    def _holdout_config(self) -> str:
        return settings_digest(self._made.holdout) if self._made.holdout.share else ""

    def _stale_tails(self) -> dict[date, Contents]:
        day = self._made.days.pretraining[1]
        config = f"{self._made.sequences.min_length}{self._holdout_config()}"
        return self._made.stale_days("tails", {day: self._chain[day]}, config, "")

    def _stale_requests(self, digests: Mapping[date, str]) -> dict[date, Contents]:
        made = self._made
        inputs: dict[date, str] = {}
        for day in made.request_days:
            later = days_after(self._manifests, day, lookahead_days(made.tasks))
            texts = [self._chain[day], *(digests[other] for other in later), *self._final(day)]
            inputs[day] = texts_digest(texts)
        tasks = [f"{name} {settings_digest(task)}" for name, task in made.tasks.items()]
        config = texts_digest([settings_digest(made.requests), *tasks, self._holdout_config()])
        return made.stale_days("requests", inputs, config, code_version(*REQUEST_CODE))

    def _final(self, day: date) -> list[str]:
        return final_tasks(self._made.tasks, day, max(self._manifests))
