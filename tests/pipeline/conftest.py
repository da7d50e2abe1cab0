"""Data that is built once, and copied for tests that change it: a small shop, days to read.

And which threads a test started.
"""

import shutil
import threading

import pytest

from pipeline.partitions import day_folder, read_manifest
from tests.pipeline.reader_days import DAYS, KINDS, write_days
from tests.pipeline.small_days import run, shop_days


@pytest.fixture
def new_threads():
    """Called: the threads that a test started and that still run.

    A count of all threads would not do: one that an earlier test left may end at any time.
    """
    before = set(threading.enumerate())
    return lambda: set(threading.enumerate()) - before


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A source, and a root built from it; for those who only look."""
    folder = tmp_path_factory.mktemp("shop")
    shop_days(folder / "source")
    return folder, run(folder / "root", folder / "source")


@pytest.fixture
def shop_source(shop, tmp_path):
    shutil.copytree(shop[0] / "source", tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def shop_root(shop, tmp_path):
    """Built already."""
    shutil.copytree(shop[0] / "root", tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three days in row groups of 8, the second without rows; row n of the data set is row n."""
    folder = tmp_path_factory.mktemp("data")
    for kind, (make, schema) in KINDS.items():
        write_days(folder, kind, make, schema)
    return folder


@pytest.fixture
def own_root(tmp_path):
    """A data set that a test may break, and its last file."""
    write_days(tmp_path, "requests", *KINDS["requests"])
    folder = day_folder(tmp_path, "requests", DAYS[2])
    return tmp_path, folder / read_manifest(folder).files[0].name
