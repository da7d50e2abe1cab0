import re
from datetime import date, timedelta
from html.parser import HTMLParser

import pytest

from jobs.data_page import write_data_page
from pipeline.data_checks import NO_CHECKS, DataCheckSettings
from pipeline.data_drift import ColumnChanges, Comparison, FileSchema
from pipeline.data_profile import NO_EVENTS, DayProfile, ValueCounts
from pipeline.data_report import EventsReport, check_requests, report_path, write_report
from pipeline.errors import CorruptFileError, DataCheckError
from pipeline.partitions import Contents, day_folder, publish
from pipeline.schema import requests_schema

FIRST = date(2024, 5, 1)


class Page(HTMLParser):
    """Rows of cells, the texts of charts, and what would need a network or a script."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.charts, self.foreign = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "svg":
            self.charts.append(found["aria-label"])
        if tag in ("script", "link", "img") or "src" in found:
            self.foreign.append(tag)

    def handle_data(self, data):
        if self.lasttag in ("td", "th") and data.strip():
            self.rows[-1][-1] += data


def events_report(day, rows, earlier=None, **changed):
    profile = DayProfile(
        rows=rows,
        users=3,
        items=2,
        actions=ValueCounts(nulls=0, distinct=2, top={"click": rows - 1, "b<$u$>y": 1}),
        features={"item_id": ValueCounts(nulls=1, distinct=2, top={"1": rows - 1})},
    )
    values = {
        "day": day,
        "published": True,
        "violations": (),
        "rows_in": rows + 2,
        "set_aside": {"duplicate": 2},
        "events": profile,
        "source": (FileSchema(columns={"item_id": "int64"}, files=("part-0.parquet",)),),
        "earlier": earlier,
    }
    return EventsReport(**values | changed)


def compared(day):
    changes = ColumnChanges(added=("page",), retyped={"item_id": ("int64", "string")})
    return Comparison(
        day=day,
        rows_change=0.25,
        action_drift=0.125,
        value_drift={"item_id": 0.5},
        columns=changes,
    )


@pytest.fixture
def root(tmp_path):
    """Two days of events, the first with requests that were stopped, and a day without events."""
    second, third = FIRST + timedelta(days=1), FIRST + timedelta(days=2)
    write_report(tmp_path, "events", events_report(FIRST, 4))
    write_report(tmp_path, "events", events_report(second, 5, compared(FIRST)))
    closed = events_report(third, 1, events=NO_EVENTS, rows_in=0, set_aside={}, source=())
    write_report(tmp_path, "events", closed)
    counts = {"requests": 2, "candidates": 8, "label_ctr_applies": 8, "label_ctr_positives": 1}
    checks = DataCheckSettings(label_rate={"ctr": (0.2, 1.0)})
    with pytest.raises(DataCheckError):
        check_requests(tmp_path, FIRST, counts, None, checks)
    check_requests(tmp_path, second, counts | {"new_item_candidates": 2}, counts, NO_CHECKS)
    return tmp_path


def page_of(root):
    text = write_data_page(root).read_text()
    return text, Page(text)


def test_every_day_is_in_the_tables(root):
    _, page = page_of(root)
    day = str(FIRST + timedelta(days=1))
    rows = [row for row in page.rows if row[0] == day]
    assert [day, "published", "5", "3", "2", "80.00%", "20.00%", "+25.0%", "0.125"] in rows
    assert [day, "20.00%", "0.500"] in rows
    assert [day, "7", "2", "2"] in rows
    assert [day, "published", "2", "8", "12.50%", "25.00%"] in rows
    assert [day, "page", "added"] in rows
    assert [day, "item_id", "int64, now string"] in rows
    closed = str(FIRST + timedelta(days=2))
    assert [closed, "published", "0", "0", "0", "-", "-", "-", "-"] in page.rows
    assert [str(FIRST), "published", "4", "3", "2", "75.00%", "25.00%", "-", "-"] in page.rows


def test_what_was_stopped_says_why_and_what_remains(root):
    _, page = page_of(root)
    (row,) = [row for row in page.rows if row[0] == f"{FIRST} requests"]
    assert "checks.label_rate.ctr = 0.2" in row[1]
    assert row[2] == "nothing"
    contents = Contents(kind="requests", day=FIRST)
    publish(day_folder(root, "requests", FIRST), contents, requests_schema([], ["ctr"]), ())
    _, page = page_of(root)
    (row,) = [row for row in page.rows if row[0] == f"{FIRST} requests"]
    assert row[2] == "an earlier version"


def test_charts_show_what_there_is_and_the_page_stands_alone(root):
    text, page = page_of(root)
    titles = [label.partition(" by day")[0] for label in page.charts]
    assert titles == [
        "Events",
        "Users and items",
        "Action mix",
        "Drift since the earlier day",
        "Label rates and new items",
    ]
    assert "b&lt;$u$&gt;y" in text
    assert "b<$u$>y" not in text
    assert page.foreign == []
    assert not re.search(r"https?://", text)
    assert write_data_page(root).read_text() == text


def test_a_page_of_nothing_and_of_events_alone(tmp_path):
    text, page = page_of(tmp_path)
    assert "0 days reported" in text
    assert page.charts == []
    write_report(tmp_path, "events", events_report(FIRST, 4))
    text, page = page_of(tmp_path)
    assert "Requests" not in text
    assert len(page.charts) == 3
    assert "None: every day" in text


def test_a_report_that_is_none_is_named(root):
    report_path(root, FIRST, "requests").write_text("[]")
    with pytest.raises(CorruptFileError, match=r"requests\.json: not a report"):
        write_data_page(root)
