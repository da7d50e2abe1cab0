from datetime import date

import pyarrow as pa
import pytest

from pipeline.catalogue import (
    catalogue_folder,
    features_on,
    grow_catalogue,
    publish_catalogue,
    read_catalogue,
)
from pipeline.engine import open_engine
from pipeline.partitions import Contents, read_manifest
from pipeline.schema import FeatureSettings
from tests.pipeline.small_days import at, rows_of

FEATURES = [
    FeatureSettings(name="item_id"),
    FeatureSettings(name="brand"),
    FeatureSettings(name="store", role="context"),
]
# Day, hour, item, brand, action; rows as encoding gives them.
LOG = [
    (1, 9, 1, 5, "click"),
    (1, 8, 1, 6, "click"),
    (1, 9, 2, 5, "view"),
    (1, 9, 0, 7, "click"),
    (3, 9, 1, 6, "view"),
    (3, 9, 1, 0, "view"),
    (3, 9, 3, 5, "click"),
    (4, 7, 1, 0, "click"),
    (4, 9, 1, 0, "click"),
    (5, 9, 2, 5, "view"),
]


def may(day):
    return date(2024, 5, day)


@pytest.fixture
def engine(tmp_path):
    with open_engine(tmp_path) as engine:
        yield engine


def encoded(engine, days):
    rows = [row for row in LOG if row[0] in days]
    columns = zip(*rows, strict=True)
    day, hour, item, brand, action = columns
    times = [at(may(d), h).replace(tzinfo=None) for d, h in zip(day, hour, strict=True)]
    return engine.in_memory(
        pa.table(
            {
                "day": pa.array([may(d) for d in day], pa.date32()),
                "event_time": pa.array(times, pa.timestamp("us")),
                "item_id": list(item),
                "brand": list(brand),
                "action": list(action),
            }
        )
    )


def grow(engine, root, blocks):
    catalogue = None
    for days in blocks:
        catalogue = grow_catalogue(engine, FEATURES, catalogue, encoded(engine, days), ["click"])
        last = may(days[-1])
        contents = Contents(kind="catalogue", day=last)
        publish_catalogue(engine, root, FEATURES, catalogue, contents)
        if days != blocks[-1]:
            catalogue = read_catalogue(engine, root, FEATURES, last)
    return catalogue


def test_items_are_as_their_latest_events_had_them(engine, tmp_path):
    grow(engine, tmp_path, [[1, 3, 4, 5]])
    assert rows_of(tmp_path, "catalogue", may(5)) == [
        {"item_id": 1, "brand": 0, "count": 4, "recent": 2},
        {"item_id": 2, "brand": 5, "count": 0, "recent": 0},
        {"item_id": 3, "brand": 5, "count": 1, "recent": 0},
    ]


def test_recent_is_of_the_last_day_that_had_history_actions(engine, tmp_path):
    grow(engine, tmp_path, [[1, 3]])
    rows = rows_of(tmp_path, "catalogue", may(3))
    assert {row["item_id"]: row["recent"] for row in rows} == {1: 0, 2: 0, 3: 1}


@pytest.mark.parametrize("blocks", [[[1], [3], [4], [5]], [[1, 3], [4, 5]], [[1], [3, 4, 5]]])
def test_however_days_are_divided_the_catalogue_is_the_same(engine, tmp_path, blocks):
    grow(engine, tmp_path / "whole", [[1, 3, 4, 5]])
    grow(engine, tmp_path / "parts", blocks)
    folders = [catalogue_folder(tmp_path / root, may(5)) for root in ("whole", "parts")]
    assert read_manifest(folders[0]) == read_manifest(folders[1])


@pytest.mark.parametrize("blocks", [[[1, 3, 4, 5]], [[1, 3], [4, 5]]])
def test_features_are_those_by_the_end_of_a_day(engine, tmp_path, blocks):
    catalogue = grow(engine, tmp_path, blocks)
    last_block = blocks[-1]
    days = [may(day) for day in range(last_block[0], last_block[-1] + 1)]
    asked = [(item, day) for item in (1, 2, 3, 9) for day in days]
    items = engine.in_memory(
        pa.table(
            {
                "item_id": [item for item, _ in asked],
                "as_of": pa.array([day for _, day in asked], pa.date32()),
            }
        )
    )
    found = {
        (row["item_id"], row["as_of"].day): row["brand"]
        for row in engine.rows_of(features_on(items, catalogue.versions, ["item_id", "brand"]))
    }
    # Of two events at one time, the lower row; item 3 is known from day 3 on, item 9 never.
    expected = {1: {1: 5, 2: 5, 3: 0, 4: 0, 5: 0}, 2: dict.fromkeys(range(1, 6), 5)}
    expected[3] = dict.fromkeys(range(3, 6), 5)
    assert found == {
        (item, day): brand
        for item, of_item in expected.items()
        for day, brand in of_item.items()
        if may(day) in days
    }


def test_items_without_other_features(engine, tmp_path):
    features = FEATURES[:1]
    catalogue = grow_catalogue(engine, features, None, encoded(engine, [1, 3, 4, 5]), ["click"])
    contents = Contents(kind="catalogue", day=may(5))
    publish_catalogue(engine, tmp_path, features, catalogue, contents)
    assert rows_of(tmp_path, "catalogue", may(5)) == [
        {"item_id": 1, "count": 4, "recent": 2},
        {"item_id": 2, "count": 0, "recent": 0},
        {"item_id": 3, "count": 1, "recent": 0},
    ]
