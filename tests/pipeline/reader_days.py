"""Days of sequences and requests as `prepare` publishes them, small, and readers of them."""

import dataclasses
import itertools
from datetime import date
from typing import Any

import pyarrow as pa
import torch

from pipeline.partitions import Contents, day_folder, days_between, publish
from pipeline.reader import Reader, ReaderSettings, Requests, Sequences
from pipeline.schema import FeatureSettings, requests_schema, sequences_schema

FEATURES = [
    FeatureSettings(name="item_id"),
    FeatureSettings(name="department"),
    FeatureSettings(name="store_id", role="context"),
]
DAYS = days_between(date(2024, 3, 1), date(2024, 3, 3))
ROWS_OF_DAY = [23, 0, 34]
NUM_ROWS = sum(ROWS_OF_DAY)
VOCABULARIES = {"item_id": "aaaa", "department": "bbbb", "store_id": "cccc"}
# What the vocabularies in use grew from counts too.
LINEAGES = {name: {digest, f"later-{digest}"} for name, digest in VOCABULARIES.items()}


def history(row):
    return [1000 * row + position for position in range(row % 5)]


def candidates(row):
    return [1000 * row + 500 + position for position in range(1 + row % 3)]


def labels(row):
    return [None if (row + position) % 4 == 0 else row % 2 for position in range(1 + row % 3)]


def request(row):
    return {
        "request_id": str(row),
        "user_id": "",
        "request_time": 0,
        "history_time": [0] * len(history(row)),
        "history_item_id": history(row),
        "history_department": [value % 7 for value in history(row)],
        "candidate_item_id": candidates(row),
        "candidate_department": [value % 7 for value in candidates(row)],
        "label_ctr": labels(row),
        "store_id": row % 3,
    }


def sequence(row):
    tokens = candidates(row)
    none = [None] * len(tokens)
    return {
        "user_id": "",
        "event_time": none,
        "action": none,
        "item_id": tokens,
        "department": [value % 7 for value in tokens],
    }


KINDS = {
    "requests": (request, requests_schema(FEATURES, ["ctr"])),
    "sequences": (sequence, sequences_schema(FEATURES)),
}


def write_days(folder, kind, make, schema):
    row = itertools.count()
    for day, num_rows in zip(DAYS, ROWS_OF_DAY, strict=True):
        rows = [make(next(row)) for _ in range(num_rows)]
        table = pa.Table.from_pylist(rows, schema=schema)
        contents = Contents(kind=kind, day=day, vocabularies=VOCABULARIES)
        publish(day_folder(folder, kind, day), contents, schema, table.to_batches(), 8)


def folders(root, kind):
    return [day_folder(root, kind, day) for day in DAYS]


def reader(root, kind="requests", *, shuffle=True, rank=0, world_size=1, **settings):
    of = {
        "root": root,
        "days": settings.pop("days", DAYS),
        "features": settings.pop("features", FEATURES),
        "vocabularies": settings.pop("vocabularies", LINEAGES),
    }
    task = settings.pop("task", "ctr")
    examples: Any = Requests(task=task, **of) if kind == "requests" else Sequences(**of)
    options = ReaderSettings(**{"batch_size": 8, "lanes": 4, "prefetch": 0, "seed": 1, **settings})
    return Reader(examples, options, shuffle=shuffle, rank=rank, world_size=world_size)


def counted_rows(batch):
    """Row ids that are not a filler's: fillers come alone, with no weight at all."""
    if len(batch.row_ids) == 1 and batch.num_samples == 0 and batch.row_ids[0] == 0:
        return []
    return batch.row_ids.tolist()


def steps(root, world_size, *, epoch=0, first_step=0, **options):
    """Sorted rows of each step over all ranks; ranks must agree on the number of steps."""
    ranks = [
        reader(root, rank=rank, world_size=world_size, **options).batches(epoch, first_step)
        for rank in range(world_size)
    ]
    return [
        sorted(itertools.chain.from_iterable(map(counted_rows, batches)))
        for batches in zip(*ranks, strict=True)
    ]


def same(batch, other):
    """Bit-equal in every tensor."""
    assert type(batch) is type(other)
    for field in dataclasses.fields(batch):
        mine, theirs = getattr(batch, field.name), getattr(other, field.name)
        if not isinstance(mine, dict):
            mine, theirs = ({} if value is None else {"": value} for value in (mine, theirs))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    return True
