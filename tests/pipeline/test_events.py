import shutil
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine import open_engine
from pipeline.errors import (
    ConfigError,
    CorruptFileError,
    HalfWrittenDayError,
    MissingDayError,
    SetAsideError,
)
from pipeline.events import Cleaning, clean_events
from pipeline.partitions import day_folder, read_manifest
from pipeline.source import SourceSettings
from tests.pipeline.small_days import FEATURES, at, event, rows_of, write_day

DAY = date(2024, 5, 1)


def clean(root, source, features=FEATURES, days=(DAY,), **settings):
    settings = {"max_set_aside_share": 1.0} | settings
    with open_engine(root) as connection:
        how = Cleaning(source=SourceSettings(path=source, **settings), features=features)
        built = clean_events(connection, root, how, days).built
    return built, read_manifest(day_folder(root, "events", days[0]))


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def test_good_rows_keep_their_values(root, source):
    rows = [
        event("b", 2, at(DAY, 3), request="r1"),
        event("a", 1, at(DAY, 0), department=None, store=None),
    ]
    write_day(source, DAY, rows)
    _, manifest = clean(root, source)
    assert rows_of(root, "events", DAY) == [rows[1], rows[0]]
    assert (manifest.num_rows, manifest.counts, manifest.set_aside) == (2, {"rows_in": 2}, {})


def test_every_bad_row_has_one_reason_and_the_sum_is_exact(root, source):
    good = event("u", 1, at(DAY, 5), request="r")
    next_day, day_before = date(2024, 5, 2), date(2024, 4, 30)
    rows = [
        good,
        dict(good),
        good | {"request_id": "other"},
        event(None, 1, at(DAY, 5)),
        event("", 1, at(DAY, 5)),
        event("u", None, at(DAY, 5)),
        event(None, None, None),
        event("u", 1, None),
        event("u", 1, at(next_day, 0)),
        event("u", 1, at(day_before, 23, 59)),
        event("u", 1, at(DAY, 5), action=None),
    ]
    write_day(source, DAY, rows)
    write_day(source, DAY, [event("v", 1, at(DAY, 5)), good], name="part-1.parquet")
    _, manifest = clean(root, source)
    assert manifest.set_aside == {
        "duplicate": 2,
        "future_time": 1,
        "late_time": 1,
        "null_action": 1,
        "null_event_time": 1,
        "null_item_id": 1,
        "null_user_id": 3,
    }
    assert manifest.num_rows == 3
    assert manifest.num_rows + sum(manifest.set_aside.values()) == manifest.counts["rows_in"] == 13
    by_file = manifest.set_aside_files
    assert by_file["day=2024-05-01/part-0.parquet"]["null_user_id"] == 3
    assert sum(by_file["day=2024-05-01/part-1.parquet"].values()) == 1


@pytest.mark.parametrize("all_hashes_equal", [False, True])
def test_the_copy_that_is_kept_does_not_depend_on_the_files_order(
    root, source, monkeypatch, all_hashes_equal
):
    if all_hashes_equal:
        one_for_all = lambda rows: rows.event_time.isnull().cast("int64")  # noqa: E731
        monkeypatch.setattr("pipeline.classify._identity_hash", one_for_all)
    copies = [event("u", 1, at(DAY, 5), store=store) for store in (9, 7, 8)]
    others = [event("u", item, at(DAY, 5), request=request) for item in (2, 3) for request in "ab"]
    bad = [event(None, 1, at(DAY, 5)), event("u", 1, None), event("u", 1, None)]
    write_day(source, DAY, [*copies[:2], *others, *bad])
    write_day(source, DAY, [copies[2], others[0]], name="part-1.parquet")
    _, manifest = clean(root, source)
    assert manifest.set_aside == {"duplicate": 3, "null_event_time": 2, "null_user_id": 1}
    assert rows_of(root, "events", DAY) == [copies[1], *others]
    by_file = {file.partition("/")[2]: n for file, n in manifest.set_aside_files.items()}
    assert by_file["part-0.parquet"]["duplicate"] == 1
    assert by_file["part-1.parquet"] == {"duplicate": 2}


def test_a_column_that_is_missing_or_unreadable_sets_its_file_aside(root, source):
    rows = [event("u", number, at(DAY, 5)) for number in range(4)]
    write_day(source, DAY, rows)
    for number, column in enumerate(["store_id", "event_time"], start=1):
        bad = [{k: v for k, v in row.items() if k != column} for row in rows]
        write_day(source, DAY, bad, name=f"part-{number}.parquet")
    write_day(source, DAY, [row | {"item_id": b"x"} for row in rows], name="part-3.parquet")
    _, manifest = clean(root, source)
    assert manifest.set_aside == {"missing_column": 8, "wrong_type": 4}
    assert manifest.num_rows == 4
    with pytest.raises(SetAsideError, match=r"part-[12]\.parquet \(no column '"):
        clean(root, source, max_set_aside_share=0.01)


def test_values_as_other_tools_write_them(root, source):
    columns = {
        "user_id": pa.array([17850.0, 3.0, None, 2.5, float("nan")]),
        "item_id": pa.array(["12", "13.0", "14", "15", "abc"]),
        "event_time": pa.array([at(DAY, 1).replace(tzinfo=None)] * 5, pa.timestamp("ns")),
        "action": pa.array(["purchase"] * 5).dictionary_encode(),
        "department": pa.array([5, None, 7, 7, 7]),
        "store_id": pa.array([1.0, None, 1.0, 1.0, 1.0]),
    }
    write_day(source, DAY, [], **columns)
    _, manifest = clean(root, source)
    assert manifest.set_aside == {"null_user_id": 1, "wrong_type": 2}
    kept = rows_of(root, "events", DAY)
    assert [(row["user_id"], row["item_id"]) for row in kept] == [("17850", 12), ("3", 13)]
    assert [(row["department"], row["store_id"]) for row in kept] == [("5", 1), (None, None)]
    assert kept[0]["event_time"] == at(DAY, 1)
    assert kept[0]["request_id"] is None


SECONDS = int(at(DAY, 5).timestamp())


@pytest.mark.parametrize(
    ("times", "unit", "reasons"),
    [
        (pa.array([SECONDS, SECONDS * 1000]), "s", {"future_time": 1}),
        (pa.array([SECONDS * 1000, SECONDS]), "ms", {"late_time": 1}),
        (pa.array([SECONDS * 10**6, 2**62]), "us", {"future_time": 1}),
        (pa.array([float(SECONDS), float("nan")]), "s", {"null_event_time": 1}),
        (pa.array(["2024-05-01T07:00:00+02:00", "yesterday"]), "s", {"unparsable_time": 1}),
        (pa.array(["2024-05-01 05:00:00", ""]), "s", {"null_event_time": 1}),
        (pa.array([at(DAY, 5), None]).cast(pa.timestamp("s", "Asia/Tokyo")), "s",
         {"null_event_time": 1}),
    ],
)  # fmt: skip
def test_times_in_many_forms(root, source, times, unit, reasons):
    first = event("u", 1, None)
    columns = {name: pa.array([value] * 2) for name, value in first.items()}
    write_day(source, DAY, [], **columns | {"event_time": times})
    _, manifest = clean(root, source, time_unit=unit)
    assert manifest.set_aside == reasons
    assert [row["event_time"] for row in rows_of(root, "events", DAY)] == [at(DAY, 5)]


def test_users_names_and_predicates(root, source):
    rows = [
        {"Customer": "u", "Code": number, "When": at(DAY, 5), "Invoice": invoice}
        for number, invoice in enumerate(["1", "C2", None, "C3"])
    ]
    write_day(source, DAY, rows)
    settings = {
        "columns": {
            "user_id": "Customer",
            "item_id": "Code",
            "event_time": "When",
            "request_id": "Invoice",
        },
        "action": "purchase",
        "set_aside": {"cancellation": "Invoice LIKE 'C%'"},
        "max_set_aside_share": 0.0,
    }
    _, manifest = clean(root, source, features=FEATURES[:1], **settings)
    assert manifest.set_aside == {"cancellation": 2}
    kept = rows_of(root, "events", DAY)
    assert [row["item_id"] for row in kept] == [0, 2]
    assert {row["action"] for row in kept} == {"purchase"}
    for predicate in ("Invoice LIEK 'C%'", "NoColumn = 1"):
        bad = settings | {"set_aside": {"cancellation": predicate}}
        with pytest.raises(ConfigError, match=r"source\.set_aside\.cancellation: .*part-0"):
            clean(root, source, features=FEATURES[:1], **bad)


def test_over_the_threshold_names_day_file_reason_and_setting(root, source):
    rows = [event("u", number, at(DAY, 5)) for number in range(99)]
    write_day(source, DAY, rows)
    write_day(source, DAY, [event(None, 1, at(DAY, 5))], name="bad.parquet")
    _, manifest = clean(root, source, max_set_aside_share=0.01)
    assert manifest.set_aside == {"null_user_id": 1}
    message = (
        r"day 2024-05-01: 1 of 100 rows set aside, more than source\.max_set_aside_share = 0\.009"
        r".* null_user_id, 1 of these in day=2024-05-01/bad\.parquet"
    )
    with pytest.raises(SetAsideError, match=message):
        clean(root, source, max_set_aside_share=0.009)


def test_days_that_are_not_whole(root, source):
    with pytest.raises(MissingDayError, match="missing_days = 'allow'"):
        clean(root, source)
    _, manifest = clean(root, source, missing_days="allow")
    assert manifest.num_rows == 0
    path = write_day(source, DAY, [event("u", 1, at(DAY, 5))])
    with pytest.raises(HalfWrittenDayError, match="_SUCCESS"):
        clean(root, source, success_marker="_SUCCESS")
    leftover = path.with_name(".part-1.parquet.inprogress.1")
    leftover.touch()
    with pytest.raises(HalfWrittenDayError, match="inprogress"):
        clean(root, source)
    leftover.unlink()
    path.rename(path.with_suffix(".csv"))
    with pytest.raises(HalfWrittenDayError, match=r"no \*\.parquet file"):
        clean(root, source)


@pytest.mark.parametrize("kept_bytes", [0, 100, -1])
def test_a_truncated_file_is_named(root, source, kept_bytes):
    path = write_day(source, DAY, [event("u", number, at(DAY, 5)) for number in range(100)])
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(CorruptFileError, match=r"part-0\.parquet: not a whole Parquet file"):
        clean(root, source)


def test_a_file_with_a_whole_footer_and_broken_data_is_named(root, source):
    write_day(source, DAY, [event("u", 1, at(DAY, 5))])
    rows = [event(f"user {number}", number, at(DAY, 5)) for number in range(1000)]
    path = write_day(source, DAY, rows, name="part-1.parquet")
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"part-1\.parquet"):
        clean(root, source)


def test_only_changed_days_are_cleaned_again(root, source):
    days = (DAY, date(2024, 5, 2))
    for day in days:
        write_day(source, day, [event("u", 1, at(day, 5))])
    assert clean(root, source, days=days)[0] == list(days)
    assert clean(root, source, days=days)[0] == []
    write_day(source, days[1], [event("u", 2, at(days[1], 5))])
    assert clean(root, source, days=days)[0] == [days[1]]
    assert clean(root, source, days=days, time_unit="ms")[0] == list(days)


def cleaned(root, source, *days, closed_until=None, **settings):
    settings = SourceSettings(path=source, max_set_aside_share=1.0, **settings)
    how = Cleaning(source=settings, features=FEATURES, closed_until=closed_until)
    with open_engine(root) as connection:
        return clean_events(connection, root, how, days)


def test_closed_days_stay_as_they_were_cleaned(root, source):
    days = [date(2024, 5, day) for day in (1, 2, 3, 4)]
    for day in days[:3]:
        write_day(source, day, [event("u", 1, at(day, 5))])
    allowed = {"missing_days": "allow"}
    assert cleaned(root, source, *days, **allowed).built == days
    before = [rows_of(root, "events", day) for day in days]
    for day in days:
        write_day(source, day, [event("u", 2, at(day, 5))])
    closed = cleaned(root, source, *days, closed_until=days[1], **allowed)
    assert closed.not_taken_in == days[:2]
    assert closed.built == days[2:]
    assert [rows_of(root, "events", day) for day in days[:2]] == before[:2]
    # A day that came after it was taken for one without events.
    assert cleaned(root, source, *days, closed_until=days[3], **allowed).not_taken_in == days[:2]
    shutil.rmtree(source / f"day={days[0]}")
    (source / f"day={days[1]}" / "part-1.parquet.tmp").touch()
    assert cleaned(root, source, *days, closed_until=days[3]).not_taken_in == [days[1]]
    assert [rows_of(root, "events", day) for day in days[:2]] == before[:2]


def test_an_update_of_the_code_cleans_no_closed_day_again(root, source, monkeypatch):
    days = [DAY, date(2024, 5, 2)]
    for day in days:
        write_day(source, day, [event("u", 1, at(day, 5))])
    cleaned(root, source, *days)
    monkeypatch.setattr("pipeline.events.code_version", lambda *names: "another")
    shutil.rmtree(source / f"day={DAY}")
    assert cleaned(root, source, *days, closed_until=DAY).built == days[1:]
    with pytest.raises(MissingDayError, match="another version of the code"):
        cleaned(root, source, *days)
    with pytest.raises(MissingDayError, match="removed after it was cleaned"):
        cleaned(root, source, DAY, closed_until=DAY, time_unit="ms", missing_days="allow")
    # Other settings may make other columns of it.
    write_day(source, DAY, [event("u", 1, at(DAY, 5))])
    assert cleaned(root, source, DAY, closed_until=DAY, time_unit="ms").built == [DAY]


def test_a_closed_day_that_was_never_cleaned_is(root, source):
    with pytest.raises(MissingDayError):
        cleaned(root, source, DAY, closed_until=DAY)
    write_day(source, DAY, [event("u", 1, at(DAY, 5))])
    assert cleaned(root, source, DAY, closed_until=DAY).built == [DAY]


def test_files_may_be_removed_once_they_were_cleaned(root, source):
    path = write_day(source, DAY, [event("u", 1, at(DAY, 5))])
    cleaned(root, source, DAY)
    shutil.rmtree(path.parent)
    found = cleaned(root, source, DAY)
    assert (found.built, found.not_taken_in) == ([], [])
    with pytest.raises(MissingDayError, match="removed after it was cleaned, and has to be"):
        cleaned(root, source, DAY, time_unit="ms")


def test_a_day_that_never_was_is_cleaned_under_other_settings_too(root, source):
    allowed = {"missing_days": "allow"}
    assert cleaned(root, source, DAY, **allowed).built == [DAY]
    assert cleaned(root, source, DAY, **allowed).built == []
    assert cleaned(root, source, DAY, time_unit="ms", **allowed).built == [DAY]


def test_many_portions_clean_like_one(root, source, tmp_path, monkeypatch):
    days = [date(2024, 5, day) for day in (1, 2, 3)]
    for day in days:
        write_day(source, day, [event(f"u{n}", n, at(day, 5)) for n in range(5)])
    clean(root, source, days=days)
    monkeypatch.setattr("pipeline.events.ROWS_PER_QUERY", 1)
    clean(tmp_path / "other", source, days=days)
    for day in days:
        assert rows_of(root, "events", day) == rows_of(tmp_path / "other", "events", day)


def test_files_of_a_day_may_have_other_types_and_column_order(root, source):
    write_day(source, DAY, [event("1", 1, at(DAY, 5))])
    rows = [dict(reversed(event(2, "2", at(DAY, 6)).items()))]
    path = write_day(source, DAY, rows, name="part-1.parquet")
    assert pq.read_schema(path).names[-1] == "user_id"
    clean(root, source)
    kept = rows_of(root, "events", DAY)
    assert [(row["user_id"], row["item_id"]) for row in kept] == [("1", 1), ("2", 2)]


def test_files_of_a_day_may_tell_time_in_other_ways(root, source):
    """Time stamps in one file, epoch milliseconds in the next, fractional ones in a third."""
    write_day(source, DAY, [event("u", 1, at(DAY, 5))], name="a.parquet")
    milliseconds = int(at(DAY, 6).timestamp() * 1000)
    for name, item, time in (("b.parquet", 2, milliseconds), ("c.parquet", 3, milliseconds + 0.5)):
        write_day(source, DAY, [event("u", item, time)], name=name)
    _, manifest = clean(root, source, time_unit="ms")
    assert manifest.set_aside == {}
    hours = sorted((row["item_id"], row["event_time"].hour) for row in rows_of(root, "events", DAY))
    assert hours == [(1, 5), (2, 6), (3, 6)]
