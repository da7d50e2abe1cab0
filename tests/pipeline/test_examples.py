from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError, MissingDayError, SchemaError, SetAsideError
from pipeline.partitions import day_folder, days_between, file_paths, read_manifest
from pipeline.source import SourceSettings
from pipeline.vocabulary import load_vocabulary
from tests.pipeline.small_days import DAYS, FEATURES, at, manifest_of, rows_of, run

RANKING, TEST = DAYS.ranking[0], DAYS.test[0]
LAST = DAYS.training[1]
ROW_FEATURES = tuple(feature.model_copy(update={"num_rows": 50}) for feature in FEATURES)


@pytest.fixture(scope="module")
def built(shop):
    """A root prepared from events: its sequences and requests are examples with row ids."""
    return shop[0] / "root"


def days_of(kind):
    first = DAYS.pretraining[0] if kind == "sequences" else RANKING
    return days_between(first, DAYS.pretraining[1] if kind == "sequences" else TEST)


def bring(built, folder, kinds=("sequences", "requests"), raw=False):
    """Copy published examples as a user's own files, with raw ids in place of rows if asked."""
    for kind in kinds:
        for day in days_of(kind):
            published = day_folder(built, kind, day)
            paths = file_paths(published, read_manifest(published))
            if not paths:
                table = pa.Table.from_batches([], pq.read_schema(first_file(built, kind)))
            else:
                table = pq.read_table(paths)
            target = folder / kind / f"day={day}"
            target.mkdir(parents=True)
            pq.write_table(with_raw_ids(built, table) if raw else table, target / "a.parquet")
    return folder


def first_file(built, kind):
    return next((built / kind).rglob("*.parquet"))


def with_raw_ids(built, table):
    for number, field in enumerate(table.schema):
        for feature in FEATURES:
            if field.name in {p + feature.name for p in ("", "history_", "candidate_")}:
                values = load_vocabulary(built, feature.name, LAST).values
                values = pa.concat_arrays([pa.nulls(1, values.type), values])
                column = table[field.name].combine_chunks()
                if pa.types.is_list(field.type):
                    flat = values.take(column.flatten())
                    column = pa.LargeListArray.from_arrays(column.offsets.cast(pa.int64()), flat)
                else:
                    column = values.take(column)
                table = table.set_column(number, field.name, column)
    return table


def source(folder, **settings):
    return SourceSettings(kind="examples", path=folder, **settings)


def unordered(rows):
    return sorted(rows, key=str)


def test_row_ids_come_out_as_they_went_in(built, tmp_path):
    folder, root = bring(built, tmp_path / "brought"), tmp_path / "root"
    report = run(root, source(folder, ids="rows"), features=ROW_FEATURES)
    assert report.table_rows == {"item_id": 50, "department": 50, "store_id": 50}
    assert report.num_rows["requests"] == 20
    for kind in ("sequences", "requests"):
        for day in days_of(kind):
            rows = rows_of(root, kind, day)
            assert unordered(rows) == unordered(rows_of(built, kind, day))
    manifest = manifest_of(root, "requests", TEST)
    assert manifest.vocabularies["item_id"] == "rows-50"
    assert manifest.counts == {"rows_in": 5}
    report = run(root, source(folder, ids="rows"), features=ROW_FEATURES)
    assert all(not days for days in report.built.values())


def test_raw_ids_get_vocabularies_of_training_days(built, tmp_path):
    folder, root = bring(built, tmp_path / "brought", raw=True), tmp_path / "root"
    run(root, source(folder))
    for day in days_of("requests"):
        for row, ours in zip(
            sorted(rows_of(root, "requests", day), key=lambda row: row["request_id"]),
            sorted(rows_of(built, "requests", day), key=lambda row: row["request_id"]),
            strict=True,
        ):
            for name in ("history_item_id", "candidate_department"):
                vocabularies = [
                    load_vocabulary(r, name.split("_", 1)[1], LAST) for r in (root, built)
                ]
                known = set(vocabularies[0].values.to_pylist())
                values = [v.values.to_pylist() for v in vocabularies]
                found = [values[0][i - 1] if i else None for i in row[name]]
                expected = [values[1][i - 1] if i else None for i in ours[name]]
                assert found == [value if value in known else None for value in expected]
            assert row["label_buy"] == ours["label_buy"]
    seen = {
        item
        for day in days_of("sequences")
        for row in pq.read_table(folder / "sequences" / f"day={day}" / "a.parquet").to_pylist()
        for item in row["item_id"]
    }
    assert set(load_vocabulary(root, "item_id", LAST).values.to_pylist()) == seen
    catalogue = rows_of(root, "catalogue", LAST)
    assert [row["item_id"] for row in catalogue] == list(range(1, len(seen) + 1))


def test_requests_alone_are_enough(built, tmp_path):
    folder, root = bring(built, tmp_path / "brought", ("requests",), raw=True), tmp_path / "root"
    report = run(root, source(folder))
    assert set(report.num_days) == {"requests"}
    training = {
        value
        for day in days_between(*DAYS.ranking)
        for row in pq.read_table(folder / "requests" / f"day={day}" / "a.parquet").to_pylist()
        for value in row["history_item_id"] + row["candidate_item_id"]
    }
    assert set(load_vocabulary(root, "item_id", LAST).values.to_pylist()) == training
    assert load_vocabulary(root, "store_id", LAST).num_rows == 6


def test_sequences_alone_are_enough(built, tmp_path):
    folder, root = bring(built, tmp_path / "brought", ("sequences",), raw=True), tmp_path / "root"
    report = run(root, source(folder))
    assert set(report.num_days) == {"sequences"}
    assert load_vocabulary(root, "store_id", LAST).num_rows == 1


def change(folder, kind, day, **columns):
    """Replace columns (functions of the rows' list) of a day's file."""
    path = folder / kind / f"day={day}" / "a.parquet"
    table = pq.read_table(path)
    for name, edit in columns.items():
        values = table[name].to_pylist()
        edit(values)
        number = table.schema.get_field_index(name)
        array = pa.array(values, table.schema.field(name).type)
        table = table.set_column(number, pa.field(name, array.type), array)
    pq.write_table(table, path)


def put(value, *places):
    """An edit that puts a value at row, position."""

    def edit(values):
        target = values
        for place in places[:-1]:
            target = target[place]
        target[places[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("reason", "column", "edit"),
    [
        ("null_request_id", "request_id", put(None, 0)),
        ("null_user_id", "user_id", put("", 0)),
        ("null_request_time", "request_time", put(None, 0)),
        ("unequal_lengths", "history_department", lambda values: values[0].pop()),
        ("unequal_lengths", "label_buy", lambda values: values[0].append(1)),
        ("unequal_lengths", "candidate_item_id", put(None, 0)),
        ("null_id", "candidate_item_id", put(None, 0, 1)),
        ("null_id", "store_id", put(None, 0)),
        ("null_event", "history_time", put(None, 0, 0)),
        ("time_not_ascending", "history_time", lambda values: values[0].sort(reverse=True)),
        ("history_not_before_request", "request_time", put(at(date(2024, 5, 4), 0), 0)),
        ("label_not_0_or_1", "label_buy", put(2, 0, 0)),
        ("future_time", "request_time", put(at(date(2024, 5, 7), 0), 0)),
        ("row_out_of_range", "history_item_id", put(50, 0, 0)),
        ("row_out_of_range", "candidate_department", put(-1, 0, 0)),
        ("row_out_of_range", "store_id", put(50, 0)),
    ],
)
def test_bad_requests_are_set_aside_by_reason(built, tmp_path, reason, column, edit):
    folder, root = bring(built, tmp_path / "brought", ("requests",)), tmp_path / "root"
    change(folder, "requests", TEST, **{column: edit})
    with pytest.raises(SetAsideError, match=rf"1 for {reason}, 1 of these in day={TEST}/a.parquet"):
        run(root, source(folder, ids="rows"), features=ROW_FEATURES)
    run(root, source(folder, ids="rows", max_set_aside_share=0.2), features=ROW_FEATURES)
    manifest = manifest_of(root, "requests", TEST)
    assert manifest.set_aside == {reason: 1}
    assert (manifest.num_rows, manifest.counts["rows_in"]) == (4, 5)


def test_a_null_label_is_kept(built, tmp_path):
    folder, root = bring(built, tmp_path / "brought", ("requests",)), tmp_path / "root"
    change(folder, "requests", TEST, label_buy=put(None, 0, 0))
    run(root, source(folder, ids="rows"), features=ROW_FEATURES)
    labels = [label for row in rows_of(root, "requests", TEST) for label in row["label_buy"]]
    assert labels.count(None) == 1


@pytest.mark.parametrize(
    ("reason", "column", "edit"),
    [
        ("null_user_id", "user_id", put(None, 0)),
        ("unequal_lengths", "action", lambda values: values[0].pop()),
        ("null_id", "item_id", put(None, 0, 0)),
        ("null_event", "action", put(None, 0, 0)),
        ("time_not_ascending", "event_time", lambda values: values[0].sort(reverse=True)),
        ("future_time", "event_time", put(at(DAYS.validation[0], 1), 0, -1)),
        ("row_out_of_range", "item_id", put(50, 0, 0)),
    ],
)
def test_bad_sequences_are_set_aside_by_reason(built, tmp_path, reason, column, edit):
    folder, root = bring(built, tmp_path / "brought", ("sequences",)), tmp_path / "root"
    day = next(day for day in days_of("sequences") if rows_of(built, "sequences", day))
    change(folder, "sequences", day, **{column: edit})
    run(root, source(folder, ids="rows", max_set_aside_share=1.0), features=ROW_FEATURES)
    assert manifest_of(root, "sequences", day).set_aside == {reason: 1}


def test_columns_missing_or_of_another_type(built, tmp_path):
    folder, root = bring(built, tmp_path / "brought", ("requests",)), tmp_path / "root"
    path = folder / "requests" / f"day={TEST}" / "a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["history_time"]), path)
    with pytest.raises(SchemaError, match=r"a\.parquet: no column 'history_time'.*list of time"):
        run(root, source(folder, ids="rows"), features=ROW_FEATURES)
    number = table.schema.get_field_index("store_id")
    text = pc.cast(table["store_id"], pa.string())
    pq.write_table(table.set_column(number, "store_id", text), path)
    with pytest.raises(SchemaError, match=r"column 'store_id' is string, should be int64"):
        run(root, source(folder, ids="rows"), features=ROW_FEATURES)


def test_nothing_brought_and_settings_that_do_not_fit(tmp_path):
    with pytest.raises(MissingDayError, match="neither a sequences nor a requests folder"):
        run(tmp_path / "root", source(tmp_path))
    with pytest.raises(ConfigError, match=r"features\.0\.num_rows: required for 'item_id'"):
        run(tmp_path / "root", source(tmp_path, ids="rows"))
    with pytest.raises(ValidationError, match="for kind = 'events'"):
        source(tmp_path, action="click")
