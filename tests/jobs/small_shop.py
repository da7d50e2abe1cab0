"""A generated shop, small enough for tests: households with favourite categories, 20 days."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FIRST_DAY = date(2024, 1, 1)
NUM_DAYS = 20
NUM_USERS, NUM_ITEMS, NUM_CATEGORIES = 60, 120, 12

CONFIG = """
[data]
root = "{folder}/root"

[source]
path = "{folder}/events"

[[features]]
name = "item_id"
dtype = "int64"

[[features]]
name = "category"

[[features]]
name = "shop"
role = "context"

[days]
pretraining = ["2024-01-01", "2024-01-14"]
ranking = ["2024-01-08", "2024-01-14"]
validation = ["2024-01-15", "2024-01-17"]
test = ["2024-01-18", "2024-01-20"]

[sequences]
actions = ["purchase"]
min_length = 5
max_length = 20

[requests]
candidates = "sampled"
actions = ["purchase"]
history_actions = ["purchase"]
max_history = 12

[tasks.purchase]

[reader]
lanes = 4

[pretraining]
architecture = "L1H32A2"

[pretraining.softmax]
num_negatives = 32
full_softmax_rows = 50

[pretraining.training]
epochs = 6
batch_size = 16
learning_rate = 1e-2
warmup_steps = 4
log_every_steps = 4
checkpoint_every_steps = 5

[ranking]
architecture = "L1H32A2"
transfer_tables = ["item_id", "category"]
evaluations_per_epoch = 2

[ranking.training]
epochs = 4
batch_size = 32
learning_rate = 1e-2
warmup_steps = 4
log_every_steps = 4
checkpoint_every_steps = 7

[evaluation]
category_features = ["category"]
"""


def write_shop(folder: Path) -> Path:
    """Write events and config.toml under `folder`; returns the config's path."""
    generator = np.random.default_rng(5)
    favourites = generator.integers(0, NUM_CATEGORIES, (NUM_USERS, 2))
    for number in range(NUM_DAYS):
        day = FIRST_DAY + timedelta(days=number)
        rows = [
            row for user in range(NUM_USERS) for row in _basket(generator, user, day, favourites)
        ]
        target = folder / "events" / f"day={day}"
        target.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), target / "part-0.parquet")
    config = folder / "config.toml"
    config.write_text(CONFIG.format(folder=folder))
    return config


def _basket(generator, user: int, day: date, favourites) -> list[dict]:
    size = generator.integers(0, 4)
    at = np.datetime64(day, "us") + np.timedelta64(int(generator.integers(0, 86_399)), "s")
    items = set()
    for _ in range(size):
        category = generator.choice(favourites[user])
        items.add(
            int(category + NUM_CATEGORIES * generator.integers(0, NUM_ITEMS // NUM_CATEGORIES))
        )
    return [
        {
            "user_id": user,
            "item_id": item,
            "event_time": at.item(),
            "action": "purchase",
            "request_id": f"{day}/{user}",
            "category": f"category {item % NUM_CATEGORIES}",
            "shop": f"shop {user % 3}",
        }
        for item in sorted(items)
    ]
