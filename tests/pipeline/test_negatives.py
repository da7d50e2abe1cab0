from collections import Counter
from datetime import date

import pyarrow as pa
import pytest

from pipeline.engine import open_engine
from pipeline.negatives import draw_negatives, make_pool
from tests.pipeline.reference_events import hash_number, mixed_long

DAY, OTHER = date(2024, 5, 4), date(2024, 5, 6)


@pytest.fixture
def engine(tmp_path):
    with open_engine(tmp_path) as engine:
        yield engine


def days(*values):
    return pa.array(values, pa.date32())


def draw(engine, baskets, num_items, num_negatives, pool=None):
    """Request key -> items drawn; `baskets` has request key -> its items."""
    keys = list(baskets)
    wanted = {
        "request_key": keys,
        "as_of": days(*[DAY] * len(keys)),
        "known": [len(baskets[key]) for key in keys],
        "num_items": [num_items] * len(keys),
        "num_negatives": [num_negatives] * len(keys),
    }
    pairs = [(key, item) for key in keys for item in baskets[key]]
    items = {
        "request_key": pa.array([key for key, _ in pairs], pa.string()),
        "item_id": pa.array([item for _, item in pairs], pa.int64()),
    }
    drawn = draw_negatives(
        engine.in_memory(pa.table(wanted)),
        engine.in_memory(pa.table(items)),
        pool or make_pool(engine, "uniform", None, None),
    )
    found = {key: [] for key in keys}
    for row in engine.rows_of(drawn):
        found[row["request_key"]].append(row["item_id"])
    return found


def popular(engine, counts, as_of=(DAY,)):
    """A pool of what was done on each day: (item, day) -> count."""
    recent = {
        "item_id": [item for item, _ in counts],
        "day": days(*[day for _, day in counts]),
        "count": list(counts.values()),
    }
    asked = engine.in_memory(pa.table({"as_of": days(*as_of)}))
    return make_pool(engine, "popularity", engine.in_memory(pa.table(recent)), asked)


def keys(number):
    return [f"{hash_number(str(n)):013x}{n:03x}" for n in range(number)]


def test_negatives_are_distinct_and_not_of_the_basket(engine):
    baskets = {key: [1 + n % 7, 8, 20] for n, key in enumerate(keys(50))}
    for key, items in draw(engine, baskets, 20, 6).items():
        assert len(items) == len(set(items)) == 6
        assert not set(items) & set(baskets[key])
        assert all(1 <= item <= 20 for item in items)


def test_all_there_are_can_be_drawn(engine):
    found = draw(engine, {key: [2, 4] for key in keys(30)}, 6, 4)
    assert all(sorted(items) == [1, 3, 5, 6] for items in found.values())


def test_the_first_draws_that_fit_are_taken(engine):
    """Python's own arithmetic, draw after draw."""
    baskets = {key: [3, 4] for key in keys(20)}
    found = draw(engine, baskets, 10, 3)
    for key, items in found.items():
        seed, expected, number = int(key[:13], 16), [], 0
        while len(expected) < 3:
            item = mixed_long(seed + number * 0x9E3779B9) % 10 + 1
            number += 1
            if item not in (3, 4, *expected):
                expected.append(item)
        assert sorted(items) == sorted(expected)


def test_what_is_drawn_does_not_depend_on_other_requests(engine):
    baskets = {key: [1] for key in keys(10)}
    alone = {key: draw(engine, {key: [1]}, 50, 4)[key] for key in list(baskets)[:3]}
    together = draw(engine, baskets, 50, 4)
    assert all(sorted(together[key]) == sorted(items) for key, items in alone.items())


def test_draws_are_uniform(engine):
    num_items = 40
    found = draw(engine, {key: [1] for key in keys(600)}, num_items, 5)
    counts = Counter(item for items in found.values() for item in items)
    expected = 600 * 5 / (num_items - 1)
    assert len(counts) == num_items - 1
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    # 5 standard deviations above the mean of a chi-squared statistic.
    assert chi2 < num_items + 5 * (2 * num_items) ** 0.5


def test_popular_items_are_drawn_by_their_events_of_the_last_active_day(engine):
    counts = {(1, DAY): 60, (2, DAY): 30, (3, DAY): 10, (9, date(2024, 5, 3)): 1000}
    found = draw(engine, {key: [] for key in keys(900)}, 9, 1, popular(engine, counts))
    drawn = Counter(items[0] for items in found.values())
    assert drawn.keys() == {1, 2, 3}
    # Five standard deviations of a share of 900.
    for item, share in ((1, 0.6), (2, 0.3), (3, 0.1)):
        assert abs(drawn[item] / 900 - share) < 5 * (share * (1 - share) / 900) ** 0.5


def test_where_too_few_items_are_popular_requests_stay_short(engine):
    pool = popular(engine, {(1, DAY): 5, (2, DAY): 5, (7, DAY): 5})
    found = draw(engine, {key: [1] for key in keys(20)}, 50, 4, pool)
    assert all(sorted(items) == [2, 7] for items in found.values())


def test_the_pool_is_of_the_last_day_with_events_until_then(engine):
    counts = {(1, date(2024, 5, 2)): 1, (2, DAY): 2, (5, OTHER): 1}
    as_of = [date(2024, 5, day) for day in range(1, 8)]
    pool = popular(engine, counts, as_of)
    items = {day.day: set() for day in as_of}
    for row in engine.rows_of(pool.events):
        items[row["as_of"].day].add(row["item_id"])
    assert items == {1: set(), 2: {1}, 3: {1}, 4: {2}, 5: {2}, 6: {5}, 7: {5}}
    sizes = {row["as_of"].day: row["num_events"] for row in engine.rows_of(pool.sizes)}
    assert sizes == {2: 1, 3: 1, 4: 2, 5: 2, 6: 1, 7: 1}
