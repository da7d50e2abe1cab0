from datetime import timedelta

import ibis
import pytest

from pipeline.duckdb_connection import DuckDBConnection
from pipeline.errors import ConfigError, DataError
from pipeline.partitions import days_between
from pipeline.schema import FeatureSettings
from pipeline.source import SourceSettings
from tests.pipeline.random_log import random_log, write_log
from tests.pipeline.small_days import (
    DAYS,
    FIRST,
    REQUESTS,
    SHOWN,
    at,
    event,
    manifest_of,
    rows_of,
    run,
    tree,
    values_of,
    write_day,
)

VALIDATION, TEST = DAYS.validation[0], DAYS.test[0]
NOTHING = {"events": [], "sequences": [], "tails": [], "requests": []}


def test_the_whole_tree(shop):
    folder, report = shop
    root = folder / "root"
    assert report.num_days == {"events": 6, "sequences": 4, "tails": 1, "requests": 4}
    assert report.num_rows["events"] == 60
    assert report.table_rows == {"item_id": 21, "department": 3, "store_id": 6}
    assert report.open_days == {"buy": []}
    catalogue = rows_of(root, "catalogue", DAYS.training[1])
    assert list(catalogue[0]) == ["item_id", "department", "count", "recent"]
    assert [row["item_id"] for row in catalogue] == list(range(1, 21))
    manifest = manifest_of(root, "requests", DAYS.ranking[1])
    assert set(manifest.vocabularies) == {"item_id", "department", "store_id"}
    assert manifest.final_tasks == ("buy",)
    assert not (root / ".work").exists()


def test_what_comes_after_training_reaches_nothing_that_training_sees(
    shop_root, shop_source, tmp_path
):
    """Plant users, items and departments from validation on; only requests may change."""
    for day in (VALIDATION, TEST):
        planted = [
            event("planted user", 9000, at(day, 1), department="planted", store=99),
            *(event(f"user-{n}", 9001, at(day, 0), department="planted") for n in range(5)),
            *(event(f"user-{n}", 0, at(day, 0, 1), department="planted") for n in range(5)),
        ]
        write_day(shop_source, day, planted, name="planted.parquet")
    run(tmp_path / "other", shop_source)
    assert 9000 not in values_of(tmp_path / "other", "item_id")
    with_plants, without = tree(tmp_path / "other"), tree(shop_root)
    last = DAYS.training[1]
    same = [
        name
        for name in without
        if name.startswith(("vocabulary", "catalogue", "sequences", "tails"))
        or any(f"day={day}" in name for day in days_between(FIRST, last))
    ]
    assert len(same) > 20
    assert all(with_plants[name] == without[name] for name in same)
    assert rows_of(tmp_path / "other", "requests", TEST) != rows_of(shop_root, "requests", TEST)


@pytest.mark.parametrize("kind", ["shown", "drawn"])
def test_nothing_at_or_after_a_request_is_in_it(tmp_path, kind):
    """From noon of a training day on everything is another log; what was asked before stays."""
    settings = SHOWN if kind == "shown" else {"requests": REQUESTS}
    logs = random_log(1), random_log(2)
    noon = at(DAYS.ranking[1], 12)
    mixed = {
        day: [row for row in logs[0][day] if row["event_time"] < noon]
        + [row for row in logs[1][day] if row["event_time"] >= noon]
        for day in logs[0]
    }
    found = []
    for name, log in (("one", logs[0]), ("other", mixed)):
        write_log(tmp_path / name, log)
        run(tmp_path / f"root-{name}", tmp_path / name, **settings)
        rows = [
            row
            for day in days_between(*DAYS.ranking)
            for row in rows_of(tmp_path / f"root-{name}", "requests", day)
            if row["request_time"] < noon
        ]
        found.append(sorted(rows, key=lambda row: (row["user_id"], row["request_time"])))
    if kind == "shown":
        # Labels, and pages that go on after noon, may be others.
        columns = ["request_id", "user_id", "request_time", "history_item_id", "history_department"]
        found = [[{name: row[name] for name in columns} for row in rows] for rows in found]
    assert found[0] == found[1]
    assert len(found[0]) > 5
    assert any(row["history_item_id"] for row in found[0])


def test_nothing_of_the_future_is_in_any_history(shop):
    root = shop[0] / "root"
    num_rows = 0
    for day in days_between(DAYS.ranking[0], TEST):
        for row in rows_of(root, "requests", day):
            num_rows += 1
            assert max(row["history_time"]) < row["request_time"]
            assert row["history_time"] == sorted(row["history_time"])
    assert num_rows == 20


def test_a_user_has_only_their_own_past(shop):
    root = shop[0] / "root"
    names = values_of(root, "item_id")
    for row in rows_of(root, "requests", DAYS.ranking[1]):
        user = int(row["user_id"][-1])
        assert {names[item] % 100 // 10 for item in row["history_item_id"]} == {user}
        assert row["request_time"].date() - row["history_time"][-1].date() == timedelta(days=1)


def test_progress_is_told_by_stage_and_two_at_a_time_are_refused(shop_source, tmp_path):
    told = []

    def tell(*step):
        told.append(step)
        with pytest.raises(DataError, match="another process is preparing it"):
            run(tmp_path / "root", shop_source)

    run(tmp_path / "root", shop_source, progress=tell)
    assert [step for step in told if step[0] == "events"] == [("events", n, 6) for n in range(1, 7)]
    assert {step[0] for step in told} == {"events", "sequences", "requests"}


def test_settings_that_do_not_fit(tmp_path):
    settings = SourceSettings(path=tmp_path, columns={"item": "Code"})
    with pytest.raises(ConfigError, match=r"source\.columns\.item: no such column; known: action"):
        run(tmp_path / "root", settings)
    by_rows = [FeatureSettings(name="item_id", dtype="int64", num_rows=5)]
    with pytest.raises(ConfigError, match=r"features\.0\.num_rows: only for"):
        run(tmp_path / "root", tmp_path, features=by_rows)
    assert not (tmp_path / "root").exists()


def test_expressions_are_not_of_one_engine(shop_source, tmp_path, monkeypatch):
    """Whatever is evaluated can be written for Spark too."""
    compiled = []
    query = DuckDBConnection.query

    def spy(connection, table):
        compiled.append(ibis.to_sql(table, dialect="pyspark"))
        return query(connection, table)

    monkeypatch.setattr(DuckDBConnection, "query", spy)
    run(tmp_path / "root", shop_source)
    assert len(compiled) >= 20
