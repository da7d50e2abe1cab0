"""Amazon Beauty as ready-made examples, by the protocol of the public data sets.

    beauty_sequences.txt   a line a user: the user, then the items in the order of time
    beauty_attributes.json item -> its attributes
    both -> OUT/sequences/day=D, OUT/requests/day=D, for deploy/configs/beauty.toml

Each user's last item is the positive against one drawn item; what came before is the history and
what pretraining sees. There are no times, so users are divided by a hash instead of by their last
time: three in ten are test users, and one in ten of the others is a validation user. An item's
attributes, taken together, are its one category. Groups of users are filed under days of their own:

    01-01 all users' sequences   01-02 training users   01-03 validation users   01-04 test users
    01-05 test users once more, for who has days 01-02 and 01-03 to train on and 01-04 to watch
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError

__all__ = ["Chosen", "drawn_items", "group_of", "read_users", "write_examples"]

MAX_HISTORY = 50
PRETRAINING = date(2024, 1, 1)
GROUP_DAYS = {
    "training": (date(2024, 1, 2),),
    "validation": (date(2024, 1, 3),),
    "test": (date(2024, 1, 4), date(2024, 1, 5)),
}
TIMES = pa.list_(pa.timestamp("us", tz="UTC"))
ITEMS, TEXTS = pa.list_(pa.int64()), pa.list_(pa.string())
SEQUENCES = pa.schema(
    {
        "user_id": pa.string(),
        "event_time": TIMES,
        "action": TEXTS,
        "item_id": ITEMS,
        "category": TEXTS,
    }
)
REQUESTS = pa.schema(
    {
        "request_id": pa.string(),
        "user_id": pa.string(),
        "request_time": pa.timestamp("us", tz="UTC"),
        "history_time": TIMES,
        "history_item_id": ITEMS,
        "history_category": TEXTS,
        "candidate_item_id": ITEMS,
        "candidate_category": TEXTS,
        "label_click": pa.list_(pa.int8()),
    }
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one user chose, oldest first."""

    user_id: str
    items: tuple[int, ...]

    @property
    def history(self) -> tuple[int, ...]:
        """All but the last, the latest `MAX_HISTORY` of them."""
        return self.items[:-1][-MAX_HISTORY:]


def read_users(path: Path) -> list[Chosen]:
    """The users of `beauty_sequences.txt`.

    Raises:
        DataError: no such file, or a line is not a user and two items or more.
    """
    users = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        user, *items = line.split() or [""]
        if len(items) < 2 or not all(item.isdecimal() for item in items):
            raise DataError(
                f"{path}, line {number}: expected a user and the numbers of two items or more, "
                f"got {line[:60]!r}; remove the line or mend it"
            )
        users.append(Chosen(user, tuple(map(int, items))))
    if not users:
        raise DataError(f"{path}: holds no user")
    return users


def drawn_items(users: Sequence[Chosen]) -> list[int]:
    """For each user an item drawn uniformly from all, other than the last that they chose."""
    items = sorted({item for user in users for item in user.items})
    if len(items) < 2:
        raise DataError(f"all users chose item {items[0]}: nothing else can be drawn")
    generator = random.Random(0)  # noqa: S311 (a sample, not a secret)
    drawn = []
    for user in users:
        item = generator.choice(items)
        while item == user.items[-1]:
            item = generator.choice(items)
        drawn.append(item)
    return drawn


def group_of(user_id: str) -> str:
    """training, validation or test."""
    number = int(hashlib.md5(user_id.encode()).hexdigest(), 16)  # noqa: S324 (spreads, hides nothing)
    if number % 10 >= 7:
        return "test"
    return "validation" if number // 10 % 10 == 0 else "training"


def write_examples(source: Path, out: Path) -> None:
    """Write the examples of `source` in the columns of docs/contracts.md, if not there yet.

    Raises:
        DataError: a file is missing or not of its form.
    """
    if (out / "complete").exists():
        return
    users = read_users(source / "beauty_sequences.txt")
    categories = _categories(source / "beauty_attributes.json")
    _write(out, "sequences", PRETRAINING, _sequences(users, categories), SEQUENCES)
    drawn = drawn_items(users)
    for group, days in GROUP_DAYS.items():
        of_group = [pair for pair in zip(users, drawn, strict=True) if in_group(pair, group)]
        for day in days:
            _write(out, "requests", day, _requests(of_group, categories, day), REQUESTS)
    (out / "complete").touch()


def in_group(pair: tuple[Chosen, int], group: str) -> bool:
    """Whether a user, with what was drawn for them, is of the group."""
    return group_of(pair[0].user_id) == group


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; name its folder by --beauty") from None


def _categories(path: Path) -> dict[int, str]:
    """Item -> one word for all its attributes."""
    try:
        attributes: dict[str, list[int]] = json.loads(_text(path))
        return {int(item): "-".join(map(str, sorted(a))) for item, a in attributes.items() if a}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected an object, item -> attributes: {error}") from None


def _sequences(
    users: Sequence[Chosen], categories: Mapping[int, str]
) -> Iterator[Mapping[str, Any]]:
    for user in users:
        yield {
            "user_id": user.user_id,
            "event_time": _times(user),
            "action": ["click"] * len(user.history),
            "item_id": list(user.history),
            "category": [categories.get(item) for item in user.history],
        }


def _requests(
    users: Sequence[tuple[Chosen, int]], categories: Mapping[int, str], day: date
) -> Iterator[Mapping[str, Any]]:
    for user, drawn in users:
        candidates = [user.items[-1], drawn]
        yield {
            "request_id": user.user_id,
            "user_id": user.user_id,
            "request_time": _midnight(day),
            "history_time": _times(user),
            "history_item_id": list(user.history),
            "history_category": [categories.get(item) for item in user.history],
            "candidate_item_id": candidates,
            "candidate_category": [categories.get(item) for item in candidates],
            "label_click": [1, 0],
        }


def _times(user: Chosen) -> list[datetime]:
    """A second apart, as only their order is known."""
    start = _midnight(PRETRAINING)
    return [start + timedelta(seconds=number) for number in range(len(user.history))]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _write(
    out: Path, kind: str, day: date, rows: Iterator[Mapping[str, Any]], schema: pa.Schema
) -> None:
    folder = out / kind / f"day={day}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / "part-0.parquet")
