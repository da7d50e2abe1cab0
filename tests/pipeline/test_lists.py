"""Lists out of sorted rows, against plain Python and against the engine's definition of them."""

from itertools import groupby
from operator import itemgetter

import pyarrow as pa
import pytest

from pipeline.engine import Engine, open_engine
from pipeline.lists import listed_batches, listed_schema

ROWS = [
    {"user": user, "part": part, "place": place, "item": 7 * place % 5, "name": f"{user}{place}"}
    for user, part, num in (("a", 0, 3), ("a", 1, 1), ("b", 0, 1), ("b", 2, 9), ("c", 0, 2))
    for place in range(num)
]


def in_lists(rows):
    """One row for the rows of one user and part."""
    made = []
    for (user, part), group in groupby(rows, key=itemgetter("user", "part")):
        of = list(group)
        lists = {name: [row[name] for row in of] for name in ("item", "name")}
        made.append({"user": user, "part": part, **lists})
    return made


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 5, 100])
def test_lists_go_on_from_batch_to_batch(batch_rows):
    table = pa.Table.from_pylist(ROWS)
    empty = table.slice(0, 0).to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    schema = listed_schema(table.schema, ["user", "part"], ["item", "name"])
    batches = [*empty, *table.to_batches(batch_rows), *empty]
    made = list(listed_batches(batches, schema, ["user", "part"]))
    assert {batch.schema for batch in made} == {schema}
    assert [row for batch in made for row in batch.to_pylist()] == in_lists(ROWS)


def test_no_rows_no_lists():
    schema = listed_schema(pa.Table.from_pylist(ROWS).schema, ["user"], ["item"])
    assert list(listed_batches([], schema, ["user"])) == []


def test_the_engines_faster_way_gives_what_the_definition_does(tmp_path):
    """Rows come in any order, with nulls among the values."""
    rows = [{**row, "item": None if row["place"] == 2 else row["item"]} for row in ROWS[::-1]]
    keys, order, names = ["user", "part"], ["place", "name"], ["item", "name"]
    with open_engine(tmp_path) as engine:
        table = engine.in_memory(pa.Table.from_pylist(rows))
        fast = engine.sorted_lists("fast", table, keys, order, names)
        plain = Engine.sorted_lists(engine, "plain", table, keys, order, names)
        assert fast.schema() == plain.schema()
        found = engine.rows_of(fast.order_by(keys))
        assert found == engine.rows_of(plain.order_by(keys)) == in_lists(rows[::-1])


def test_what_fails_while_lists_are_made_is_told(tmp_path):
    with open_engine(tmp_path) as engine:
        table = engine.in_memory(
            pa.table({"user": ["a", "b"], "place": [1, 2], "text": ["1", "x"]})
        )
        table = table.mutate(number=table.text.cast("int64"))
        with pytest.raises(engine.data_errors, match="Could not convert string 'x' to INT64"):
            engine.sorted_lists("lists", table, ["user"], ["place"], ["number"])
        assert engine.rows_of(table.select("user").limit(1)) == [{"user": "a"}]
