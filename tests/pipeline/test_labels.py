"""What makes a label 1: a user and an item a case, all shown at 23:30 of one day."""

import shutil
from datetime import timedelta

import pytest

from pipeline.data_checks import DataCheckSettings
from pipeline.errors import DataCheckError
from pipeline.partitions import days_between
from pipeline.tasks import TaskSettings
from tests.pipeline.small_days import (
    DAYS,
    FIRST,
    SHOWN,
    SHOWN_TASKS,
    at,
    event,
    manifest_of,
    rows_of,
    run,
    values_of,
    write_day,
)

DAY = DAYS.ranking[0]
SHOWN_AT = at(DAY, 23, 30)
OWN = "own request"
DAY_MINUTES = 24 * 60

# Name -> what followed (minutes later, action, request id) and the labels ctr and cvr: clicks count
# for an hour, and with the request's id only, if they have one; purchases for a day after a click.
CASES = {
    "nothing": ([], (0, None)),
    "at once": ([(0, "click", OWN)], (1, 0)),
    "in the window's last minute": ([(59, "click", OWN)], (1, 0)),
    "at the window's end": ([(60, "click", OWN)], (0, None)),
    "after midnight": ([(31, "click", OWN)], (1, 0)),
    "by a clock that is behind": ([(-10, "click", OWN)], (1, 0)),
    "before, of no request": ([(-10, "click", None)], (0, None)),
    "after, of no request": ([(10, "click", None)], (1, 0)),
    "of another request": ([(10, "click", "another")], (0, None)),
    "another action": ([(10, "like", OWN)], (0, None)),
    "bought at once": ([(5, "click", OWN), (5, "purchase", None)], (1, 1)),
    "bought in the last minute": (
        [(5, "click", OWN), (5 + DAY_MINUTES - 1, "purchase", None)],
        (1, 1),
    ),
    "bought at the window's end": (
        [(5, "click", OWN), (5 + DAY_MINUTES, "purchase", None)],
        (1, 0),
    ),
    "the first click counts": (
        [(50, "click", OWN), (5, "click", OWN), (6 + DAY_MINUTES, "purchase", None)],
        (1, 0),
    ),
    "a click too late, and bought": ([(70, "click", OWN), (80, "purchase", None)], (0, None)),
    "bought without a click": ([(5, "purchase", OWN)], (0, None)),
    "bought before the click": ([(10, "click", OWN), (5, "purchase", None)], (1, 0)),
    "bought for another request": ([(5, "click", OWN), (6, "purchase", "another")], (1, 1)),
}


def log_of(case, number):
    answers, _ = CASES[case]
    yield event(case, number, SHOWN_AT, OWN, action="impression")
    # The page goes on.
    yield event(case, 901, SHOWN_AT + timedelta(minutes=10), OWN, action="impression")
    # Somebody else's, and of another item: these say nothing.
    yield event(case, 900, SHOWN_AT + timedelta(minutes=1), OWN, action="click")
    for minutes, action, request in answers:
        time = SHOWN_AT + timedelta(minutes=minutes)
        yield event(case, number, time, request, action=action)


def over_midnight(day):
    """The page goes on at 0:31, so that a click that carries its id is not before that."""
    for minutes, action in ((0, "impression"), (50, "click"), (61, "impression")):
        time = at(day, 23, 30) + timedelta(minutes=minutes)
        yield event("night", 902, time, f"night {day}", action=action)


def write_source(folder, *more):
    log = [row for number, case in enumerate(CASES) for row in log_of(case, number)]
    log += [row for day in days_between(*DAYS.ranking) for row in over_midnight(day)]
    log += more
    for day in days_between(FIRST, DAYS.test[1]):
        rows = [row for row in log if row["event_time"].date() == day]
        fillers = [event("filler", 800, at(day, hour), action="impression") for hour in (1, 2)]
        fillers.append(event("other", 901, at(day, 3), action="like"))
        write_day(folder, day, rows + fillers)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    write_source(folder / "source")
    report = run(folder / "root", folder / "source", **SHOWN)
    return folder, report, labels_of(folder / "root")


def labels_of(root):
    """User -> the request, with the labels of the first item only."""
    items = values_of(root, "item_id")
    found = {}
    for row in rows_of(root, "requests", DAY):
        shown = [items[number] for number in row["candidate_item_id"]]
        # Items of the day itself are unknown; the page's second one is known from the day before.
        first = next((n for n, item in enumerate(shown) if item != 901), 0)
        labels = {name: row[name][first] for name in row if name.startswith("label_")}
        found[row["user_id"]] = row | labels
    return found


@pytest.mark.parametrize("case", CASES)
def test_labels(built, case):
    _, _, labels = built
    ctr, cvr = CASES[case][1]
    assert labels[case]["label_ctr"] == ctr
    assert labels[case]["label_cvr"] == cvr


def test_clocks_are_put_right_alike_in_days_built_together_and_after_them(built):
    """The first night is within a block of days, the second at its end."""
    for day in days_between(*DAYS.ranking):
        rows = rows_of(built[0] / "root", "requests", day)
        (first,) = [row for row in rows if row["user_id"] == "night" and row["request_time"].hour]
        assert first["label_ctr"] == [0]


def test_labels_are_null_until_they_are_final(built):
    folder, report, _ = built
    assert report.open_days == {"ctr": [DAYS.test[0]], "cvr": [DAYS.validation[0], DAYS.test[0]]}
    days = days_between(DAYS.ranking[0], DAYS.test[0])
    found = {day.day: manifest_of(folder / "root", "requests", day) for day in days}
    final = {day: manifest.final_tasks for day, manifest in found.items()}
    assert final == {3: ("ctr", "cvr"), 4: ("ctr", "cvr"), 5: ("ctr",), 6: ()}
    labels = {
        day.day: [
            row["label_ctr"]
            for row in rows_of(folder / "root", "requests", day)
            if row["user_id"] == "filler"
        ]
        for day in days
    }
    assert labels[5] == [[0], [0]]
    assert labels[6] == [[None], [None]]
    assert found[6].counts["label_ctr_applies"] == 0
    assert found[5].counts["label_ctr_applies"] == found[5].counts["candidates"] > 0


def test_a_day_more_makes_labels_final_and_leaves_other_days_alone(built, tmp_path):
    shutil.copytree(built[0], tmp_path, dirs_exist_ok=True)
    root, day = tmp_path / "root", DAYS.test[0]
    write_day(
        tmp_path / "source",
        day + timedelta(days=1),
        [event("filler", 800, at(day + timedelta(days=1), 0, 30), action="click")],
    )
    report = run(root, tmp_path / "source", **SHOWN)
    assert report.built["requests"] == [DAYS.validation[0], day]
    assert report.built["events"] == [day + timedelta(days=1)]
    assert manifest_of(root, "requests", day).final_tasks == ("ctr",)
    assert [row["label_ctr"] for row in rows_of(root, "requests", day)] == [[0], [0]]
    assert manifest_of(root, "requests", DAYS.validation[0]).final_tasks == ("ctr", "cvr")


def test_a_rate_is_checked_of_labels_that_are_final(tmp_path):
    """A day whose purchases may still come is not one without any, until they cannot."""
    root, source, late = tmp_path / "root", tmp_path / "source", DAYS.test[0] + timedelta(days=1)
    bought = [
        event("buyer", 901, at(DAYS.ranking[1], 5, minute), "sale", action=action)
        for minute, action in enumerate(("impression", "click", "purchase"))
    ]
    write_source(source, *bought)
    made = {**SHOWN, "checks": DataCheckSettings(label_rate={"cvr": (0.01, 1.0)})}
    run(root, source, **made)
    assert manifest_of(root, "requests", DAYS.validation[0]).final_tasks == ("ctr",)
    write_day(source, late, [event("other", 901, at(late, 3), action="like")])
    with pytest.raises(DataCheckError, match=f"day {DAYS.validation[0]}: .* of cvr are positive"):
        run(root, source, **made)


def test_answers_to_nothing_that_was_shown_are_counted(built):
    """One click on item 900 a case, and those before anything was shown; none of a day after."""
    folder, _, _ = built
    counts = manifest_of(folder / "root", "requests", DAY).counts
    # The one without an id that came before, and the one of another request.
    assert counts["ctr_without_candidate"] == len(CASES) + 2
    # Only the clock that is behind, and it is put right.
    assert counts["corrected_times"] == 1
    assert (
        counts["label_ctr_positives"] == sum(labels == (1, 0) for _, labels in CASES.values()) + 3
    )


def test_windows_are_settings(tmp_path):
    write_source(tmp_path / "source")
    tasks = SHOWN_TASKS | {
        "ctr": TaskSettings(label_actions=("click", "like"), window="61m"),
        "saved": TaskSettings(label_actions=("like",), window="1h"),
    }
    run(tmp_path / "root", tmp_path / "source", **(SHOWN | {"tasks": tasks}))
    found = labels_of(tmp_path / "root")
    assert found["at the window's end"]["label_ctr"] == 1
    assert found["of another request"]["label_ctr"] == 1
    assert found["another action"]["label_ctr"] == found["another action"]["label_saved"] == 1
    assert found["at once"]["label_saved"] == 0
