"""What is learned: the tasks of a config, and when a day is final for one of them.

    [tasks.ctr]                        [tasks.cvr]
    label_actions = ["click"]          label_actions = ["purchase"]
    same_request = true                after = "ctr"
    window = "1h"                      window = "3d"

A candidate has label 1 if its user does one of `label_actions` on its item within the window, else
0. With `after`, the task applies only to candidates whose label of that other task is 1, and its
window starts at the action that made it so; elsewhere the label is null. A day is final for a task
once the windows of its last moment have closed; before that all its labels are null.
"""

import re
from collections.abc import Mapping
from datetime import date, timedelta

from pipeline.durations import Duration, length_of
from pipeline.errors import ConfigError
from pipeline.requests import RequestSettings
from pipeline.settings import Settings

__all__ = [
    "TaskSettings",
    "check_tasks",
    "final_tasks",
    "in_order",
    "lookahead_days",
    "time_to_label",
]


class TaskSettings(Settings):
    """One task: `[tasks.NAME]`; its labels are the column label_NAME."""

    # Which of the user's actions on the item make the label 1; empty where candidates are sampled.
    label_actions: tuple[str, ...] = ()
    # The task whose positives this one is about; unset: all candidates.
    after: str | None = None
    # How long after the candidate (or after what made `after` positive) an action counts.
    window: Duration = "1d"
    # Whether the action must carry the candidate's own request_id, if it carries any.
    same_request: bool = False

    @property
    def duration(self) -> timedelta:
        """The window."""
        return length_of(self.window)

    @property
    def seconds(self) -> int:
        """The window in seconds."""
        return self.duration // timedelta(seconds=1)


def check_tasks(tasks: Mapping[str, TaskSettings], requests: RequestSettings) -> None:
    """Raise ConfigError where the tasks do not fit what the requests' candidates are."""
    for name, task in tasks.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ConfigError(f"tasks.{name}: a name is lower-case letters, digits and _")
        if requests.candidates == "events" and not task.label_actions:
            raise ConfigError(
                f"tasks.{name}.label_actions: required, as requests.candidates = 'events'; the "
                "actions that make the label 1"
            )
        if requests.candidates != "events" and (task.label_actions or task.after):
            raise ConfigError(
                f"tasks.{name}: label_actions and after are for requests.candidates = 'events'; "
                f"candidates that are {requests.candidates!r} are positive by requests.actions"
            )
    if requests.candidates != "events" and len(tasks) > 1:
        raise ConfigError(
            f"tasks: {', '.join(tasks)}: there can be only one, as requests.candidates = "
            f"{requests.candidates!r}"
        )
    in_order(tasks)


def in_order(tasks: Mapping[str, TaskSettings]) -> list[str]:
    """The tasks' names, each after the one it is `after`.

    Raises:
        ConfigError: a task is after itself, or after one that is not there.
    """
    ordered: list[str] = []
    for name in tasks:
        chain = [name]
        while (parent := tasks[chain[-1]].after) is not None:
            if parent not in tasks or parent in chain:
                known = ", ".join(other for other in tasks if other != name) or "none"
                raise ConfigError(
                    f"tasks.{chain[-1]}.after: {parent!r} is no other task; known: {known}"
                )
            chain.append(parent)
        ordered += [task for task in reversed(chain) if task not in ordered]
    return ordered


def time_to_label(tasks: Mapping[str, TaskSettings], name: str) -> timedelta:
    """How long after a candidate its label can still change."""
    task = tasks[name]
    return task.duration + (time_to_label(tasks, task.after) if task.after else timedelta())


def lookahead_days(tasks: Mapping[str, TaskSettings]) -> int:
    """Days after a day that its labels depend on."""
    longest = max(
        (time_to_label(tasks, name) for name in tasks if tasks[name].label_actions),
        default=timedelta(),
    )
    return -(-longest // timedelta(days=1))


def final_tasks(tasks: Mapping[str, TaskSettings], day: date, last_day: date) -> list[str]:
    """Tasks whose labels of `day` cannot change any more, once there are events to `last_day`."""
    passed = timedelta(days=(last_day - day).days)
    return [
        name
        for name in tasks
        if time_to_label(tasks, name) <= passed or not tasks[name].label_actions
    ]
