"""What a day adds to sequences: every event is new once, in the context it had that evening."""

from collections import Counter
from datetime import date

import pytest

import pipeline.day_chain
from pipeline.partitions import days_between
from pipeline.reader import Reader, ReaderSettings, Sequences
from pipeline.sequences import SequenceSettings
from tests.pipeline.small_days import DAYS, FEATURES, manifest_of, rows_of, run, tree
from tests.pipeline.test_sequences import buy

SETTINGS = SequenceSettings(actions=("purchase",), min_length=2, max_length=3, increments=True)
LOG = {"u": {1: 2, 2: 3, 3: 1, 4: 2}, "single": {1: 1, 3: 1}, "many": {2: 8}, "once": {2: 1}}
PRETRAINING = days_between(*DAYS.pretraining)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("increments")
    buy(folder / "source", **LOG)
    report = run(folder / "root", folder / "source", sequences=SETTINGS)
    return folder, report


def of_user(root, user):
    """Day, events in the piece, new ones among them."""
    return [
        (day.day, len(row["item_id"]), row["num_new"])
        for day in PRETRAINING
        for row in rows_of(root, "increments", day)
        if row["user_id"] == user
    ]


def test_pieces_as_they_were_in_the_evening(built):
    root = built[0] / "root"
    # Pieces of three: the second day fills the first piece and begins another one.
    assert of_user(root, "u") == [(1, 2, 2), (2, 3, 1), (2, 2, 2), (3, 3, 1), (4, 2, 2)]
    assert of_user(root, "single") == [(3, 2, 1)]
    assert sorted(of_user(root, "many")) == [(2, 2, 2), (2, 3, 3), (2, 3, 3)]
    assert of_user(root, "once") == []


def test_every_event_is_new_once(built):
    root, times = built[0] / "root", Counter()
    for day in PRETRAINING:
        for row in rows_of(root, "increments", day):
            new = row["event_time"][-row["num_new"] :]
            assert {time.date() for time in new} == {day}
            assert all(time.date() < day for time in row["event_time"][: -row["num_new"]])
            times.update((row["user_id"], time) for time in new)
    assert set(times.values()) == {1}
    # All but those that were alone in their piece: of `single` the first, of `once` the only one.
    assert times.total() == 8 + 1 + 8


def test_counts_say_how_much_there_is(built):
    root, report = built[0] / "root", built[1]
    manifest = manifest_of(root, "increments", date(2024, 5, 2))
    assert manifest.num_rows == 5
    assert manifest.counts == {"increments": 5, "events": 13, "new_events": 11}
    assert report.num_days["increments"] == len(PRETRAINING)


def test_the_same_bytes_day_by_day(built, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.day_chain, "EVENTS_PER_BLOCK", 1)
    run(tmp_path, built[0] / "source", sequences=SETTINGS)
    for name in ("increments", "sequences", "tails"):
        assert tree(tmp_path / name) == tree(built[0] / "root" / name)


def test_the_reader_knows_what_is_new(built):
    examples = Sequences(
        kind="increments", root=built[0] / "root", days=[date(2024, 5, 2)], features=FEATURES
    )
    reader = Reader(examples, ReaderSettings(batch_size=8, lanes=1, prefetch=0), shuffle=False)
    (batch,) = reader.batches(0)
    assert batch.num_new.sum() == 11
    assert (batch.num_new <= batch.offsets.diff()).all()
