import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest

from jobs.ingest import account, ingest_files
from pipeline.adapters.settings import IngestSettings
from pipeline.errors import ConfigError
from pipeline.schema import FeatureSettings
from pipeline.source import SourceSettings
from tests.jobs.small_shop import CONFIG

CONFIGS = Path(__file__).parents[2] / "deploy" / "configs"
SECTION = """
[ingest]
format = "csv"
files = ["{folder}/log-*.csv"]
columns = {{ category = "Kategorie" }}
action = "purchase"
"""
HEADER = "user_id,item_id,event_time,Kategorie,shop\n"
FEATURES = [FeatureSettings(name=name) for name in ("item_id", "category", "shop")]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "log-1.csv").write_text(HEADER + "1,2,2024-01-01,a,b\n1,2\n1,2,x,a,b\n")
    (tmp_path / "log-2.csv").write_text(HEADER + "1,2,2024-01-02T10:00:00Z,a,b\n")
    return tmp_path


def brought(folder, features=FEATURES, **settings):
    """The lines that the verb prints about rows, and whether it wrote anything."""
    source = SourceSettings(path=folder / "events")
    report, is_new = ingest_files(source, IngestSettings(**settings), features)
    return list(account(report)), is_new


def test_every_row_is_accounted_for(folder):
    settings = tomllib.loads(SECTION.format(folder=folder))["ingest"]
    lines, is_new = brought(folder, **settings)
    assert is_new
    assert lines == [
        "4 rows in 2 files = 2 written in 2 days + 2 set aside",
        f"  {folder}/log-1.csv: 3 rows, set aside: malformed_line 1, unparsable_time 1",
        "days: 2024-01-01 to 2024-01-02, 2 of them",
    ]
    assert brought(folder, **settings) == (lines, False)
    lines, is_new = brought(folder, last_day="2024-01-01", **settings)
    assert is_new
    assert lines[-1] == "removed, for these files do not have them: 2024-01-02"


def test_files_that_describe_items(tmp_path):
    reviews, metadata = tmp_path / "reviews.json", tmp_path / "meta.json"
    reviews.write_text('{"reviewerID": "A", "asin": "B1", "unixReviewTime": 0}\n')
    metadata.write_text('{"asin": "B2"}\n' * 2)
    files = {"files": (str(reviews),), "metadata": (str(metadata),)}
    lines, _ = brought(tmp_path, FEATURES[:1], format="amazon_reviews", **files)
    assert lines == [
        "1 rows in 1 files = 1 written in 1 days + 0 set aside",
        f"  {metadata}: 2 rows, set aside: duplicate 1",
        "  rows of items that nothing describes: 1",
        "days: 1970-01-01 to 1970-01-01, 1 of them",
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"columns": {"shop": "Laden"}}, r"source\.columns: ingest writes the contract's own"),
        ({"action": "purchase"}, r"source\.action: ingest writes"),
        ({"kind": "examples"}, r"source\.kind: ingest writes events"),
    ],
)
def test_sections_that_contradict_each_other(tmp_path, source, message):
    settings = IngestSettings(format="movielens")
    with pytest.raises(ConfigError, match=message):
        ingest_files(SourceSettings(path=tmp_path, **source), settings, FEATURES)


def test_a_config_without_the_section(tmp_path):
    with pytest.raises(ConfigError, match=r"ingest: the config has no such section"):
        ingest_files(SourceSettings(path=tmp_path), None, FEATURES)


@pytest.mark.integration
def test_the_verb(folder):
    config = folder / "config.toml"
    config.write_text((CONFIG + SECTION).format(folder=folder))
    command = [sys.executable, "-m", "jobs.ingest", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{folder}/events: written now"
    (folder / "log-2.csv").write_text("")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"CorruptFileError: {folder}/log-2.csv: has no bytes" in done.stderr


@pytest.mark.parametrize("name", ["amazon_reviews", "movielens", "taobao"])
def test_example_configs(name):
    sections = tomllib.loads((CONFIGS / f"{name}.toml").read_text())
    settings = IngestSettings.model_validate(sections["ingest"])
    assert settings.format == name
    assert settings.last_day in (None, date(2017, 12, 3))
