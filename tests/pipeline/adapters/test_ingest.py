from datetime import date

import pytest

from pipeline.adapters import ingest as module
from pipeline.adapters.ingest import ingest
from pipeline.adapters.report import find_report
from pipeline.adapters.settings import IngestSettings
from pipeline.errors import DataError
from pipeline.partitions import read_manifest, verify_files
from pipeline.schema import FeatureSettings
from pipeline.source_files import find_day
from tests.pipeline.adapters.raw import rows, write

HEADER = "user_id,item_id,event_time,action\n"
FEATURES = [FeatureSettings(name="item_id")]


def log(path, *days):
    return write(path, HEADER + "".join(f"7,{n},{day},click\n" for n, day in enumerate(days)))


@pytest.fixture
def bring(tmp_path):
    """Ingest tmp_path/log.csv into tmp_path/events; the report, and whether it did anything."""

    def run(**settings):
        made = IngestSettings(format="csv", files=(str(tmp_path / "log.csv"),), **settings)
        return ingest(tmp_path / "events", made, FEATURES)

    return run


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_days_are_what_prepare_reads(tmp_path, bring):
    log(tmp_path / "log.csv", "2024-01-02", "2024-01-01 23:59:59", "2024-01-02")
    told = []
    made = IngestSettings(format="csv", files=(str(tmp_path / "log.csv"),))
    report, is_new = ingest(tmp_path / "events", made, FEATURES, lambda *step: told.append(step))
    assert is_new
    assert told == [("files", 1, 1), ("days", 1, 2), ("days", 2, 2)]
    assert report.days == {date(2024, 1, 1): 1, date(2024, 1, 2): 2}
    for day, num_rows in report.days.items():
        manifest = read_manifest(tmp_path / "events" / f"day={day}")
        verify_files(tmp_path / "events" / f"day={day}", manifest)
        assert manifest.num_rows == num_rows
        options = {"success_marker": "manifest.json", "allow_missing": False}
        assert len(find_day(tmp_path / "events", day, **options).files) == 1
    assert find_report(tmp_path / "events") == report


def test_a_rerun_with_the_same_files_does_nothing(tmp_path, bring):
    log(tmp_path / "log.csv", "2024-01-01", "2024-01-02")
    first, _ = bring()
    before = times(tmp_path / "events")
    again, is_new = bring()
    assert (again, is_new) == (first, False)
    after = times(tmp_path / "events")
    del before[tmp_path / "events" / ".lock"], after[tmp_path / "events" / ".lock"]
    assert after == before


def test_what_changed_is_done_again(tmp_path, bring):
    log(tmp_path / "log.csv", "2024-01-01", "2024-01-02")
    bring()
    assert bring(last_day=date(2024, 1, 5))[1]
    log(tmp_path / "log.csv", "2024-01-02", "2024-01-03")
    report, is_new = bring(last_day=date(2024, 1, 5))
    assert is_new
    assert report.removed_days == (date(2024, 1, 1),)
    assert rows(tmp_path, "item_id") == [("0",), ("1",)]
    assert not (tmp_path / "events" / "day=2024-01-01").exists()
    assert find_report(tmp_path / "events") == report


def test_a_day_that_is_not_whole_is_made_again(tmp_path, bring):
    log(tmp_path / "log.csv", "2024-01-01", "2024-01-02")
    bring()
    (tmp_path / "events" / "day=2024-01-02" / "manifest.json").unlink()
    assert bring()[1]
    assert read_manifest(tmp_path / "events" / "day=2024-01-02").num_rows == 1


def test_an_interrupted_ingest_is_made_again_with_any_settings(tmp_path, bring, monkeypatch):
    log(tmp_path / "log.csv", "2024-01-01", "2024-01-02")
    bring()

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "remove_other_days", fail)
        with pytest.raises(KeyboardInterrupt):
            bring(last_day=date(2024, 1, 1))
    assert find_report(tmp_path / "events") is None
    assert bring()[1]
    assert len(rows(tmp_path, "item_id")) == 2


def test_somebody_elses_days_are_left_alone(tmp_path, bring):
    log(tmp_path / "log.csv", "2024-01-01")
    theirs = tmp_path / "events" / "day=2024-01-01" / "part.parquet"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    with pytest.raises(DataError, match=r"events: holds days that ingest did not write"):
        bring()
    assert theirs.read_text() == "theirs"


def test_one_ingest_at_a_time(tmp_path, bring):
    log(tmp_path / "log.csv", "2024-01-01")
    with (
        module.working_folder(tmp_path / "events"),
        pytest.raises(DataError, match=r"events: another ingest"),
    ):
        bring()
    assert bring()[1]


def test_order_of_rows_does_not_depend_on_order_of_lines(tmp_path, bring):
    content = [f"{n % 5},{n % 7},2024-01-01,{'abc'[n % 3]}\n" for n in range(200)]
    write(tmp_path / "log.csv", HEADER + "".join(content))
    bring()
    (before,) = (tmp_path / "events").glob("day=*/*.parquet")
    write(tmp_path / "log.csv", HEADER + "".join(reversed(content)))
    assert bring()[1]
    (after,) = (tmp_path / "events").glob("day=*/*.parquet")
    assert after.name == before.name
