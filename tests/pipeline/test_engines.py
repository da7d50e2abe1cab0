"""Spark gives what DuckDB gives, byte for byte; and says so where it cannot start."""

import shutil
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.engine import EngineSettings, open_engine
from pipeline.errors import ConfigError
from pipeline.holdout import HoldoutSettings
from pipeline.manifests import MANIFEST_NAME
from pipeline.partitions import read_manifest, verify_files
from pipeline.prepare import prepare
from pipeline.requests import RequestSettings
from pipeline.schema import FeatureSettings
from pipeline.sequences import SequenceSettings
from pipeline.tasks import TaskSettings
from tests.pipeline.dirty_days import DAYS, FIRST, preparation, write_log

# Py4J leaves closing its pipe to Java to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")

# A few rows are planned for longer than they are worked on: no generated code, one partition, and
# what is compiled is compiled quickly.
FOR_FEW_ROWS = {
    "spark.master": "local[1]",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
    "spark.sql.ui.explainMode": "simple",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.default.parallelism": "1",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
}
SPARK = EngineSettings(kind="spark", spark=FOR_FEW_ROWS)


def published(root: Path):
    """Folder -> its manifest, whole: digests of its files, counts, vocabularies."""
    folders = [path.parent for path in root.glob(f"*/**/{MANIFEST_NAME}")]
    manifests = {str(folder.relative_to(root)): read_manifest(folder) for folder in folders}
    for name, manifest in manifests.items():
        verify_files(root / name, manifest)
    return manifests


def different(ours, theirs):
    """Folders that only one has, or whose manifests are not equal."""
    return [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]


@pytest.fixture(autouse=True)
def _one_version(monkeypatch):
    """Whatever is being edited meanwhile: both engines run the code that was imported."""
    monkeypatch.setattr("pipeline.prepare.code_version", lambda *_: "one")
    monkeypatch.setattr("pipeline.events.code_version", lambda *_: "one")


def on_both(folder: Path, **changed):
    """What DuckDB and what Spark publish."""
    with_duckdb = preparation(folder, root=folder / "duckdb", **changed)
    with_spark = preparation(folder, root=folder / "spark", **changed)
    reports = [prepare(with_duckdb), prepare(with_spark, SPARK)]
    assert reports[0] == reports[1]
    return published(folder / "duckdb"), published(folder / "spark")


@pytest.mark.slow
@needs_java
def test_shown_requests_are_the_same_on_both_engines(tmp_path):
    """Three blocks: two of training, the second from the first one's state, and held-out days."""
    pytest.importorskip("pyspark")
    write_log(tmp_path)
    days = DAYS.model_copy(
        update={
            "pretraining": (FIRST, date(2024, 1, 2)),
            "ranking": (date(2024, 1, 2), date(2024, 1, 3)),
        }
    )
    sequences = SequenceSettings(min_length=2, max_length=3, increments=True)
    holdout = HoldoutSettings(share=0.3)
    duckdb, spark = on_both(tmp_path, days=days, sequences=sequences, holdout=holdout)
    assert different(spark, duckdb) == []
    kinds = {name.partition("/")[0] for name in duckdb}
    assert kinds == {
        *("events", "vocabulary", "pending", "catalogue", "history"),
        *("sequences", "tails", "increments", "requests", "held_out"),
    }
    assert sum(m.num_rows for name, m in duckdb.items() if name.startswith("held_out/")) > 0
    days = [manifest for name, manifest in duckdb.items() if name.startswith("requests/")]
    for name in ("with_short_history", "cut_candidates", "corrected_times", "label_cvr_positives"):
        assert sum(manifest.counts.get(name, 0) for manifest in days) > 0, name
    assert duckdb["pending/item_id/day=2024-01-03"].num_rows > 0
    assert set(duckdb["events/day=2024-01-01"].set_aside) >= {"duplicate", "null_user_id"}


@pytest.mark.slow
@needs_java
def test_sampled_requests_are_the_same_on_both_engines(tmp_path):
    pytest.importorskip("pyspark")
    write_log(tmp_path, seed=1)
    features = (FeatureSettings(name="item_id", dtype="string"), FeatureSettings(name="category"))
    requests = RequestSettings(
        actions=("click",), negatives="popularity", negatives_per_positive=2, max_history=4
    )
    duckdb, spark = on_both(
        tmp_path, features=features, requests=requests, tasks={"buy": TaskSettings()}
    )
    assert different(spark, duckdb) == []
    for day in (DAYS.validation[0], DAYS.test[0]):
        counts = duckdb[f"requests/day={day}"].counts
        assert counts["candidates"] > counts["label_buy_positives"] > 0


@pytest.mark.slow
@needs_java
def test_spark_numbers_the_rows_of_all_partitions(tmp_path):
    pytest.importorskip("pyspark")
    settings = EngineSettings(
        kind="spark", spark=FOR_FEW_ROWS | {"spark.sql.shuffle.partitions": "3"}
    )
    with open_engine(tmp_path, settings) as engine:
        given = engine.in_memory(pa.table({"x": list(range(100))}))
        grouped = given.group_by("x").agg(times=given.count())
        numbered = engine.computed("numbered", engine.numbered(grouped, "number"))
        numbers = [row["number"] for row in engine.rows_of(numbered)]
    assert len(set(numbers)) == 100
    # A partition counts from a multiple of this.
    assert max(numbers) >= 2**33


def test_spark_without_its_package(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "pipeline.spark_engine", raising=False)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(ConfigError, match=r"engine\.kind: 'spark' needs the package pyspark"):
        opened(tmp_path)


def test_spark_without_java(tmp_path, monkeypatch):
    context = pytest.importorskip("pyspark").SparkContext
    monkeypatch.setattr(context, "_gateway", None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"engine\.kind: 'spark' did not start.*needs Java"):
        opened(tmp_path)


def opened(root: Path):
    with open_engine(root, SPARK):
        pytest.fail("it must not start")
