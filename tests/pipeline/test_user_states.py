"""States on disk: what they hold after a day, and which of them are kept."""

from pipeline import day_chain
from pipeline.partitions import days_between
from tests.pipeline.small_days import (
    DAYS,
    FIRST,
    at,
    event,
    rows_of,
    run,
    shop_days,
    values_of,
    write_day,
)

LAST = DAYS.training[1]


def test_a_state_is_what_the_next_day_must_know(tmp_path):
    for day in days_between(FIRST, DAYS.test[1]):
        write_day(tmp_path / "source", day, [event("u", day.day, at(day, 9), department="d")])
    write_day(tmp_path / "source", FIRST, [event("gone", 7, at(FIRST, 9))], name="b.parquet")
    run(tmp_path / "root", tmp_path / "source")
    names = values_of(tmp_path / "root", "item_id")
    states = {row["user_id"]: row for row in rows_of(tmp_path / "root", "history", LAST)}
    assert states.keys() == {"u", "gone"}
    # Four events of a history, and the fourth event opened the second sequence of three.
    assert [names[row] for row in states["u"]["history_item_id"]] == [1, 2, 3, 4]
    assert states["u"]["history_time"][0] == at(FIRST, 9)
    assert [names[row] for row in states["u"]["open_item_id"]] == [4]
    assert states["u"]["open_action"] == ["purchase"]
    assert states["u"]["open_time"] == [at(LAST, 9)]
    assert [names[row] for row in states["gone"]["history_item_id"]] == [7]
    after = {row["user_id"]: row for row in rows_of(tmp_path / "root", "history", DAYS.test[1])}
    # The last two days' items are not known to the vocabulary.
    assert [names[row] for row in after["u"]["history_item_id"]] == [3, 4, None, None]
    assert after["u"]["open_time"] == []
    assert after["gone"] == states["gone"]


def days_of(root, kind):
    return [int(path.name[-2:]) for path in sorted((root / kind).iterdir())]


def test_old_states_are_removed_but_that_of_the_last_training_day(tmp_path, monkeypatch):
    root = tmp_path / "root"
    shop_days(tmp_path / "source", num_users=2)
    monkeypatch.setattr(day_chain, "EVENTS_PER_BLOCK", 1)
    for keep, kept, of_training in (
        (9, [1, 2, 3, 4, 5, 6], [1, 2, 3, 4]),
        (3, [4, 5, 6], [2, 3, 4]),
    ):
        run(root, tmp_path / "source", keep_states=keep)
        assert days_of(root, "history") == kept
        for kind in ("catalogue", "vocabulary/item_id", "vocabulary/store_id"):
            assert days_of(root, kind) == of_training
    report = run(root, tmp_path / "source", keep_states=1)
    assert all(not built for built in report.built.values())
    assert days_of(root, "history") == [4, 6]
    assert days_of(root, "catalogue") == [4]
