import json
import math
from datetime import date, timedelta

import pyarrow as pa
import pytest

from pipeline.data_checks import DataCheckSettings
from pipeline.data_drift import FileSchema, column_changes, divergence, value_drift
from pipeline.data_profile import STORED_VALUES, ValueCounts
from pipeline.data_report import (
    EventsReport,
    RequestsReport,
    check_requests,
    read_report,
    report_days,
    report_path,
)
from pipeline.engine import EngineSettings, open_engine
from pipeline.errors import ConfigError, CorruptFileError, DataCheckError, SetAsideError
from pipeline.events import Cleaning, clean_events
from pipeline.partitions import day_folder, find_manifest, read_manifest
from pipeline.settings import load_settings
from pipeline.source import SourceSettings
from tests.pipeline.small_days import FEATURES, at, event, write_day

DAY = date(2024, 5, 1)
NEXT = DAY + timedelta(days=1)
DUCKDB = EngineSettings(threads=1)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def clean(root, source, days=(DAY, NEXT), engine=DUCKDB, share=1.0, missing="error", **checks):
    settings = SourceSettings(path=source, max_set_aside_share=share, missing_days=missing)
    with open_engine(root, engine) as opened:
        how = Cleaning(source=settings, features=FEATURES, checks=DataCheckSettings(**checks))
        return clean_events(opened, root, how, days).built


def report_of(root, day):
    return read_report(report_path(root, day, "events"), EventsReport)


def shopping(day, num_events, action="purchase", **changed):
    return [
        event(f"u{number}", number, at(day, 5), action=action, **changed)
        for number in range(num_events)
    ]


def test_a_days_figures(root, source):
    rows = [
        event("a", 1, at(DAY, 3), action="click"),
        event("a", 1, at(DAY, 4), department=None),
        event("b", 2, at(DAY, 7), store=8),
        event("b", 2, at(DAY, 7), store=8),
        event(None, 2, at(DAY, 9)),
    ]
    write_day(source, DAY, rows)
    clean(root, source, [DAY])
    report = report_of(root, DAY)
    assert (report.published, report.violations, report.earlier) == (True, (), None)
    assert (report.rows_in, report.set_aside) == (5, {"duplicate": 1, "null_user_id": 1})
    events = report.events
    assert (events.rows, events.users, events.items) == (3, 2, 2)
    assert events.actions == ValueCounts(nulls=0, distinct=2, top={"purchase": 2, "click": 1})
    assert events.features == {
        "item_id": ValueCounts(nulls=0, distinct=2, top={"1": 2, "2": 1}),
        "department": ValueCounts(nulls=1, distinct=1, top={"food": 2}),
        "store_id": ValueCounts(nulls=0, distinct=2, top={"7": 2, "8": 1}),
    }
    assert (events.first_event.hour, events.last_event.hour) == (3, 7)
    (schema,) = report.source
    assert schema.files == ("part-0.parquet",)
    assert schema.columns["item_id"] == "int64"


def test_only_the_most_frequent_values_are_kept_and_null_takes_no_place(root, source):
    names = [f"d{number:03d}" for number in range(STORED_VALUES + 3) for _ in range(2)]
    rows = [event("u", n, at(DAY, 5), department=name) for n, name in enumerate(names)]
    rows += [event("u", -n, at(DAY, 5), department=None) for n in range(1, 9)]
    write_day(source, DAY, rows)
    clean(root, source, [DAY])
    departments = report_of(root, DAY).events.features["department"]
    assert list(departments.top) == sorted(set(names))[:STORED_VALUES]
    assert (departments.nulls, departments.distinct) == (8, STORED_VALUES + 3)


def test_days_of_one_query_have_figures_of_their_own(root, source):
    write_day(source, DAY, shopping(DAY, 4))
    write_day(source, NEXT, shopping(NEXT, 6, action="click"))
    clean(root, source)
    first, second = report_of(root, DAY), report_of(root, NEXT)
    assert (first.events.rows, second.events.rows) == (4, 6)
    assert second.earlier.day == DAY
    assert second.earlier.rows_change == pytest.approx(0.5)
    assert second.earlier.action_drift == pytest.approx(1.0)
    assert second.earlier.value_drift["department"] == 0
    assert report_days(root) == [DAY, NEXT]


@pytest.mark.parametrize(
    ("checks", "setting"),
    [
        ({"min_rows": 5}, r"4 events kept, less than checks\.min_rows = 5 allows"),
        ({"max_null_share": {"store_id": 0.4}}, r"0\.5 of .* no store_id.* checks\.max_null_share"),
        ({"max_rows_change": 0.5}, r"0\.6 change .* 2024-05-01 \(fewer\).*checks\.max_rows_change"),
        ({"max_action_drift": 0.9}, r"1 drift of the action mix .*checks\.max_action_drift = 0\.9"),
        ({"max_value_drift": 0.2}, r"values of store_id from day .*checks\.max_value_drift = 0\.2"),
        ({"max_value_drift": {"item_id": 0.1}}, r"checks\.max_value_drift\.item_id = 0\.1"),
        ({"actions": ("purchase",), "max_unknown_action_share": 0.9},
         r"1 of .* checks\.actions does not name \('click'\).* checks\.max_unknown_action_share"),
    ],
)  # fmt: skip
def test_a_broken_threshold_stops_the_day_and_names_figure_and_setting(
    root, source, checks, setting
):
    write_day(source, DAY, shopping(DAY, 10))
    poor = [row | {"store_id": None} for row in shopping(NEXT, 2, action="click")]
    write_day(source, NEXT, poor + shopping(NEXT, 4, action="click")[2:])
    clean(root, source, [DAY])
    message = rf"day 2024-05-02: its events are not.* {setting}"
    with pytest.raises(DataCheckError, match=message) as caught:
        clean(root, source, **checks)
    stopped = report_of(root, NEXT)
    assert not stopped.published
    assert stopped.violations
    assert all(violation.text in str(caught.value) for violation in stopped.violations)
    assert find_manifest(day_folder(root, "events", NEXT)) is None
    clean(root, source)
    assert report_of(root, NEXT).published
    assert read_manifest(day_folder(root, "events", NEXT)).num_rows == 4


def test_all_that_is_wrong_with_a_day_is_in_one_message(root, source):
    write_day(source, DAY, shopping(DAY, 2))
    checks = {"min_rows": 3, "actions": ("click",), "max_null_share": {"department": 0.0}}
    with pytest.raises(DataCheckError) as caught:
        clean(root, source, [DAY], **checks)
    assert "checks.min_rows" in str(caught.value)
    assert "checks.max_unknown_action_share = 0" in str(caught.value)
    assert "max_null_share" not in str(caught.value)


def test_good_days_of_the_query_are_published_and_the_bad_one_is_no_measure(root, source):
    last = NEXT + timedelta(days=1)
    for day, num_events in ((DAY, 10), (NEXT, 1), (last, 9)):
        write_day(source, day, shopping(day, num_events))
    with pytest.raises(DataCheckError, match="day 2024-05-02"):
        clean(root, source, [DAY, NEXT, last], max_rows_change=0.5)
    assert [report_of(root, day).published for day in (DAY, NEXT, last)] == [True, False, True]
    assert report_of(root, last).earlier.day == DAY
    assert read_manifest(day_folder(root, "events", last)).num_rows == 9
    assert clean(root, source, [DAY, NEXT, last]) == [NEXT]


def test_what_was_published_before_stays_until_the_new_version_passes(root, source):
    write_day(source, DAY, shopping(DAY, 3))
    clean(root, source, [DAY])
    write_day(source, DAY, shopping(DAY, 1))
    with pytest.raises(DataCheckError):
        clean(root, source, [DAY], min_rows=2)
    assert read_manifest(day_folder(root, "events", DAY)).num_rows == 3
    write_day(source, DAY, shopping(DAY, 3))
    assert clean(root, source, [DAY], min_rows=2) == [DAY]
    assert report_of(root, DAY).published


def test_too_many_rows_set_aside_are_in_the_report_too(root, source):
    write_day(source, DAY, [*shopping(DAY, 1), event(None, 1, at(DAY, 5))])
    with pytest.raises(SetAsideError, match="1 of 2 rows set aside"):
        clean(root, source, [DAY], share=0.1)
    report = report_of(root, DAY)
    assert not report.published
    (violation,) = report.violations
    assert (violation.check, violation.figure) == ("source.max_set_aside_share", 0.5)


def test_a_missing_day_that_is_allowed_passes_an_empty_file_does_not(root, source):
    write_day(source, DAY, shopping(DAY, 2))
    checks = {"min_rows": 1, "max_rows_change": 0.5, "missing": "allow"}
    clean(root, source, **checks)
    report = report_of(root, NEXT)
    assert (report.published, report.events.rows, report.source) == (True, 0, ())
    schema = pa.Table.from_pylist(shopping(NEXT, 1)).schema
    write_day(source, NEXT, [], **schema.empty_table().to_pydict())
    with pytest.raises(DataCheckError, match=r"min_rows.*; 1 change .*max_rows_change"):
        clean(root, source, **checks)


def test_a_day_is_compared_with_the_latest_one_that_has_events(root, source):
    last = NEXT + timedelta(days=1)
    for day in (DAY, last):
        write_day(source, day, shopping(day, 2))
    clean(root, source, [DAY, NEXT, last], missing="allow")
    assert report_of(root, last).earlier.day == DAY


def test_columns_that_come_go_or_change_their_type_are_reported(root, source):
    write_day(source, DAY, shopping(DAY, 2))
    now = [row | {"item_id": str(row["item_id"]), "page": 1} for row in shopping(NEXT, 2)]
    write_day(source, NEXT, [{k: v for k, v in row.items() if k != "request_id"} for row in now])
    clean(root, source)
    changes = report_of(root, NEXT).earlier.columns
    assert (changes.added, changes.removed) == (("page",), ("request_id",))
    assert changes.retyped == {"item_id": ("int64", "string")}
    assert report_of(root, NEXT).earlier.value_drift["item_id"] == 0


def test_several_types_on_one_day_are_named_together():
    before = [FileSchema(columns={"a": "int64"}, files=("x",))]
    after = [*before, FileSchema(columns={"a": "string"}, files=("y",))]
    assert column_changes(before, after).retyped == {"a": ("int64", "int64 or string")}
    assert column_changes(after, after).retyped == {}


@pytest.mark.parametrize(
    ("first", "second", "bits"),
    [
        ({"a": 1.0}, {"a": 1.0}, 0.0),
        ({"a": 1.0}, {"b": 1.0}, 1.0),
        ({"a": 1.0}, {"a": 0.5, "b": 0.5}, 1.5 - 0.75 * math.log2(3)),
    ],
)
def test_divergence(first, second, bits):
    assert divergence(first, second) == pytest.approx(bits)
    assert divergence(second, first) == pytest.approx(divergence(first, second))


def test_drift_counts_nulls_and_all_rare_values_as_one():
    many = ValueCounts(nulls=0, distinct=1000, top={str(n): 1 for n in range(100)})
    others = ValueCounts(nulls=0, distinct=1000, top={str(n): 1 for n in range(500, 600)})
    assert value_drift(many, many, 1000, 1000) == 0
    assert 0 < value_drift(many, others, 1000, 1000) <= 0.1
    no_values = ValueCounts(nulls=1000, distinct=0, top={})
    assert value_drift(many, no_values, 1000, 1000) == pytest.approx(1.0)


def test_a_day_without_a_report_of_this_version_is_made_again(root, source):
    write_day(source, DAY, shopping(DAY, 2))
    assert clean(root, source, [DAY]) == [DAY]
    path = report_path(root, DAY, "events")
    path.write_text("{}")
    with pytest.raises(CorruptFileError, match=r"events\.json: not a report"):
        report_of(root, DAY)
    assert clean(root, source, [DAY]) == [DAY]
    assert report_of(root, DAY).events.rows == 2
    path.unlink()
    assert clean(root, source, [DAY]) == [DAY]
    assert clean(root, source, [DAY]) == []


def test_a_check_of_no_feature_is_a_wrong_setting(root, source):
    write_day(source, DAY, shopping(DAY, 2))
    for name in ("max_null_share", "max_value_drift"):
        with pytest.raises(ConfigError, match=rf"checks\.{name}\.shop: no such feature; known: it"):
            clean(root, source, [DAY], **{name: {"shop": 0.1}})


def test_checks_in_a_config(tmp_path):
    path = tmp_path / "checks.toml"
    path.write_text('max_value_drift = 0.3\nactions = ["a"]\nlabel_rate = { ctr = [0.01, 0.5] }\n')
    checks = load_settings(DataCheckSettings, path)
    assert checks.value_drift_bounds(["x"]) == {"x": 0.3}
    assert checks.label_rate == {"ctr": (0.01, 0.5)}
    with pytest.raises(ConfigError, match=r"checks\.label_rate\.ctr: 0\.5 is above 0\.1"):
        load_settings(DataCheckSettings, path, ["label_rate.ctr=[0.5, 0.1]"])


COUNTS = {
    "requests": 10,
    "candidates": 100,
    "new_item_candidates": 5,
    "label_ctr_applies": 100,
    "label_ctr_positives": 10,
    "label_cvr_applies": 0,
    "label_cvr_positives": 0,
}


def test_the_report_of_requests(root):
    found = check_requests(root, DAY, COUNTS, COUNTS | {"requests": 8}, DataCheckSettings())
    assert found["label_rates"] == {"ctr": 0.1, "cvr": None}
    assert found["new_item_share"] == 0.05
    assert found["changes"]["requests"] == pytest.approx(0.25)
    path = report_path(root, DAY, "requests")
    assert json.loads(path.read_text()) == found
    assert read_report(path, RequestsReport).counts == COUNTS
    assert check_requests(root, DAY, {"requests": 1}, None, DataCheckSettings())["changes"] == {}


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ({"label_rate": {"ctr": (0.2, 0.5)}}, r"0\.1 of the labels of ctr .* less than .* 0\.2"),
        ({"label_rate": {"ctr": (0.0, 0.05)}}, r"more than checks\.label_rate\.ctr = 0\.05"),
        ({"label_rate": {"cvr": (0.01, 0.5)}}, r"0 of the labels of cvr"),
        ({"max_new_item_share": 0.01}, r"0\.05 of the candidates .*max_new_item_share = 0\.01"),
    ],
)
def test_thresholds_that_stop_requests(root, checks, message):
    settings = DataCheckSettings(**checks)
    with pytest.raises(DataCheckError, match=rf"day 2024-05-01: its requests are not.*{message}"):
        check_requests(root, DAY, COUNTS, None, settings)
    assert not read_report(report_path(root, DAY, "requests"), RequestsReport).published
    empty = dict.fromkeys(COUNTS, 0)
    assert check_requests(root, DAY, empty, None, settings)["published"]
    with pytest.raises(ConfigError, match=r"label_rate\.x: no such task; known: ctr, cvr"):
        check_requests(root, DAY, COUNTS, None, DataCheckSettings(label_rate={"x": (0, 1)}))


@pytest.mark.slow
@pytest.mark.integration
# Spark's own sockets, which it leaves to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_spark_finds_the_same(root, source, tmp_path):
    rows = [*shopping(DAY, 5), *shopping(DAY, 3, action="click"), event(None, 1, at(DAY, 5))]
    rows += [rows[0] | {"store_id": 3}, rows[0], rows[1] | {"request_id": "r"}]
    write_day(source, DAY, rows)
    write_day(source, NEXT, shopping(NEXT, 4, department=None))
    checks = {"actions": ("purchase",), "max_unknown_action_share": 1.0}
    clean(root, source, **checks)
    spark = EngineSettings(kind="spark", spark={"spark.master": "local[1]"})
    clean(tmp_path / "other", source, engine=spark, **checks)
    for day in (DAY, NEXT):
        assert report_of(tmp_path / "other", day) == report_of(root, day)
        folders = (day_folder(place, "events", day) for place in (root, tmp_path / "other"))
        first, second = (read_manifest(folder) for folder in folders)
        assert first.set_aside == second.set_aside
        assert first.num_rows == second.num_rows
