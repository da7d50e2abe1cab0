"""Rows with lists are put in order a bucket at a time, where memory is short."""

import random
from datetime import date

import pyarrow as pa
import pytest

from pipeline import duckdb_engine
from pipeline.engine import open_engine
from pipeline.partitions import day_folder, file_paths, read_manifest
from pipeline.prepare import prepare
from pipeline.wide_sort import sorted_batches
from tests.pipeline.dirty_days import DAYS, preparation, write_log


def rows(num_rows, seed=0):
    generator = random.Random(seed)
    made = [
        {
            "day": date(2024, 1, generator.randrange(1, 4)),
            "name": generator.choice(["\u00e4", "b", "B", "", "\U0001f600"]) + str(number),
            "values": [number] * generator.randrange(5),
        }
        for number in range(num_rows)
    ]
    generator.shuffle(made)
    return pa.Table.from_pylist(made)


def in_order(table):
    return sorted(table.to_pylist(), key=lambda row: (row["day"], row["name"].encode()))


@pytest.mark.parametrize("num_bounds", [0, 1, 7, 99])
def test_rows_come_out_in_order(tmp_path, num_bounds):
    table = rows(100)
    wanted = in_order(table)
    step = 100 // (num_bounds + 1)
    starts = [wanted[step * number] for number in range(1, num_bounds + 1)]
    found = list(
        sorted_batches(
            table.to_batches(9),
            ["day", "name"],
            [(row["day"], row["name"]) for row in starts],
            tmp_path / "buckets",
            batch_rows=8,
        )
    )
    assert [row for batch in found for row in batch.to_pylist()] == wanted
    assert max(batch.num_rows for batch in found) <= 8
    assert list((tmp_path / "buckets").iterdir()) == []


@pytest.mark.parametrize("share", [1e-9, 3e-8, 1.0])
def test_streams_of_lists_are_in_order_however_small_the_buckets(tmp_path, monkeypatch, share):
    monkeypatch.setattr(duckdb_engine, "BUCKET_SHARE", share)
    table = rows(300)
    with open_engine(tmp_path / "root") as engine:
        given = engine.in_memory(table)
        batches = list(engine.stream(given.order_by([given.day, given.name])))
        unordered = list(engine.stream(given))
    assert [row for batch in batches for row in batch.select(table.column_names).to_pylist()] == (
        in_order(table)
    )
    assert sum(batch.num_rows for batch in unordered) == 300


def test_what_is_published_does_not_depend_on_the_buckets(tmp_path, monkeypatch):
    write_log(tmp_path, per_day=8)
    whole = preparation(tmp_path, root=tmp_path / "whole")
    in_buckets = preparation(tmp_path, root=tmp_path / "buckets")
    prepare(whole)
    monkeypatch.setattr(duckdb_engine, "BUCKET_SHARE", 1e-7)
    used = []

    def spied(*arguments):
        used.append(arguments)
        return sorted_batches(*arguments)

    monkeypatch.setattr(duckdb_engine, "sorted_batches", spied)
    prepare(in_buckets)
    assert used
    last = DAYS.test[1]
    for kind in ("sequences", "requests", "history"):
        day = DAYS.pretraining[1] if kind == "sequences" else last
        folders = [day_folder(made.root, kind, day) for made in (whole, in_buckets)]
        names = [[path.name for path in file_paths(f, read_manifest(f))] for f in folders]
        assert names[0] == names[1]
