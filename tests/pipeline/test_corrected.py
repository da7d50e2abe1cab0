"""Which tables the events of some actions are read from."""

import ibis
import pyarrow as pa
import pytest

from pipeline.corrected import PartEvents
from pipeline.engine import open_engine


@pytest.fixture
def engine(tmp_path):
    with open_engine(tmp_path) as engine:
        yield engine


def events_of(engine, *actions):
    return engine.in_memory(pa.table({"action": actions, "number": list(range(len(actions)))}))


@pytest.mark.parametrize(
    ("actions", "num_tables"),
    [(["view"], 1), (["click"], 1), (["click", "buy"], 1), (["view", "click"], 2), (["none"], 1)],
)
def test_only_tables_that_may_have_the_actions_are_read(engine, actions, num_tables):
    shown = events_of(engine, "view", "page", "view")
    others = events_of(engine, "click", "buy", "click")
    events = PartEvents(others=others, shown=shown, shown_actions=("view", "page"))
    found = events.of(actions)
    rows = engine.rows_of(found)
    every = ["view", "page", "view", "click", "buy", "click"]
    assert sorted(row["action"] for row in rows) == sorted(a for a in every if a in actions)
    assert len({table.get_name() for table in _read(found)}) == num_tables


def test_where_nothing_is_apart_all_is_read(engine):
    events = PartEvents(others=events_of(engine, "click", "buy"))
    assert [row["action"] for row in engine.rows_of(events.of(["buy"]))] == ["buy"]


def _read(table):
    return [node.to_expr() for node in table.op().find(ibis.expr.operations.DatabaseTable)]
