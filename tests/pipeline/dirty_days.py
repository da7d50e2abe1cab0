"""A small log of impressions, clicks and purchases, with everything in it that real logs have.

Drawn from a seed: null features and request ids, copies of events, clocks that are behind, requests
that go over midnight or share their id with another user's, rows that are no events.
"""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.preparation import Preparation
from pipeline.requests import RequestSettings
from pipeline.schema import DaySettings, FeatureSettings
from pipeline.sequences import SequenceSettings
from pipeline.source import SourceSettings
from pipeline.tasks import TaskSettings

FIRST = date(2024, 1, 1)
NUM_DAYS = 5
DAYS = DaySettings(
    pretraining=(FIRST, date(2024, 1, 3)),
    ranking=(date(2024, 1, 2), date(2024, 1, 3)),
    validation=(date(2024, 1, 4), date(2024, 1, 4)),
    test=(date(2024, 1, 5), date(2024, 1, 5)),
)
FEATURES = (
    FeatureSettings(name="item_id", dtype="int64", min_count=2),
    FeatureSettings(name="category"),
    FeatureSettings(name="seller", dtype="int64", hash_rows=7),
    FeatureSettings(name="page", role="context"),
)
TASKS = {
    "ctr": TaskSettings(label_actions=("click",), window="1h", same_request=True),
    "cvr": TaskSettings(label_actions=("purchase",), window="1d", after="ctr"),
    "sale": TaskSettings(label_actions=("cart", "purchase"), window="6h"),
}
SHOWN = RequestSettings(
    candidates="events", actions=("impression",), max_history=4, max_candidates=6
)
SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "item_id": pa.int64(),
        "event_time": pa.timestamp("us", tz="UTC"),
        "action": pa.string(),
        "request_id": pa.string(),
        "category": pa.string(),
        "seller": pa.int64(),
        "page": pa.string(),
    }
)


def preparation(folder: Path, **changed) -> Preparation:
    """Of the log in `folder`/events into `folder`/root, unless said otherwise."""
    settings = {
        "root": Path(folder) / "root",
        "source": SourceSettings(path=Path(folder) / "events", max_set_aside_share=0.5),
        "features": FEATURES,
        "days": DAYS,
        "sequences": SequenceSettings(min_length=2, max_length=3),
        "requests": SHOWN,
        "tasks": TASKS,
    }
    return Preparation(**settings | changed)


def write_day(folder: Path, day: date, rows, schema=SCHEMA, name="part-0.parquet") -> Path:
    """Rows (dicts) as FOLDER/events/day=D/name; absent values are null."""
    target = Path(folder) / "events" / f"day={day}"
    target.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), target / name)
    return target / name


def at(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


def event(user, item, time, action="click", request=None, **more):
    row = {"user_id": user, "item_id": item, "event_time": time, "action": action}
    return row | {"request_id": request, "category": "c", "seller": 1, "page": "home"} | more


def write_log(folder: Path, seed=0, num_days=NUM_DAYS, num_users=12, per_day=25) -> None:
    """Write `num_days` days from FIRST on; what happens after the last one is dropped."""
    random = Random(seed)
    days = [FIRST + timedelta(days=number) for number in range(num_days)]
    rows = {day: [] for day in days}
    for day in days:
        for number in range(per_day):
            for row in _request(random, day, number, num_users):
                rows.get(row["event_time"].date(), []).append(row)
    for day, of_day in rows.items():
        of_day += [dict(random.choice(of_day)) for _ in range(5)]
        of_day += [{**random.choice(of_day), column: None} for column in SCHEMA.names[:4]]
        random.shuffle(of_day)
        half = len(of_day) // 2
        write_day(folder, day, of_day[:half])
        write_day(folder, day, of_day[half:], name="part-1.parquet")


def _request(random: Random, day: date, number: int, num_users: int):
    """Impressions, and what follows them."""
    user = f"user {random.randrange(num_users)}"
    start = at(day, 0) + timedelta(seconds=random.randrange(86_390), microseconds=number)
    if random.random() < 0.2:
        start = start.replace(minute=0, second=0, microsecond=0)
    request = random.choice([f"{day} {number}"] * 6 + [f"{day} {number // 2}", None])
    page = random.choice(["home", "search", None])
    for place in range(random.randrange(1, 9)):
        item = random.choice([1, 2, 3, random.randrange(40), -(2**63), 2**63 - 1])
        shown = event(user, item, start, "impression", request, page=page)
        shown["category"] = random.choice([None, "", f"category {item % 5}", f"\u00e4\t'{day.day}"])
        shown["seller"] = random.choice([None, item % 11, -item % 2**40])
        if random.random() < 0.3:
            shown["event_time"] += timedelta(seconds=place)
        yield shown
        after = start
        for action, chance, most in (("click", 0.5, 7200), ("purchase", 0.4, 90_000)):
            if random.random() < chance:
                after += timedelta(seconds=random.randrange(-60, most))
                follows = random.choice([request, request, None])
                yield {**shown, "event_time": after, "action": action, "request_id": follows}
