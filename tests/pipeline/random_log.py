"""Random logs, small and full of what is rare: equal times, nulls, ids over midnight."""

import random
from datetime import timedelta

from tests.pipeline.small_days import FIRST, at, event, write_day

NUM_DAYS = 6


def random_log(seed, ids=int, num_users=7, num_items=9, requests_per_day=14):
    """Day -> events without duplicates."""
    draw = random.Random(seed)
    log = {FIRST + timedelta(days=number): {} for number in range(NUM_DAYS)}
    for day in log:
        # Items appear in time: those of a day are known from the next one on.
        known = num_items + 2 * (day - FIRST).days
        for number in range(requests_per_day):
            user = f"u{draw.randrange(num_users)}"
            time = at(day, draw.choice([0, 5, 5, 23]), draw.choice([0, 59, draw.randrange(60)]))
            request = draw.choice([f"r{number}", f"{user}-{day}", f"{user}-over midnight", None])
            for _ in range(draw.randint(1, 4)):
                item = ids(draw.randrange(known))
                for shown in _answers(draw, user, item, time, request):
                    _add(log, shown)
    return {day: list(events.values()) for day, events in log.items()}


def _answers(draw, user, item, time, request):
    """An impression, perhaps with clicks (some of a clock that is behind) and purchases."""
    features = {"department": draw.choice(["a", "b", None]), "store": draw.choice([1, 2, None])}
    yield event(user, item, time, request, action="impression", **features)
    for _ in range(draw.choice([0, 0, 1, 1, 2])):
        time += timedelta(minutes=draw.choice([-30, 0, 1, 7, 59, 60, 61]))
        own = draw.choice([request, request, None, "another"])
        yield event(user, item, time, own, action="click", **features)
    if draw.random() < 0.3:
        time += timedelta(minutes=draw.choice([0, 5, 24 * 60, 24 * 60 - 1]))
        yield event(user, item, time, draw.choice([request, None]), action="purchase", **features)


def _add(log, row):
    day = row["event_time"].date()
    names = ("user_id", "item_id", "event_time", "action", "request_id")
    if day in log:
        log[day].setdefault(tuple(row[name] for name in names), row)


def write_log(folder, log):
    for day, rows in log.items():
        if rows:
            write_day(folder, day, rows)
        else:
            (folder / f"day={day}").mkdir(parents=True, exist_ok=True)
