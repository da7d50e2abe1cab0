import codecs
import csv
import gzip
import io
import random
from datetime import UTC, datetime

import pytest

from pipeline.adapters import raw_files
from pipeline.errors import ConfigError, CorruptFileError, DataError, SchemaError
from tests.pipeline.adapters.raw import rows, run, write

HEADER = "user_id,item_id,event_time,action\n"
LINE = "7,35,2024-01-01T10:00:00Z,click\n"


def test_columns_by_their_own_names_and_times_in_utc(tmp_path):
    path = write(
        tmp_path / "log.csv",
        "Number;Kunde;Zeit;Laden\r\n"
        '"a ""b""; c";Zo\xeb;2024-01-01 00:30:00+02:00;x\r\n'
        "35;7;2024-01-02;\r\n"
        "\r\n"
        "36;7;2024-01-02T01:02:03.456789Z;y",
    )
    columns = {"user_id": "Kunde", "item_id": "Number", "event_time": "Zeit", "shop": "Laden"}
    report = run(
        tmp_path, [path], ["shop"], format="csv", columns=columns, action="buy", delimiter=";"
    )
    assert (report.num_rows, report.set_aside) == (3, {})
    assert rows(tmp_path, "user_id", "item_id", "event_time", "action", "request_id", "shop") == [
        ("Zo\xeb", 'a "b"; c', datetime(2023, 12, 31, 22, 30, tzinfo=UTC), "buy", None, "x"),
        ("7", "35", datetime(2024, 1, 2, tzinfo=UTC), "buy", None, ""),
        ("7", "36", datetime(2024, 1, 2, 1, 2, 3, 456789, tzinfo=UTC), "buy", None, "y"),
    ]
    assert [path.name for path in sorted(tmp_path.glob("events/day=*"))] == [
        "day=2023-12-31",
        "day=2024-01-02",
    ]


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_every_malformed_line_counts_once(tmp_path, name):
    bad = [
        b"7,35,2024-01-01\n",
        b"7,35,2024-01-01,click,more\n",
        b'7,"35,2024-01-01,click\n',
        b'7,"3"5,2024-01-01,click\n',
        b'7,a"b,2024-01-01,"click\n',
        b"7,\xff,2024-01-01,click\n",
        b"7,3\r5,2024-01-01,click\n",
        b"garbage\n",
    ]
    good = [LINE.encode(), b'7,a"b,2024-01-01,click\n', b'"7","3,5","2024-01-01","click"\r\n']
    content = HEADER.encode() + b"".join([*bad, *good, *bad])
    report = run(tmp_path, [write(tmp_path / name, content)], format="csv")
    assert report.set_aside == {"malformed_line": 2 * len(bad)}
    assert report.num_rows == 2 * len(bad) + len(good)
    assert sorted(rows(tmp_path, "item_id")) == [("3,5",), ("35",), ('a"b',)]


@pytest.mark.parametrize("size", [40, 64, 1000, 1 << 20])
def test_counts_are_those_of_another_parser_wherever_blocks_end(tmp_path, monkeypatch, size):
    monkeypatch.setattr(raw_files, "BLOCK_BYTES", size)
    draw = random.Random(size)
    lines = []
    for number in range(150):
        values = [str(number), draw.choice(["\xe9", "a,b", 'c "d"', "e"]), "2024-01-01", "click"]
        text = io.StringIO()
        csv.writer(text, lineterminator=draw.choice(["\n", "\r\n"])).writerow(
            values[: draw.choice([4, 4, 4, 3])] + ["more"] * draw.choice([0, 0, 0, 1])
        )
        lines.append(text.getvalue())
    widths = [len(row) for row in csv.reader(lines)]
    report = run(tmp_path, [write(tmp_path / "log.csv", HEADER + "".join(lines))], format="csv")
    assert report.num_rows == 150
    assert report.set_aside == {"malformed_line": sum(width != 4 for width in widths)}


def test_values_over_several_lines_if_asked_for(tmp_path):
    content = HEADER + '7,"3\n5",2024-01-01,click\n7,36\n' + LINE + "7,37\n"
    path = write(tmp_path / "log.csv", content)
    report = run(tmp_path, [path], format="csv", newlines_in_values=True)
    assert (report.num_rows, report.set_aside) == (4, {"malformed_line": 2})
    assert rows(tmp_path, "item_id") == [("3\n5",), ("35",)]
    assert run(tmp_path, [path], format="csv").set_aside == {"malformed_line": 4}


@pytest.mark.parametrize("bad", ['7,"3,2024-01-01,click\n', '7,"3,click\n7,"3"\n'])
def test_a_quote_that_would_swallow_lines_is_an_error(tmp_path, bad):
    path = write(tmp_path / "log.csv", HEADER + LINE + bad + LINE * 3)
    with pytest.raises(CorruptFileError, match=r"log\.csv: .*quote.*'7,\"3"):
        run(tmp_path, [path], format="csv", newlines_in_values=True)
    assert run(tmp_path, [path], format="csv").num_written == 4


def test_bytes_that_are_no_utf8_in_values_over_several_lines(tmp_path):
    content = HEADER.encode() + b'7,"3\n\xff",2024-01-01,click\n' + LINE.encode()
    path = write(tmp_path / "log.csv", content)
    report = run(tmp_path, [path], format="csv", newlines_in_values=True)
    assert report.set_aside == {"malformed_line": 1}
    assert rows(tmp_path, "item_id") == [("35",)]


def test_no_header_no_quotes_and_tabs(tmp_path):
    path = write(tmp_path / "log.tsv", '7\t"35\t1704103200\n')
    names = ("user_id", "item_id", "event_time")
    settings = {"delimiter": "\t", "quote": "", "header": False, "column_names": names}
    report = run(tmp_path, [path], format="csv", action="view", time_unit="s", **settings)
    assert report.set_aside == {}
    assert rows(tmp_path, "item_id", "event_time") == [
        ('"35', datetime(2024, 1, 1, 10, tzinfo=UTC))
    ]


@pytest.mark.parametrize("delimiter", ["^", "]", "|", "\\", " ", "\x01"])
def test_delimiters_that_mean_something_elsewhere(tmp_path, delimiter):
    lines = HEADER + LINE + '7,"3,5",2024-01-01,click\n' + '7,"35,2024-01-01,click\n'
    path = write(tmp_path / "log.csv", lines.replace(",", delimiter))
    report = run(tmp_path, [path], format="csv", delimiter=delimiter)
    assert report.set_aside == {"malformed_line": 1}
    assert rows(tmp_path, "item_id") == [(f"3{delimiter}5",), ("35",)]


def test_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = write(tmp_path / "log.csv", codecs.BOM_UTF8 + (HEADER + LINE).encode())
    assert run(tmp_path, [path], format="csv").num_written == 1
    path = write(tmp_path / "log.csv", (HEADER + LINE).encode("utf-16"))
    with pytest.raises(CorruptFileError, match=r"log\.csv: UTF-16"):
        run(tmp_path, [path], format="csv")


def test_request_id_is_read_where_there_is_one(tmp_path):
    content = "request_id,user_id,item_id,event_time,action\nr1," + LINE
    path = write(tmp_path / "log.csv", content)
    run(tmp_path, [path], format="csv")
    assert rows(tmp_path, "request_id") == [("r1",)]
    with pytest.raises(SchemaError, match=r"no column 'basket'.*ingest\.columns\.request_id"):
        run(tmp_path, [path], format="csv", columns={"request_id": "basket"})


TIMES = {
    "2024-01-01": ("2024-01-01", None),
    " 2024-01-01 ": ("2024-01-01", None),
    "": (None, "null_event_time"),
    "  ": (None, "null_event_time"),
    "yesterday": (None, "unparsable_time"),
    "2024-02-30": (None, "unparsable_time"),
    "infinity": (None, "unparsable_time"),
    "12024-01-01": (None, "unparsable_time"),
    "0044-03-15 (BC)": (None, "unparsable_time"),
    "1704103200": (None, "unparsable_time"),
}
SECONDS = {
    "1704103200": ("2024-01-01", None),
    "1704103200.0": ("2024-01-01", None),
    "1.7041032e9": ("2024-01-01", None),
    "-2134949234": ("1902-05-07", None),
    "253402300799": ("9999-12-31", None),
    "253402300800": (None, "unparsable_time"),
    "-62135596801": (None, "unparsable_time"),
    "99999999999999999999": (None, "unparsable_time"),
    "nan": (None, "unparsable_time"),
    "1_0": (None, "unparsable_time"),
    "2024-01-01": (None, "unparsable_time"),
    "": (None, "null_event_time"),
}


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [(None, *item) for item in TIMES.items()] + [("s", *item) for item in SECONDS.items()],
)
def test_times(tmp_path, unit, text, expected):
    """A second row keeps the ingest from being empty."""
    other = "2024-01-01" if unit is None else "1704103200"
    content = f"{HEADER}1,1,{text},click\n2,2,{other},click\n"
    report = run(tmp_path, [write(tmp_path / "log.csv", content)], format="csv", time_unit=unit)
    day, reason = expected
    assert report.set_aside == ({reason: 1} if reason else {})
    written = dict(rows(tmp_path, "user_id", "event_time"))
    assert ("1" in written) == (day is not None)
    assert day is None or str(written["1"].date()) == day


@pytest.mark.parametrize(("unit", "text"), [("ms", "1704103200250"), ("us", "1704103200250000")])
def test_units_of_time(tmp_path, unit, text):
    path = write(tmp_path / "log.csv", f"{HEADER}1,1,{text},click\n")
    run(tmp_path, [path], format="csv", time_unit=unit)
    assert rows(tmp_path, "event_time") == [(datetime(2024, 1, 1, 10, 0, 0, 250000, tzinfo=UTC),)]


def test_times_in_a_format(tmp_path):
    path = write(tmp_path / "log.csv", f"{HEADER}1,1,1/12/2010 8:26,a\n1,1,2010-12-01,a\n")
    report = run(tmp_path, [path], format="csv", time_format="%d/%m/%Y %H:%M")
    assert report.set_aside == {"unparsable_time": 1}
    assert rows(tmp_path, "event_time") == [(datetime(2010, 12, 1, 8, 26, tzinfo=UTC),)]
    with pytest.raises(ConfigError, match=r"ingest\.time_format: .*%Q"):
        run(tmp_path, [path], format="csv", time_format="%Q")


def test_actions_and_days_that_were_not_asked_for(tmp_path):
    lines = [f"1,{i},2024-01-0{1 + i // 4},{['pv', 'its', 'new', ''][i % 4]}\n" for i in range(12)]
    path = write(tmp_path / "log.csv", HEADER + "".join(lines))
    settings = {"actions": {"pv": "click", "its": "it's"}, "first_day": "2024-01-02"}
    report = run(tmp_path, [path], format="csv", last_day="2024-01-02", **settings)
    assert report.set_aside == {"out_of_range": 8, "unknown_action": 2}
    assert rows(tmp_path, "item_id", "action") == [("4", "click"), ("5", "it's")]


def test_many_files_each_with_its_own_order_of_columns(tmp_path):
    (tmp_path / "logs").mkdir()
    write(tmp_path / "logs" / "b.csv", HEADER + LINE + "x\n")
    other = "action,event_time,other,item_id,user_id\nbuy,2024-01-01,,1,2\n"
    write(tmp_path / "logs" / "a.csv.gz", other)
    pattern = tmp_path / "logs" / "*.csv*"
    report = run(tmp_path, [pattern, tmp_path / "logs" / "b.csv"], format="csv")
    found = [(path.rpartition("/")[2], file.set_aside) for path, file in report.files.items()]
    assert found == [("a.csv.gz", {}), ("b.csv", {"malformed_line": 1})]
    assert [file.num_rows for file in report.files.values()] == [1, 2]
    assert rows(tmp_path, "user_id", "action") == [("2", "buy"), ("7", "click")]


def test_files_that_are_not_there_or_not_whole(tmp_path):
    with pytest.raises(DataError, match=r"none\*\.csv: no such file.*ingest\.files"):
        run(tmp_path, [tmp_path / "none*.csv"], format="csv")
    with pytest.raises(DataError, match=r"no such file"):
        run(tmp_path, [tmp_path / "none.csv"], format="csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: no file"):
        run(tmp_path, [tmp_path / "folder.csv"], format="csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(CorruptFileError, match=r"empty\.csv: has no bytes"):
        run(tmp_path, [tmp_path / "empty.csv"], format="csv")


def test_gzips_that_are_not_whole(tmp_path):
    lines = "".join(f"{n},{n * 7919},2024-01-01,click\n" for n in range(5000))
    packed = gzip.compress((HEADER + lines).encode())
    path = tmp_path / "log.csv.gz"
    for broken in (packed[:-9], packed[: len(packed) // 2], packed[:-8] + b"\0" * 8, b"text"):
        path.write_bytes(broken)
        with pytest.raises(CorruptFileError, match=r"log\.csv\.gz: cannot be read"):
            run(tmp_path, [path], format="csv")
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(CorruptFileError, match=r"log\.csv\.gz: a gzip of no bytes"):
        run(tmp_path, [path], format="csv")
    path.write_bytes(packed + gzip.compress(LINE.encode()))
    assert run(tmp_path, [path], format="csv").num_written == 5001
    assert not list(tmp_path.glob("events/.work"))


def test_columns_that_cannot_be_found(tmp_path):
    path = write(tmp_path / "log.csv", "a,b,b,event_time,action\n" + "1," + LINE)
    with pytest.raises(SchemaError, match=r"log\.csv: no column 'user_id'; the file has a, b, b"):
        run(tmp_path, [path], format="csv")
    with pytest.raises(SchemaError, match=r"log\.csv: column 'b' is there 2 times"):
        run(tmp_path, [path], format="csv", columns={"user_id": "a", "item_id": "b"})
    with pytest.raises(ConfigError, match=r"ingest\.columns\.usr: no such column; known: action"):
        run(tmp_path, [path], format="csv", columns={"usr": "a"})


def test_nothing_to_write(tmp_path):
    path = write(tmp_path / "log.csv", HEADER)
    with pytest.raises(DataError, match=r"log\.csv: not one row of 0"):
        run(tmp_path, [path], format="csv")
    path = write(tmp_path / "log.csv", HEADER + "1,2,x,y\n1\n")
    reasons = r"not one row of 2 .*malformed_line 1, unparsable_time 1"
    with pytest.raises(DataError, match=reasons):
        run(tmp_path, [path], format="csv")


def test_a_line_without_end_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(raw_files, "MAX_LINE_BYTES", 1 << 20)
    path = write(tmp_path / "log.csv", HEADER + "x" * (1 << 21))
    with pytest.raises(CorruptFileError, match=r"log\.csv: a line of more than 1 MiB"):
        run(tmp_path, [path], format="csv")
