from datetime import date, timedelta

import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.requests import RequestSettings
from pipeline.tasks import (
    TaskSettings,
    check_tasks,
    final_tasks,
    in_order,
    lookahead_days,
    time_to_label,
)

SHOWN = RequestSettings(candidates="events", actions=("impression",))
SAMPLED = RequestSettings(actions=("purchase",))
LAST_EVENT = RequestSettings(candidates="last_event", actions=("purchase",))


def task(window="1d", after=None, actions=("click",)):
    return TaskSettings(label_actions=actions, after=after, window=window)


TASKS = {
    "paid": task("12h", after="cvr"),
    "ctr": task("1h"),
    "cvr": task("3d", after="ctr"),
}


@pytest.mark.parametrize(
    ("window", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("3d", timedelta(days=3)),
    ],
)
def test_windows(window, duration):
    assert task(window).duration == duration
    assert task(window).seconds == duration.total_seconds()


@pytest.mark.parametrize("window", ["", "3", "h", "0h", "1.5h", "-1d", "1w", "1d12h", " 1d"])
def test_windows_that_are_none(window):
    with pytest.raises(ValidationError, match=r"is no duration; write 90s, 30m, 12h or 3d"):
        task(window)


def test_each_task_comes_after_the_one_it_is_after():
    assert in_order(TASKS) == ["ctr", "cvr", "paid"]
    assert in_order({"b": task(), "a": task()}) == ["b", "a"]


def test_windows_add_up():
    assert time_to_label(TASKS, "ctr") == timedelta(hours=1)
    assert time_to_label(TASKS, "paid") == timedelta(days=3, hours=13)


@pytest.mark.parametrize(
    ("tasks", "num_days"),
    [
        (TASKS, 4),
        ({"ctr": task("1h")}, 1),
        ({"ctr": task("1d")}, 1),
        ({"ctr": task("86401s")}, 2),
        ({"ctr": task("1h"), "cvr": task("23h", after="ctr")}, 1),
        ({"buy": TaskSettings(window="30d")}, 0),
    ],
)
def test_days_that_labels_look_ahead(tasks, num_days):
    assert lookahead_days(tasks) == num_days


@pytest.mark.parametrize(
    ("last_day", "final"),
    [(1, []), (2, ["ctr"]), (4, ["ctr"]), (5, ["paid", "ctr", "cvr"])],
)
def test_a_day_is_final_once_the_windows_of_its_last_moment_have_closed(last_day, final):
    assert final_tasks(TASKS, date(2024, 5, 1), date(2024, 5, last_day)) == final


def test_the_window_that_ends_with_the_day_is_closed_by_it():
    tasks = {"a": task("1d"), "b": task("86401s"), "buy": TaskSettings()}
    assert final_tasks(tasks, date(2024, 5, 1), date(2024, 5, 2)) == ["a", "buy"]
    assert final_tasks(tasks, date(2024, 5, 1), date(2024, 5, 1)) == ["buy"]


@pytest.mark.parametrize(
    ("tasks", "requests", "sentence"),
    [
        ({"Ctr": task()}, SHOWN, r"tasks\.Ctr: a name is lower-case letters"),
        ({"ctr": TaskSettings()}, SHOWN, r"tasks\.ctr\.label_actions: required"),
        ({"buy": task()}, SAMPLED, r"tasks\.buy: label_actions and after are for"),
        ({"buy": task()}, LAST_EVENT, r"candidates that are 'last_event' are positive by"),
        ({"buy": TaskSettings(after="x")}, SAMPLED, r"tasks\.buy: label_actions and after are for"),
        (
            {"a": TaskSettings(), "b": TaskSettings()},
            SAMPLED,
            r"tasks: a, b: there can be only one",
        ),
        ({"cvr": task(after="ctr")}, SHOWN, r"tasks\.cvr\.after: 'ctr' is no other task; known: n"),
        ({"a": task(after="a")}, SHOWN, r"tasks\.a\.after: 'a' is no other task; known: none"),
        (
            {"a": task(after="b"), "b": task(after="a")},
            SHOWN,
            r"tasks\.b\.after: 'a' is no other task",
        ),
    ],
)
def test_tasks_that_do_not_fit(tasks, requests, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_tasks(tasks, requests)


def test_tasks_that_fit():
    check_tasks(TASKS, SHOWN)
    check_tasks({"buy": TaskSettings()}, SAMPLED)
    check_tasks({"buy": TaskSettings()}, LAST_EVENT)
