from datetime import date

import pytest
from pydantic import ValidationError

from pipeline.partitions import day_folder, days_between, read_manifest
from pipeline.sequences import SequenceSettings
from tests.pipeline.small_days import DAYS, FIRST, at, event, rows_of, run, values_of, write_day


def buy(folder, per_day, user="u"):
    """Day number -> that many purchases of the user, each item new."""
    item = 0
    for day in days_between(FIRST, DAYS.test[1]):
        rows = [event("somebody else", 1000, at(day, 1))]
        for hour in range(per_day.get(day.day, 0)):
            item += 1
            rows.append(event(user, item, at(day, hour)))
        write_day(folder, day, rows)


def all_sequences(root):
    return [
        (day.day, row)
        for day in days_between(*DAYS.pretraining)
        for row in rows_of(root, "sequences", day)
        if row["user_id"] == "u"
    ]


def test_pieces_lie_on_the_day_of_their_last_event(tmp_path):
    buy(tmp_path / "source", {1: 2, 2: 3, 3: 1, 4: 2})
    report = run(tmp_path / "root", tmp_path / "source")
    names = values_of(tmp_path / "root", "item_id")
    found = [
        (day, [names[row] for row in sequence["item_id"]])
        for day, sequence in all_sequences(tmp_path / "root")
    ]
    assert found == [(2, [1, 2, 3]), (3, [4, 5, 6]), (4, [7, 8])]
    first = all_sequences(tmp_path / "root")[0][1]
    assert first["event_time"] == [at(FIRST, 0), at(FIRST, 1), at(date(2024, 5, 2), 0)]
    assert first["action"] == ["purchase"] * 3
    assert len(first["department"]) == 3
    counts = report.counts["sequences"]
    # The other user has four events: one piece of three, and one event dropped.
    assert counts == {"sequences": 4, "events": 11, "dropped_pieces": 1, "dropped_events": 1}


def test_a_short_last_piece_is_dropped_and_counted_on_its_day(tmp_path):
    buy(tmp_path / "source", {1: 3, 3: 1})
    run(tmp_path / "root", tmp_path / "source")
    assert [day for day, _ in all_sequences(tmp_path / "root")] == [1]
    manifest = read_manifest(day_folder(tmp_path / "root", "sequences", date(2024, 5, 3)))
    assert manifest.counts["dropped_events"] == 1


def test_only_the_chosen_actions_are_taken(tmp_path):
    buy(tmp_path / "source", {1: 3})
    run(tmp_path / "root", tmp_path / "source", sequences=SequenceSettings(actions=("click",)))
    assert all_sequences(tmp_path / "root") == []


def test_equal_times_are_ordered_the_same_whatever_the_files_order(tmp_path):
    rows = [event("u", item, at(FIRST, 5), request="r") for item in range(3)]
    found = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        buy(tmp_path / name, {})
        write_day(tmp_path / name, FIRST, order)
        run(tmp_path / f"root-{name}", tmp_path / name)
        found.append(all_sequences(tmp_path / f"root-{name}"))
    assert found[0] == found[1]
    assert len(found[0][0][1]["item_id"]) == 3


def test_lengths_out_of_order():
    with pytest.raises(ValidationError, match=r"sequences\.min_length is 60, more than"):
        SequenceSettings(min_length=60, max_length=50)
