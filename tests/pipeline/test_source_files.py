"""Where a log ends: which days after a day its labels can look at."""

from datetime import date

import pytest

from pipeline.source_files import days_that_follow

DAY = date(2024, 5, 1)


@pytest.mark.parametrize(
    ("there", "allow_missing", "expected"),
    [
        ([], False, []),
        ([2, 3], False, [2, 3]),
        ([2, 3, 4, 5, 6], False, [2, 3, 4]),
        ([2, 4], False, [2]),
        ([3], False, []),
        ([], True, []),
        ([2, 4], True, [2, 3, 4]),
        ([3], True, [2, 3]),
        ([9], True, [2, 3, 4]),
    ],
)
def test_days_that_follow(tmp_path, there, allow_missing, expected):
    for number in there:
        folder = tmp_path / f"day=2024-05-{number:02d}"
        folder.mkdir()
        (folder / "part-0.parquet").touch()
    assert found(tmp_path, allow_missing=allow_missing) == expected


def found(source, marker=None, *, allow_missing=False):
    days = days_that_follow(source, DAY, 3, success_marker=marker, allow_missing=allow_missing)
    return [day.day for day in days]


def test_a_day_that_is_being_written_ends_the_log(tmp_path):
    for number in (2, 3):
        folder = tmp_path / f"day=2024-05-{number:02d}"
        folder.mkdir()
        (folder / "part-0.parquet").touch()
    (tmp_path / "day=2024-05-02" / "_SUCCESS").touch()
    assert found(tmp_path) == [2, 3]
    assert found(tmp_path, "_SUCCESS") == [2]
    (tmp_path / "day=2024-05-03" / "_temporary").touch()
    assert found(tmp_path) == [2]
    assert found(tmp_path, allow_missing=True) == [2]
