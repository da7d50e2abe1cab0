"""Small day-partitioned sources, and what `prepare` makes of them."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine import EngineSettings
from pipeline.partitions import day_folder, file_paths, read_manifest
from pipeline.preparation import Preparation
from pipeline.prepare import prepare
from pipeline.requests import RequestSettings
from pipeline.schema import DaySettings, FeatureSettings
from pipeline.sequences import SequenceSettings
from pipeline.source import SourceSettings
from pipeline.tasks import TaskSettings

FEATURES = (
    FeatureSettings(name="item_id", dtype="int64"),
    FeatureSettings(name="department"),
    FeatureSettings(name="store_id", role="context", dtype="int64"),
)
FIRST = date(2024, 5, 1)
DAYS = DaySettings(
    pretraining=(FIRST, date(2024, 5, 4)),
    ranking=(date(2024, 5, 3), date(2024, 5, 4)),
    validation=(date(2024, 5, 5), date(2024, 5, 5)),
    test=(date(2024, 5, 6), date(2024, 5, 6)),
)
SEQUENCES = SequenceSettings(actions=("purchase",), min_length=2, max_length=3)
REQUESTS = RequestSettings(actions=("purchase",), history_actions=("purchase",), max_history=4)
TASKS = {"buy": TaskSettings()}

# What was shown is ranked, and clicks and purchases are the labels.
SHOWN_REQUESTS = RequestSettings(
    candidates="events", actions=("impression",), max_history=4, min_history=0
)
SHOWN_TASKS = {
    "ctr": TaskSettings(label_actions=("click",), same_request=True, window="1h"),
    "cvr": TaskSettings(label_actions=("purchase",), after="ctr", window="1d"),
}
SHOWN_SEQUENCES = SequenceSettings(actions=("click",), min_length=2, max_length=3)
SHOWN = {"requests": SHOWN_REQUESTS, "tasks": SHOWN_TASKS, "sequences": SHOWN_SEQUENCES}

# A second thread costs more than it saves on a few rows.
ENGINE = EngineSettings(threads=1)


def at(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


def event(user, item, time, request=None, department="food", store=7, action="purchase"):
    return {
        "user_id": user,
        "item_id": item,
        "event_time": time,
        "action": action,
        "request_id": request,
        "department": department,
        "store_id": store,
    }


def write_day(folder: Path, day: date, rows, name="part-0.parquet", **columns) -> Path:
    """Rows (dicts) and whole columns, as folder/day=D/name."""
    target = Path(folder) / f"day={day}"
    target.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows) if rows else pa.table(columns)
    pq.write_table(table, target / name)
    return target / name


def shop_days(folder: Path, num_users=5, per_day=2, first=FIRST, num_days=6):
    """Every user buys a basket of `per_day` items a day, the same again after two days."""
    for number in range(num_days):
        day = first + timedelta(days=number)
        rows = [
            event(
                f"user-{user}",
                100 * (number % 2) + 10 * user + place,
                at(day, 9 + user),
                request=f"basket-{user}-{number}",
                department=f"department-{place}",
                store=user,
            )
            for user in range(num_users)
            for place in range(per_day)
        ]
        write_day(folder, day, rows)


def preparation(root, source, **changed) -> Preparation:
    """The settings above, but for those changed."""
    if not isinstance(source, SourceSettings):
        source = SourceSettings(path=source)
    settings = {
        "features": FEATURES,
        "days": DAYS,
        "sequences": SEQUENCES,
        "requests": REQUESTS,
        "tasks": TASKS,
    }
    return Preparation(root=Path(root), source=source, **(settings | changed))


def run(root, source, **changed):
    """Prepare, and return the report."""
    return prepare(preparation(root, source, **changed), ENGINE)


def manifest_of(root, kind, day):
    return read_manifest(day_folder(root, kind, day))


def rows_of(root, kind, day):
    """Published rows of a day, in their order."""
    folder = day_folder(root, kind, day)
    paths = file_paths(folder, read_manifest(folder))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def values_of(root, feature, day=DAYS.training[1]):
    """Row number -> raw value of a vocabulary."""
    return [row["value"] for row in rows_of(Path(root) / "vocabulary", feature, day)]


def tree(root):
    """Every published file and its bytes; not what prepare notes down for itself."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".source_digests.json")
    }


def written(folder):
    """When and as which file a folder's manifest was written."""
    status = (folder / "manifest.json").stat()
    return status.st_ino, status.st_mtime_ns
