"""Amazon reviews, and the metadata of their items, in the formats of the 2014 and 2018 releases.

    reviews    {"reviewerID": ..., "asin": ..., "unixReviewTime": 1252800000, "overall": 5.0, ...}
    metadata   {'asin': ..., 'categories': [['Books', 'Fiction'], ...], 'brand': ...}     (2014)
               {"asin": ..., "category": ["Books", "Fiction"], "brand": ..., ...}         (2018)

One record a line, usually in a gzip. Lines of 2014 may be Python literals instead of JSON: where a
line is no JSON it is read by `ast.literal_eval`, which is slow, and runs no code. An item's
category is the last name of its longest path of categories.
"""

import ast
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.adapters.json_lines import read_json_lines
from pipeline.adapters.raw_files import Block, find_files
from pipeline.adapters.reading import Reading
from pipeline.adapters.settings import IngestSettings
from pipeline.adapters.staging import RATING

__all__ = ["amazon_reading", "deepest_category", "json_of_literal"]

REVIEW = {
    "user_id": "reviewerID",
    "item_id": "asin",
    "event_time": "unixReviewTime",
    RATING: "overall",
}
ITEM = {"item_id": "asin", "categories": "categories", "category": "category", "brand": "brand"}


def amazon_reading(connection: duckdb.DuckDBPyConnection, settings: IngestSettings) -> Reading:
    """Read reviews; with `ingest.metadata`, events have `category_id` and `brand` too.

    Raises:
        DataError: what is wrong with the files as files.
    """
    known = {"time_unit": "s", "action": settings.action or "review"}
    described = ("category_id", "brand") if settings.metadata else ()

    def read_items(path: Path) -> Iterator[Block]:
        for block in read_json_lines(connection, path, ITEM, json_of_literal):
            yield Block(_items(block.table), block.num_malformed)

    return Reading(
        settings=settings.model_copy(update=known),
        files=find_files(settings.files, "ingest.files"),
        read=lambda path: read_json_lines(connection, path, REVIEW, json_of_literal),
        columns=("user_id", "item_id", "event_time", "action", *described),
        required=("user_id", "item_id", "event_time"),
        item_files=find_files(settings.metadata, "ingest.metadata"),
        read_items=read_items,
    )


def _items(table: pa.Table) -> pa.Table:
    paths = zip(table["categories"].to_pylist(), table["category"].to_pylist(), strict=True)
    categories = [deepest_category(of_2014 or of_2018) for of_2014, of_2018 in paths]
    return pa.table(
        {
            "item_id": table["item_id"],
            "category_id": pa.array(categories, pa.string()),
            "brand": table["brand"],
        }
    )


def deepest_category(text: str | None) -> str | None:
    """The last name of the longest path (the first of several): `[[...], ...]` or `[...]`."""
    try:
        found: Any = json.loads(text or "[]")
    except ValueError:
        found = [text]
    if not isinstance(found, list) or not found:
        return None
    paths = [path for path in found if isinstance(path, list)] or [found]
    longest = max(paths, key=len)
    return str(longest[-1]) or None if longest else None


def json_of_literal(line: str) -> str | None:
    """JSON of a Python literal, None if the line is none."""
    try:
        with warnings.catch_warnings():
            # Python warns of escapes it does not know, such as "\\/"; it keeps them as they are.
            warnings.simplefilter("ignore")
            return json.dumps(ast.literal_eval(line.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
