"""What `prepare` publishes of random logs: what `reference` says, however days are built."""

import random
import shutil
from datetime import timedelta

import pytest

from pipeline import day_chain, duckdb_engine
from pipeline.partitions import days_between, read_manifest
from pipeline.prepare import prepare
from pipeline.schema import DaySettings
from pipeline.tasks import TaskSettings
from tests.pipeline.random_log import random_log, write_log
from tests.pipeline.reference import Reference
from tests.pipeline.small_days import (
    ENGINE,
    FEATURES,
    FIRST,
    REQUESTS,
    SHOWN,
    SHOWN_REQUESTS,
    SHOWN_SEQUENCES,
    preparation,
    rows_of,
    values_of,
    written,
)

DAYS = DaySettings(
    pretraining=(FIRST, FIRST + timedelta(days=2)),
    ranking=(FIRST + timedelta(days=1), FIRST + timedelta(days=2)),
    validation=(FIRST + timedelta(days=3), FIRST + timedelta(days=3)),
    test=(FIRST + timedelta(days=4), FIRST + timedelta(days=4)),
)
CLICKS = {"actions": ("click",), "history_actions": ("click", "purchase")}


def features(dtype, **item):
    return (FEATURES[0].model_copy(update={"dtype": dtype} | item), *FEATURES[1:])


def changed(settings, **values):
    return settings.model_copy(update=values)


OTHER_TASKS = {
    "sale": TaskSettings(
        label_actions=("purchase",), after="answer", same_request=True, window="23h"
    ),
    "answer": TaskSettings(label_actions=("click", "purchase"), window="61m"),
}
# Name -> type of the ids, and settings.
CASES = {
    "shown": (str, SHOWN | {"features": features("string", min_count=3)}),
    "hashed": (
        int,
        SHOWN
        | {"features": features("int64", hash_rows=1000)}
        | {"requests": changed(SHOWN_REQUESTS, max_candidates=3, min_history=2)}
        | {"tasks": OTHER_TASKS},
    ),
    "uniform": (str, {"features": features("string"), "requests": changed(REQUESTS, **CLICKS)}),
    "popularity": (
        int,
        {
            "features": features("int64", min_count=3),
            "requests": changed(REQUESTS, **CLICKS, negatives="popularity", min_history=0),
            "sequences": SHOWN_SEQUENCES,
        },
    ),
}


class Case:
    """A log, settings, and what was built of them with all days together."""

    def __init__(self, name, folder):
        self.ids, self.settings = CASES[name]
        self.log = random_log(len(name), self.ids)
        self.source = folder / "source"
        write_log(self.source, self.log)
        self.made = self.build(folder / "together")
        self.reference = Reference(self.made, self.log)

    def build(self, root):
        made = preparation(root, self.source, **self.settings | {"days": DAYS})
        prepare(made, ENGINE)
        return made


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Name -> case, each built once."""
    built = {}

    def case(name):
        if name not in built:
            built[name] = Case(name, tmp_path_factory.mktemp(name))
        return built[name]

    return case


def same_rows(found, expected):
    """Rows of a day, in whatever order; nothing of them left out."""
    for ours, theirs in zip(in_order(found), in_order(expected), strict=True):
        assert ours == theirs


def in_order(rows):
    names = ("user_id", "request_id", "event_time")
    return sorted(rows, key=lambda row: [row.get(name) for name in names if name in row])


@pytest.mark.parametrize("name", ["shown", "popularity"])
def test_vocabularies_sequences_and_tails(cases, name):
    made, reference = cases(name).made, cases(name).reference
    for feature, vocabulary in reference.vocabularies.items():
        assert values_of(made.root, feature, made.last_training_day) == [None, *vocabulary]
    days = days_between(*DAYS.pretraining)
    assert sum(len(rows_of(made.root, "sequences", day)) for day in days) > 10
    for day in days:
        same_rows(rows_of(made.root, "sequences", day), reference.sequences(day))
    same_rows(rows_of(made.root, "tails", DAYS.pretraining[1]), reference.tails())


@pytest.mark.parametrize("name", ["shown", "hashed"])
def test_requests_of_what_was_shown(cases, name):
    made, reference = cases(name).made, cases(name).reference
    for day in made.request_days:
        same_rows(rows_of(made.root, "requests", day), reference.shown_requests(day))
    assert (made.root / "vocabulary" / "item_id").exists() == (name == "shown")


@pytest.mark.parametrize("name", ["uniform", "popularity"])
def test_requests_against_items_that_are_drawn(cases, name):
    made, reference = cases(name).made, cases(name).reference
    for day in made.request_days:
        num_known = reference.num_known("item_id", day)
        catalogue = reference.catalogue(day)
        found, expected = rows_of(made.root, "requests", day), reference.basket_requests(day)
        assert found
        for ours, theirs in zip(in_order(found), in_order(expected), strict=True):
            positives = theirs.pop("positives")
            assert {column: ours[column] for column in theirs} == theirs
            items = ours["candidate_item_id"]
            chosen = {i for i, label in zip(items, ours["label_buy"], strict=True) if label}
            assert chosen == positives
            assert len(set(items)) == len(items)
            assert all(0 < item < num_known for item in items)
            if name == "uniform":
                assert len(items) == len(chosen) + min(len(chosen), num_known - 1 - len(chosen))
            assert ours["candidate_department"] == [catalogue[item][0] for item in items]


def content(folder):
    """What a manifest says of its folder's content, and not of how it was made."""
    names = {"input_digest", "config_digest", "code_version"}
    return read_manifest(folder).model_dump(exclude=names)


def same_builds(one, other):
    """All that both have is the same; returns how many folders that is."""
    kinds = ("sequences", "tails", "requests", "history", "catalogue", "vocabulary/*", "pending/*")
    common = 0
    for kind in kinds:
        for folder in one.glob(f"{kind}/day=*"):
            same = other / folder.relative_to(one)
            if same.is_dir():
                assert content(folder) == content(same), folder
                common += 1
            else:
                assert kind not in ("sequences", "tails", "requests")
    return common


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_parts"), [("shown", 1), ("popularity", 2)])
def test_days_one_by_one_after_an_old_day_was_another(
    cases, name, num_parts, tmp_path, monkeypatch
):
    """Days 2 to 5 are built on the state of day 1; some of what was published was lost."""
    case, second = cases(name), FIRST + timedelta(days=1)
    write_log(case.source, {second: case.log[second][::2]})
    monkeypatch.setattr(day_chain, "EVENTS_PER_BLOCK", len(case.log[FIRST]))
    root = case.build(tmp_path / "root").root
    assert content(root / "requests" / f"day={DAYS.test[0]}") != content(
        case.made.root / "requests" / f"day={DAYS.test[0]}"
    )
    write_log(case.source, {second: case.log[second]})
    folders = sorted(root.glob("[rst]e*/day=*"))
    folders = [folder for folder in folders if folder.name != f"day={FIRST}"]
    for folder in random.Random(5).sample(folders, 4):
        shutil.rmtree(folder)
    monkeypatch.setattr(day_chain, "EVENTS_PER_BLOCK", 1)
    in_parts(monkeypatch, num_parts)
    first = written(root / "history" / f"day={FIRST}")
    case.build(root)
    assert written(root / "history" / f"day={FIRST}") == first
    assert same_builds(case.made.root, root) >= 10


def test_users_in_parts_come_out_the_same(cases, tmp_path, monkeypatch):
    in_parts(monkeypatch, 3)
    root = cases("shown").build(tmp_path / "root").root
    assert same_builds(cases("shown").made.root, root) >= 10


def in_parts(monkeypatch, number):
    monkeypatch.setattr(duckdb_engine.DuckDBEngine, "num_user_parts", lambda *_: number)
