"""Odd and broken logs through the whole of `prepare`: each with its count, or its typed error."""

import shutil
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import source_files
from pipeline.errors import (
    CorruptFileError,
    DataError,
    HalfWrittenDayError,
    MissingDayError,
    SetAsideError,
)
from pipeline.partitions import day_folder, file_paths, read_manifest
from pipeline.prepare import prepare
from pipeline.requests import RequestSettings
from pipeline.schema import DaySettings, FeatureSettings
from pipeline.sequences import SequenceSettings
from pipeline.source import SourceSettings
from pipeline.tasks import TaskSettings
from tests.pipeline.dirty_days import FIRST, SCHEMA, at, event, preparation, write_day

D1, D2, D3, D4 = (FIRST + timedelta(days=number) for number in range(4))
DAYS = DaySettings(pretraining=(D1, D1), ranking=(D2, D2), validation=(D3, D3), test=(D4, D4))
FEATURES = (FeatureSettings(name="item_id", dtype="int64"), FeatureSettings(name="category"))
TASKS = {
    "ctr": TaskSettings(label_actions=("click",), window="1h", same_request=True),
    "cvr": TaskSettings(label_actions=("purchase",), window="2h", after="ctr"),
}
REQUESTS = RequestSettings(candidates="events", actions=("impression",), min_history=0)


def made_of(folder, **changed):
    settings = {
        "days": DAYS,
        "features": FEATURES,
        "tasks": TASKS,
        "requests": REQUESTS,
        "sequences": SequenceSettings(min_length=2, max_length=2),
        "source": SourceSettings(path=folder / "events"),
    }
    return preparation(folder, **settings | changed)


def write_days(folder, schema=SCHEMA, **changed):
    """Four plain days, but for those in `changed` (d1 to d4)."""
    for number, day in enumerate((D1, D2, D3, D4), start=1):
        plain = [
            event("u", 1, at(day, 9), "impression", f"r{number}"),
            event("u", 2, at(day, 9), "impression", f"r{number}"),
            event("u", 1, at(day, 9, 5), "click", f"r{number}"),
        ]
        write_day(folder, day, changed.get(f"d{number}", plain), schema)


def rows_of(root, kind, day):
    folder = day_folder(root, kind, day)
    paths = file_paths(folder, read_manifest(folder))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def counts_of(made, day):
    return read_manifest(day_folder(made.root, "requests", day)).counts


def values_of(made, feature, day):
    """Row -> value of a vocabulary."""
    return {row["row"]: row["value"] for row in rows_of(made.root, f"vocabulary/{feature}", day)}


def labels_of(made, day):
    """Request -> item -> labels."""
    items = values_of(made, "item_id", D2)
    return {
        row["request_id"]: {
            items[item]: labels
            for item, *labels in zip(
                row["candidate_item_id"], row["label_ctr"], row["label_cvr"], strict=True
            )
        }
        for row in rows_of(made.root, "requests", day)
    }


def test_request_ids_over_midnight_and_of_several_users(tmp_path):
    before = at(D2, 23, 59)
    write_days(
        tmp_path,
        d2=[
            event("u", 1, before, "impression", "over"),
            event("u", 2, at(D2, 9), "impression", "shared"),
            event("v", 2, at(D2, 9), "impression", "shared"),
            event("v", 2, at(D2, 9, 1), "click", "shared"),
        ],
        d3=[event("u", 2, at(D3, 0), "impression", "over")],
    )
    made = made_of(tmp_path)
    prepare(made)
    counts = counts_of(made, D2)
    assert counts["request_ids_over_midnight"] == 1
    assert counts["request_ids_of_several_users"] == 2
    assert counts["requests"] == 3
    shared = [row for row in rows_of(made.root, "requests", D2) if row["request_id"] == "shared"]
    assert {row["user_id"]: row["label_ctr"] for row in shared} == {"u": [0], "v": [1]}
    assert counts_of(made, D3)["request_ids_over_midnight"] == 0
    assert [len(row["candidate_item_id"]) for row in rows_of(made.root, "requests", D3)] == [1]


def test_answers_to_what_was_never_shown(tmp_path):
    write_days(
        tmp_path,
        d2=[
            event("u", 1, at(D2, 9), "impression", "r"),
            event("u", 2, at(D2, 9, 5), "click", "r"),
            event("u", 1, at(D2, 12), "click", "other"),
            event("u", 3, at(D2, 15), "purchase", None),
        ],
    )
    made = made_of(tmp_path)
    prepare(made)
    counts = counts_of(made, D2)
    assert (counts["ctr_without_candidate"], counts["cvr_without_candidate"]) == (2, 1)
    assert labels_of(made, D2) == {"r": {1: [0, None]}}


def test_purchases_before_clicks_are_no_conversions(tmp_path):
    write_days(
        tmp_path,
        d2=[
            event("u", 1, at(D2, 9), "impression", "r"),
            event("u", 1, at(D2, 9, 2), "purchase", None),
            event("u", 1, at(D2, 9, 5), "click", "r"),
            event("u", 2, at(D2, 9), "impression", "r"),
            event("u", 2, at(D2, 9, 5), "click", "r"),
            event("u", 2, at(D2, 9, 5), "purchase", None),
        ],
    )
    made = made_of(tmp_path)
    prepare(made)
    assert labels_of(made, D2) == {"r": {1: [1, 0], 2: [1, 1]}}


def test_a_clock_that_is_behind_is_corrected_and_counted(tmp_path):
    write_days(
        tmp_path,
        d2=[
            event("u", 1, at(D2, 9), "impression", "r"),
            event("u", 1, at(D2, 8, 58), "click", "r"),
            event("u", 2, at(D2, 8, 50), "click", "elsewhere"),
        ],
    )
    made = made_of(tmp_path)
    prepare(made)
    assert counts_of(made, D2)["corrected_times"] == 1
    assert "corrected_times" not in counts_of(made, D3)
    (row,) = rows_of(made.root, "requests", D2)
    assert row["label_ctr"] == [1]
    assert max(row["history_time"]) == at(D2, 8, 50)
    (after,) = rows_of(made.root, "requests", D3)
    assert after["history_time"][-1] == at(D2, 9)


def test_unknown_actions_do_no_harm(tmp_path):
    write_days(tmp_path)
    plain = made_of(tmp_path)
    prepare(plain)
    path = tmp_path / "events" / f"day={D2}" / "part-1.parquet"
    strange = [event("u", 1, at(D2, 9), "Click ", "r2"), event("x", 9, at(D2, 9), "\u00e4\n", None)]
    pq.write_table(pa.Table.from_pylist(strange, SCHEMA), path)
    made = made_of(tmp_path, root=tmp_path / "other")
    report = prepare(made)
    assert report.num_rows["events"] == 14
    for day in (D2, D3, D4):
        assert rows_of(made.root, "requests", day) == rows_of(plain.root, "requests", day)


def test_ids_that_change_type_between_days_stay_the_same(tmp_path):
    """17, "17" and 17.0 are one user, and one item, whichever day says so in which type."""
    kinds = {
        D1: (pa.int64(), pa.string()),
        D2: (pa.string(), pa.int32()),
        D3: (pa.float64(), pa.float64()),
        D4: (pa.large_string(), pa.uint64()),
    }
    for day, (user, item) in kinds.items():
        rows = [
            event(17, 5, at(day, hour), action, f"{day}")
            for hour, action in ((9, "impression"), (10, "click"))
        ]
        table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
        for name, kind in (("user_id", user), ("item_id", item)):
            place = table.column_names.index(name)
            values = table[name].cast(pa.int64()).cast(kind)
            table = table.set_column(place, name, values)
        target = tmp_path / "events" / f"day={day}"
        target.mkdir(parents=True)
        pq.write_table(table, target / "part-0.parquet")
    for dtype in ("int64", "string"):
        features = (FeatureSettings(name="item_id", dtype=dtype), FEATURES[1])
        made = made_of(tmp_path, root=tmp_path / dtype, features=features)
        prepare(made)
        assert list(values_of(made, "item_id", D2).values()) == [
            None,
            5 if dtype == "int64" else "5",
        ]
        (row,) = rows_of(made.root, "requests", D4)
        assert (row["user_id"], row["history_item_id"]) == ("17", [1, 1, 1])
        assert row["candidate_item_id"] == [1]


@pytest.mark.parametrize("empty", ["d1", "d2", "d3", "d4"])
def test_a_day_without_rows(tmp_path, empty):
    write_days(tmp_path, **{empty: []})
    made = made_of(tmp_path)
    report = prepare(made)
    day = (D1, D2, D3, D4)[int(empty[1]) - 1]
    assert rows_of(made.root, "events", day) == []
    if day != D1:
        assert rows_of(made.root, "requests", day) == []
    assert report.num_rows["requests"] == (3 if day == D1 else 2)
    later = [len(rows_of(made.root, "requests", other)) for other in (D2, D3, D4) if other != day]
    assert set(later) == {1}


@pytest.mark.parametrize("missing", [D1, D2, D4])
def test_a_missing_day(tmp_path, missing):
    write_days(tmp_path)
    shutil.rmtree(tmp_path / "events" / f"day={missing}")
    with pytest.raises(MissingDayError, match=rf"day={missing}: no such day.*missing_days"):
        prepare(made_of(tmp_path))
    allowed = SourceSettings(path=tmp_path / "events", missing_days="allow")
    made = made_of(tmp_path, source=allowed)
    report = prepare(made)
    assert report.num_rows["events"] == 9
    assert rows_of(made.root, "events", missing) == []


def test_no_events_on_any_day_is_an_error(tmp_path):
    write_days(tmp_path, d1=[], d2=[], d3=[], d4=[])
    with pytest.raises(DataError, match=r"no events.*\[days\]"):
        prepare(made_of(tmp_path))


def rewritten(folder, day, change):
    path = folder / "events" / f"day={day}" / "part-0.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def test_columns_that_come_and_go(tmp_path):
    """One more does no harm, one less sets the file aside, and so does a type that says nothing."""
    write_days(tmp_path)
    plain = made_of(tmp_path)
    prepare(plain)
    rewritten(tmp_path, D2, lambda table: table.append_column("more", [[1.5] * 3]))
    prepare(made_of(tmp_path, root=tmp_path / "more"))
    for kind in ("events", "requests"):
        assert rows_of(tmp_path / "more", kind, D2) == rows_of(plain.root, kind, D2)
    rewritten(tmp_path, D2, lambda table: table.drop_columns(["category"]))
    with pytest.raises(SetAsideError, match=rf"{D2}.*missing_column.*no column 'category'"):
        prepare(made_of(tmp_path, root=tmp_path / "less"))
    rewritten(tmp_path, D2, lambda table: table.append_column("category", [[b"x"] * 3]))
    with pytest.raises(SetAsideError, match=rf"{D2}.*wrong_type.*'category' is binary"):
        prepare(made_of(tmp_path, root=tmp_path / "retyped"))


def test_a_column_that_is_retyped_but_readable(tmp_path):
    write_days(tmp_path)
    plain = made_of(tmp_path)
    prepare(plain)

    def retyped(table):
        place = table.column_names.index("event_time")
        seconds = table["event_time"].cast(pa.timestamp("s", tz="UTC")).cast(pa.int64())
        return table.set_column(place, "event_time", seconds)

    rewritten(tmp_path, D3, retyped)
    made = made_of(tmp_path, root=tmp_path / "retyped")
    prepare(made)
    assert rows_of(made.root, "requests", D3) == rows_of(plain.root, "requests", D3)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    write_days(tmp_path)
    path = tmp_path / "events" / f"day={D3}" / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    made = made_of(tmp_path)
    with pytest.raises(CorruptFileError, match=rf"day={D3}/part-0\.parquet"):
        prepare(made)
    # All files are looked at before the first day is cleaned.
    assert not (made.root / "events").exists()


def test_a_file_with_damaged_data_is_named(tmp_path):
    write_days(tmp_path)
    path = tmp_path / "events" / f"day={D3}" / "part-0.parquet"
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=rf"day={D3}/part-0\.parquet: its data cannot be"):
        prepare(made_of(tmp_path))


def test_a_file_that_vanishes_is_named(tmp_path, monkeypatch):
    write_days(tmp_path)
    path = tmp_path / "events" / f"day={D3}" / "part-0.parquet"
    found = source_files.find_day

    def vanishing(source, day, **more):
        result = found(source, day, **more)
        if day == D4:
            path.unlink()
        return result

    monkeypatch.setattr("pipeline.events.find_day", vanishing)
    with pytest.raises(DataError, match=rf"day={D3}/part-0\.parquet"):
        prepare(made_of(tmp_path))


def test_a_writer_that_has_not_finished(tmp_path):
    write_days(tmp_path)
    (tmp_path / "events" / f"day={D4}" / "part-1.parquet.tmp").touch()
    with pytest.raises(HalfWrittenDayError, match=r"part-1\.parquet\.tmp: left by a writer"):
        prepare(made_of(tmp_path))


STRANGE = [
    "\u00e4\u00f6\u00fc \u4e2d\u6587",
    "\U0001f600",
    "e\u0301",
    "\u00e9",
    " leading and trailing ",
    'it\'s "quoted" \\ `back`',
    "tab\tnew\nline\r",
    "a,b;c|d=e/f%20",
    "x" * 10_000,
    "NULL",
    "0017",
    "\u202eright to left",
]


def test_strange_names_of_users_items_and_requests(tmp_path):
    """Names go through as they are, each its own: as users, as items, as requests, as features."""
    features = (FeatureSettings(name="item_id", dtype="string"), FEATURES[1])
    schema = SCHEMA.set(1, pa.field("item_id", pa.string()))
    names = list(enumerate(STRANGE))

    def of_day(day):
        shown = [
            event(name, name, at(day, 9, number), "impression", name, category=name)
            for number, name in names
        ]
        return shown + [row | {"action": "click"} for row in shown]

    days = {f"d{number}": of_day(day) for number, day in enumerate((D1, D2, D3, D4), start=1)}
    write_days(tmp_path, schema=schema, **days)
    made = made_of(tmp_path, features=features)
    report = prepare(made)
    assert report.set_aside["events"] == {}
    for feature in ("item_id", "category"):
        found = values_of(made, feature, D2)
        assert [found[row] for row in range(1, len(found))] == sorted(STRANGE)
    requests = rows_of(made.root, "requests", D3)
    assert sorted(row["user_id"] for row in requests) == sorted(STRANGE)
    for row in requests:
        item = sorted(STRANGE).index(row["user_id"]) + 1
        assert row["request_id"] == row["user_id"]
        assert row["history_item_id"] == row["history_category"] == [item, item]
        assert row["candidate_item_id"] == row["candidate_category"] == [item]
        assert row["label_ctr"] == [1]


def test_extreme_numbers_as_items(tmp_path):
    items = [-(2**63), -1, 0, 1, 2**31, 2**53 + 1, 2**63 - 1]

    def of_day(day):
        return [
            event("u", item, at(day, 9, number), action, f"{day} {item}")
            for number, item in enumerate(items)
            for action in ("impression", "click")
        ]

    days = {f"d{number}": of_day(day) for number, day in enumerate((D1, D2, D3, D4), start=1)}
    write_days(tmp_path, **days)
    hashed = FeatureSettings(name="seller", dtype="int64", hash_rows=5)
    for row in (row for rows in days.values() for row in rows):
        row["seller"] = row["item_id"]
    write_days(tmp_path, **days)
    made = made_of(tmp_path, features=(*FEATURES, hashed))
    prepare(made)
    found = values_of(made, "item_id", D2)
    assert [found[row] for row in range(1, len(found))] == items
    for row in rows_of(made.root, "requests", D3):
        (candidate,) = row["candidate_item_id"]
        assert row["request_id"] == f"{D3} {found[candidate]}"
        assert all(1 <= number < 5 for number in row["candidate_seller"] + row["history_seller"])
    times = [row["history_time"] for row in rows_of(made.root, "requests", date(2024, 1, 4))]
    assert sorted(map(len, times)) == [21 + number for number in range(len(items))]
