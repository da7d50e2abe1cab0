import threading
from datetime import date

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends.duckdb import Backend
from pydantic import ValidationError

from pipeline import duckdb_engine
from pipeline.engine import EngineSettings, open_engine
from pipeline.errors import DataError
from pipeline.partitions import Contents, day_folder, publish


def setting(engine, name):
    return engine._connection.setting(name)


def test_only_one_at_a_time_and_the_work_folder_is_removed(tmp_path):
    root = tmp_path / "not" / "there"
    with open_engine(root) as engine:
        assert (root / ".work").is_dir()
        engine.computed("numbers", ibis.range(5).unnest().name("number").as_table())
        with (
            pytest.raises(DataError, match=r"there: another process is preparing it; wait for it"),
            open_engine(root),
        ):
            pass
        # The other one did not take away what this one works with.
        assert engine.rows_of(engine.table("numbers").count().as_table()) == [
            {"CountStar(numbers)": 5}
        ]
    assert not (root / ".work").exists()
    with open_engine(root):
        pass


def test_what_a_killed_run_left_is_removed(tmp_path):
    left = tmp_path / ".work" / "engine.duckdb"
    left.parent.mkdir()
    left.write_text("not a database")
    with open_engine(tmp_path) as engine:
        assert engine.rows_of(engine.in_memory(pa.table({"x": [1]}))) == [{"x": 1}]


def test_what_a_killed_run_wrote_beside_published_files_is_removed(tmp_path):
    schema = pa.schema([("x", pa.int64())])
    day = date(2024, 1, 1)
    contents = Contents(kind="requests", day=day, input_digest="", config_digest="")
    folder = day_folder(tmp_path, "requests", day)
    publish(folder, contents, schema, [pa.record_batch({"x": [1]}, schema=schema)])
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / ".writing-00000").write_text("half")
    (folder / "part-00000-of-another-run.parquet").write_text("not named")
    never = day_folder(tmp_path, "vocabulary/item_id", day)
    never.mkdir(parents=True)
    (never / "part-00000.parquet").write_text("no manifest")
    (tmp_path / ".work").mkdir()
    with open_engine(tmp_path):
        pass
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert not never.exists()


def test_the_work_folder_is_removed_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), open_engine(tmp_path):
        1 / 0  # noqa: B018
    assert not (tmp_path / ".work").exists()


def test_memory_threads_and_time_zone(tmp_path):
    with open_engine(tmp_path, EngineSettings(memory_limit="512MB", threads=3)) as engine:
        assert setting(engine, "memory_limit") == "488.2 MiB"
        assert setting(engine, "threads") == "3"
        assert setting(engine, "TimeZone") == "UTC"
        assert str(tmp_path / ".work") in setting(engine, "temp_directory")


def test_users_are_divided_by_the_memory_there_is(tmp_path):
    with open_engine(tmp_path, EngineSettings(memory_limit="1.2GB")) as engine:
        few, many = (engine.num_user_parts(number) for number in (0, 10_000_000))
        num_workers = min(int(setting(engine, "threads")), duckdb_engine.MAX_WORKERS)
    assert (few, many) == (1, 21 * num_workers)


def test_adding_to_a_table_goes_by_the_names_of_columns(tmp_path):
    with open_engine(tmp_path) as engine:
        engine.added("t", engine.in_memory(pa.table({"a": [1], "b": ["x"]})))
        added = engine.in_memory(pa.table({"b": ["y"], "a": [2]}))
        engine.added("t", added)
        rows = [row for batch in engine.stream(engine.table("t")) for row in batch.to_pylist()]
        assert sorted(rows, key=str) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
        engine.forget("t", "never")
        engine.added("t", added)
        assert engine.rows_of(engine.table("t")) == [{"b": "y", "a": 2}]


def test_sums_stay_whole_numbers(tmp_path):
    """DuckDB's own sums of whole numbers are 128 bits wide, which Arrow shows as decimals."""
    with open_engine(tmp_path) as engine:
        numbers = engine.in_memory(pa.table({"x": [2**40, 1]}))
        (batch,) = engine.stream(engine.computed("sums", numbers.agg(total=numbers.x.sum())))
    assert batch.schema.field("total").type == pa.int64()
    assert batch.to_pylist() == [{"total": 2**40 + 1}]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"kind": "postgres"}, "duckdb"),
        ({"memory_limit": "lots"}, "pattern"),
        ({"memory_limit": "4"}, "pattern"),
        ({"threads": 0}, "greater than or equal to 1"),
        ({"spark": {"spark.master": "local"}}, r"engine\.spark is for engine\.kind = 'spark'"),
        ({"kind": "spark", "memory_limit": "4GB"}, "are for engine.kind = 'duckdb'"),
        ({"kind": "spark", "threads": 2}, "are for engine.kind = 'duckdb'"),
        ({"shards": 3}, "Extra inputs"),
    ],
)
def test_settings_that_do_not_fit(changed, sentence):
    with pytest.raises(ValidationError, match=sentence):
        EngineSettings(**changed)


def test_opens_again_while_something_of_the_first_time_lives(tmp_path):
    """As a stream does in the traceback of an exception that a caller keeps."""
    with open_engine(tmp_path) as engine:
        stream = engine._connection.batches(ibis.range(5).unnest().name("number").as_table(), 1)
        next(stream)
    with open_engine(tmp_path) as engine:
        assert engine.rows_of(engine.in_memory(pa.table({"x": [1]}))) == [{"x": 1}]
    del stream


def test_parts_are_built_side_by_side_each_with_tables_of_its_own(tmp_path):
    """The first two parts wait for each other, so they are built at the same time."""
    both = threading.Barrier(2, timeout=60)

    def build(worker, part):
        ((number,),) = (row.values() for row in worker.rows_of(part.name("part").as_table()))
        own = worker.computed("own", numbers.filter(numbers.x % 5 == part))
        if number < 2:
            both.wait()
        assert setting(worker, "threads") == "1"
        worker.added("every", worker.table("own").mutate(part=part))
        assert {row["x"] % 5 for row in worker.rows_of(own)} == {number}
        streamed = worker.stream(numbers.filter(numbers.x % 5 == part))
        assert sum(batch.num_rows for batch in streamed) == 10

    with open_engine(tmp_path, EngineSettings(threads=2)) as engine:
        numbers = engine.computed("numbers", engine.in_memory(pa.table({"x": list(range(50))})))
        engine.each_part(5, build)
        assert setting(engine, "threads") == "2"
        rows = engine.rows_of(engine.table("every"))
        assert sorted((row["part"], row["x"]) for row in rows) == [
            (part, x) for part in range(5) for x in range(part, 50, 5)
        ]
        tables = engine._connection._backend.con.sql("SELECT table_name FROM duckdb_tables()")
        assert ("own",) not in tables.fetchall()


def test_parts_share_the_text_of_their_queries_not_the_tables(tmp_path, monkeypatch):
    compiled = []
    compile_one = Backend.compile

    def counted(backend, expression, **options):
        compiled.append(expression.op())
        return compile_one(backend, expression, **options)

    def build(worker, part):
        own = worker.computed("own", numbers.filter(numbers.x % 4 == part))
        worker.added("sums", own.agg(sum=own.x.sum()))

    with open_engine(tmp_path, EngineSettings(threads=2)) as engine:
        numbers = engine.computed("numbers", engine.in_memory(pa.table({"x": list(range(8))})))
        monkeypatch.setattr(Backend, "compile", counted)
        engine.each_part(4, build)
        # Both workers may come to a query at the same time, but not to it a second time.
        assert len(set(compiled)) == 2
        assert len(compiled) <= 4
        rows = engine.rows_of(engine.table("sums").order_by("sum"))
        assert [row["sum"] for row in rows] == [4, 6, 8, 10]


def test_after_an_error_in_one_part_no_other_is_begun(tmp_path):
    begun = []

    def build(worker, part):
        begun.append(part)
        raise ZeroDivisionError

    with open_engine(tmp_path, EngineSettings(threads=2)) as engine:
        with pytest.raises(ZeroDivisionError):
            engine.each_part(100, build)
        assert len(begun) < 100
        assert engine.rows_of(engine.in_memory(pa.table({"x": [1]}))) == [{"x": 1}]


def test_times_with_a_zone_are_read_as_utc_without(tmp_path):
    """Also in lists, and those that are no time at all; other resolutions stay as they are."""
    moments = [1_700_000_000_123_456, -1, None, 2**63 - 1]
    columns = {
        "utc": pa.array(moments, pa.timestamp("us", tz="UTC")),
        "elsewhere": pa.array(moments, pa.timestamp("us", tz="Asia/Tokyo")),
        "plain": pa.array(moments, pa.timestamp("us")),
        "times": pa.array([moments[:2], [], None, [None]], pa.list_(pa.timestamp("us", tz="UTC"))),
    }
    path = tmp_path / "it's.parquet"
    pq.write_table(pa.table(columns), path)
    with open_engine(tmp_path / "root") as engine:
        read = engine.read_parquet([path], filename="file")
        assert {name: str(dtype) for name, dtype in read.schema().items()} == {
            **dict.fromkeys(("utc", "elsewhere", "plain"), "timestamp(6)"),
            "times": "array<timestamp(6)>",
            "file": "string",
        }
        texts = read.select(*(read[name].cast("string").name(name) for name in columns), "file")
        rows = engine.rows_of(texts)
    first, second = "2023-11-14 22:13:20.123456", "1969-12-31 23:59:59.999999"
    for name in ("utc", "elsewhere", "plain"):
        assert [row[name] for row in rows] == [first, second, None, "infinity"]
    assert rows[0]["times"] == f"['{first}', '{second}']"
    assert {row["file"] for row in rows} == {str(path)}
