"""Odd events through the whole of `prepare`: each goes its defined way, and is counted."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.prepare import prepare
from pipeline.schema import FeatureSettings
from tests.pipeline.dirty_days import SCHEMA, at, event
from tests.pipeline.plain_days import (
    D1,
    D2,
    D3,
    D4,
    FEATURES,
    counts_of,
    labels_of,
    made_of,
    rows_of,
    values_of,
    write_days,
)


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
    times = [row["history_time"] for row in rows_of(made.root, "requests", D4)]
    assert sorted(map(len, times)) == [21 + number for number in range(len(items))]
