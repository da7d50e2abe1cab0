"""Rows that are there more than once, against counting them."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from pipeline.engine import Engine, open_engine
from pipeline.repeated_rows import repeated_groups


def batches_of(rows, batch_rows):
    columns = {name: pa.array(values, pa.int64()) for name, values in rows.items()}
    return pa.table(columns).to_batches(batch_rows)


@pytest.mark.parametrize("num_rows", [0, 1, 50, 3000])
@pytest.mark.parametrize("batch_rows", [1, 7, 5000])
def test_groups_with_a_row_that_is_there_twice(num_rows, batch_rows):
    """Few rows have no such group, many have some, and some groups never have one."""
    random = np.random.default_rng(num_rows)
    groups = random.integers(0, 1 + num_rows // 10, num_rows)
    hashes = np.where(groups % 3 == 0, np.arange(num_rows), random.integers(0, 50, num_rows))
    batches = batches_of({"group": groups, "hash": hashes}, batch_rows)
    counts = Counter(zip(groups.tolist(), hashes.tolist(), strict=True))
    wanted = sorted({group for (group, _), number in counts.items() if number > 1})
    assert repeated_groups(lambda: batches).tolist() == wanted
    assert bool(wanted) == (num_rows >= 50)


def test_groups_are_told_apart_also_where_hashes_are_not():
    rows = {"group": [1, 2, 3, 2**40], "hash": [5, 5, 5, 5]}
    assert repeated_groups(lambda: batches_of(rows, 2)).tolist() == []


ROWS = [
    {"number": number, "item": f"i{item}", "time": 10 * number + item, "row": item or None}
    for number in range(4)
    for item in range(3)
]
# Of request 2 an item twice, later and earlier, and of request 3 with what the other lacks.
AGAIN = [
    {"number": 2, "item": "i1", "time": 30, "row": 1},
    {"number": 2, "item": "i1", "time": 19, "row": 9},
    {"number": 3, "item": "i0", "time": 30, "row": 7},
]


@pytest.mark.parametrize("rows", [[], ROWS, [*AGAIN, *ROWS], [*ROWS, *AGAIN]])
def test_the_engines_faster_way_gives_what_the_definition_does(tmp_path, rows):
    types = {"number": pa.int64(), "item": pa.string(), "time": pa.int64(), "row": pa.int64()}
    with open_engine(tmp_path) as engine:
        table = engine.in_memory(pa.Table.from_pylist(rows, pa.schema(types)))
        keys = ["number", "item"]
        fast = engine.merged("fast", table, keys)
        plain = Engine.merged(engine, "plain", table, keys)
        assert fast.schema() == plain.schema()
        found = engine.rows_of(fast.order_by(keys))
        assert found == engine.rows_of(plain.order_by(keys))
    if len(rows) > len(ROWS):
        assert found[7] == {"number": 2, "item": "i1", "time": 19, "row": 1}
        assert found[9] == {"number": 3, "item": "i0", "time": 30, "row": 7}
    assert len(found) == (len(ROWS) if rows else 0)
