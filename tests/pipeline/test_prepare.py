import shutil
from datetime import date, timedelta

import ibis
import pyarrow.parquet as pq
import pytest

from pipeline import engine, partitions
from pipeline.encoding import catalogue_folder
from pipeline.errors import ConfigError, DataError, SetAsideError
from pipeline.partitions import day_folder, days_between, file_paths, find_manifest, read_manifest
from pipeline.schema import FeatureSettings
from pipeline.source import SourceSettings
from tests.pipeline.small_days import (
    DAYS,
    FEATURES,
    FIRST,
    REQUESTS,
    at,
    event,
    rows_of,
    run,
    shop_days,
    values_of,
    write_day,
)

VALIDATION, TEST = DAYS.validation[0], DAYS.test[0]


@pytest.fixture
def source(tmp_path):
    shop_days(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_whole_tree(root, source):
    report = run(root, source)
    assert report.num_days == {"events": 6, "sequences": 4, "requests": 4}
    assert report.num_rows["events"] == 60
    assert report.table_rows == {"item_id": 41, "department": 3, "store_id": 6}
    folder = catalogue_folder(root)
    (path,) = file_paths(folder, read_manifest(folder))
    catalogue = pq.read_table(path)
    assert catalogue.column_names == ["item_id", "department", "count"]
    assert catalogue["item_id"].to_pylist() == list(range(1, 41))
    manifest = read_manifest(day_folder(root, "requests", DAYS.ranking[1]))
    assert set(manifest.vocabularies) == {"item_id", "department", "store_id"}
    assert not (root / ".work").exists()


def test_a_rerun_does_nothing_and_another_root_is_byte_for_byte_the_same(root, source, tmp_path):
    run(root, source)
    before = tree(root)
    report = run(root, source)
    assert all(not days for days in report.built.values())
    assert tree(root) == before
    run(tmp_path / "other", source)
    assert tree(tmp_path / "other") == before


def test_what_comes_later_reaches_nothing_that_training_sees(root, source, tmp_path):
    """Plant users, items and departments from validation on; only requests may change."""
    run(root, source)
    for day in (VALIDATION, TEST):
        planted = [
            event("planted user", 9000, at(day, 1), department="planted", store=99),
            *(event(f"user-{n}", 9001, at(day, 0), department="planted") for n in range(5)),
            *(event(f"user-{n}", 0, at(day, 0, 1), department="planted") for n in range(5)),
        ]
        write_day(source, day, planted, name="planted.parquet")
    run(tmp_path / "other", source)
    assert 9000 not in values_of(tmp_path / "other", "item_id")
    with_plants, without = tree(tmp_path / "other"), tree(root)
    last = DAYS.training[1]
    same = [
        name
        for name in without
        if name.startswith(("vocabulary", "catalogue", "sequences"))
        or any(f"day={day}" in name for day in days_between(FIRST, last))
    ]
    assert len(same) > 20
    assert all(with_plants[name] == without[name] for name in same)
    assert rows_of(tmp_path / "other", "requests", TEST) != rows_of(root, "requests", TEST)


def test_nothing_of_the_future_is_in_any_request(root, source):
    run(root, source)
    for day in days_between(DAYS.ranking[0], TEST):
        for row in rows_of(root, "requests", day):
            assert max(row["history_time"]) < row["request_time"]
            assert row["history_time"] == sorted(row["history_time"])


def test_a_fixed_day_is_replaced_and_what_depends_on_it(root, source):
    run(root, source)
    before = rows_of(root, "requests", TEST)
    write_day(source, VALIDATION, [event("user-0", 10, at(VALIDATION, 1))])
    report = run(root, source)
    assert report.built == {"events": [VALIDATION], "sequences": [], "requests": [VALIDATION, TEST]}
    assert rows_of(root, "requests", TEST) != before


def test_killed_at_any_publication_nothing_is_half_visible(root, source, tmp_path, monkeypatch):
    run(tmp_path / "whole", source)
    whole = tree(tmp_path / "whole")

    write_manifest = partitions._write_manifest
    for survives in (3, 8, 13):
        shutil.rmtree(root, ignore_errors=True)
        written = []

        def killed(folder, manifest, written=written, survives=survives):
            if len(written) == survives:
                raise KeyboardInterrupt
            written.append(folder)
            write_manifest(folder, manifest)

        monkeypatch.setattr(partitions, "_write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            run(root, source)
        monkeypatch.setattr(partitions, "_write_manifest", write_manifest)
        visible = [path.parent for path in root.rglob("manifest.json")]
        assert sorted(visible) == sorted(written)
        assert all(find_manifest(folder) for folder in visible)
        run(root, source)
        assert tree(root) == whole


def test_bad_rows_stop_the_run_before_the_day_is_visible(root, source):
    run(root, source)
    before = tree(root)
    write_day(source, FIRST, [event(None, 1, at(FIRST, 5))], name="bad.parquet")
    with pytest.raises(SetAsideError, match=r"bad\.parquet"):
        run(root, source)
    assert tree(root) == before
    run(root, SourceSettings(path=source, max_set_aside_share=0.2))
    assert tree(root) != before


def test_min_count_and_other_settings_rebuild_what_they_touch(root, source):
    run(root, source)
    changed = (FEATURES[0], FeatureSettings(name="department", min_count=1000), FEATURES[2])
    report = run(root, source, features=changed)
    assert report.table_rows["department"] == 1
    assert report.built["events"] == []
    assert len(report.built["sequences"]) == 4
    requests = REQUESTS.model_copy(update={"seed": 7})
    report = run(root, source, features=changed, requests=requests)
    assert report.built["sequences"] == []
    assert len(report.built["requests"]) == 4


def test_progress_is_told_by_stage(root, source):
    told = []
    run(root, source, progress=lambda *step: told.append(step))
    assert [step for step in told if step[0] == "events"] == [("events", n, 6) for n in range(1, 7)]
    assert {step[0] for step in told} == {"events", "vocabularies", "sequences", "requests"}


def test_two_at_a_time_are_refused(root, source):
    def again(stage, done, total):
        run(root, source)

    with pytest.raises(DataError, match="another process is preparing it"):
        run(root, source, progress=again)


def test_settings_that_do_not_fit(root, source):
    settings = SourceSettings(path=source, columns={"item": "Code"})
    with pytest.raises(ConfigError, match=r"source\.columns\.item: no such column; known: action"):
        run(root, settings)
    by_rows = [FeatureSettings(name="item_id", dtype="int64", num_rows=5)]
    with pytest.raises(ConfigError, match=r"features\.0\.num_rows: only for"):
        run(root, source, features=by_rows)


def test_expressions_are_not_of_one_engine(root, source, monkeypatch):
    """Whatever is evaluated can be written for Spark too."""
    compiled = []

    query = engine._query

    def spy(connection, table):
        compiled.append(ibis.to_sql(table, dialect="pyspark"))
        return query(connection, table)

    monkeypatch.setattr(engine, "_query", spy)
    run(root, source)
    assert len(compiled) >= 8


def test_a_day_more_leaves_the_days_before_alone(root, source):
    run(root, source)
    before = rows_of(root, "events", TEST)
    later = TEST + timedelta(days=1)
    write_day(source, later, [event("user-0", 10, at(later, 5))])
    days = DAYS.model_copy(update={"test": (TEST, later)})
    report = run(root, source, days=days)
    assert report.built == {"events": [later], "sequences": [], "requests": [later]}
    assert rows_of(root, "events", TEST) == before
    assert date(2024, 5, 7) == later
