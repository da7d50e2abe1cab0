"""Four plain days of impressions and clicks, to be made odd or broken, and what comes of them."""

from datetime import timedelta

import pyarrow.parquet as pq

from pipeline.partitions import day_folder, file_paths, read_manifest
from pipeline.requests import RequestSettings
from pipeline.schema import DaySettings, FeatureSettings
from pipeline.sequences import SequenceSettings
from pipeline.source import SourceSettings
from pipeline.tasks import TaskSettings
from tests.pipeline.dirty_days import FIRST, SCHEMA, at, event, preparation, write_day

D1, D2, D3, D4 = (FIRST + timedelta(days=number) for number in range(4))
DAYS = DaySettings(pretraining=(D1, D2), ranking=(D2, D2), validation=(D3, D3), test=(D4, D4))
# The first day is a block of its own, whose state is all that the second one knows.
APART = DAYS.model_copy(update={"pretraining": (D1, D1)})
FEATURES = (FeatureSettings(name="item_id", dtype="int64"), FeatureSettings(name="category"))
TASKS = {
    "ctr": TaskSettings(label_actions=("click",), window="1h", same_request=True),
    "cvr": TaskSettings(label_actions=("purchase",), window="2h", after="ctr"),
}
REQUESTS = RequestSettings(candidates="events", actions=("impression",), min_history=0)


def made_of(folder, **changed):
    settings = {
        "days": DAYS,
        "features": FEATURES,
        "tasks": TASKS,
        "requests": REQUESTS,
        "sequences": SequenceSettings(min_length=2, max_length=2),
        "source": SourceSettings(path=folder / "events"),
    }
    return preparation(folder, **settings | changed)


def write_days(folder, schema=SCHEMA, **changed):
    """Four plain days, but for those in `changed` (d1 to d4)."""
    for number, day in enumerate((D1, D2, D3, D4), start=1):
        plain = [
            event("u", 1, at(day, 9), "impression", f"r{number}"),
            event("u", 2, at(day, 9), "impression", f"r{number}"),
            event("u", 1, at(day, 9, 5), "click", f"r{number}"),
        ]
        write_day(folder, day, changed.get(f"d{number}", plain), schema)


def rows_of(root, kind, day):
    folder = day_folder(root, kind, day)
    paths = file_paths(folder, read_manifest(folder))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def counts_of(made, day):
    return read_manifest(day_folder(made.root, "requests", day)).counts


def values_of(made, feature, day):
    """Row -> value of a vocabulary."""
    return {row["row"]: row["value"] for row in rows_of(made.root, f"vocabulary/{feature}", day)}


def labels_of(made, day):
    """Request -> item -> labels."""
    items = values_of(made, "item_id", D2)
    return {
        row["request_id"]: {
            items[item]: labels
            for item, *labels in zip(
                row["candidate_item_id"], row["label_ctr"], row["label_cvr"], strict=True
            )
        }
        for row in rows_of(made.root, "requests", day)
    }
