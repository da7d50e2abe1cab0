"""A small shop and what `prepare` makes of it: built once, copied for tests that change it."""

import shutil

import pytest

from tests.pipeline.small_days import run, shop_days


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
