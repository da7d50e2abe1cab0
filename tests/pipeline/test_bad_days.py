"""Empty, missing and broken days through the whole of `prepare`: each with its typed error."""

import shutil

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
from pipeline.prepare import prepare
from pipeline.source import SourceSettings
from tests.pipeline.plain_days import APART, D1, D2, D3, D4, made_of, rows_of, write_days


@pytest.mark.parametrize("empty", ["d1", "d2", "d3", "d4"])
def test_a_day_without_rows(tmp_path, empty):
    write_days(tmp_path, **{empty: []})
    made = made_of(tmp_path, days=APART)
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
    made = made_of(tmp_path, source=allowed, days=APART)
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
