"""Running `prepare` once more: after a change, a new day, a kill."""

from datetime import timedelta

import pytest

from pipeline import partitions
from pipeline import prepare as prepare_module
from pipeline.errors import SetAsideError
from pipeline.partitions import day_folder, find_manifest
from pipeline.schema import FeatureSettings
from tests.pipeline.small_days import (
    DAYS,
    FEATURES,
    FIRST,
    REQUESTS,
    SEQUENCES,
    at,
    event,
    rows_of,
    run,
    tree,
    values_of,
    write_day,
    written,
)

VALIDATION, TEST = DAYS.validation[0], DAYS.test[0]
NOTHING = {"events": [], "sequences": [], "tails": [], "requests": []}


@pytest.fixture
def read(monkeypatch):
    """Days whose events are read."""
    days = []
    read_events = prepare_module.read_events

    def spy(engine, root, manifests):
        days.extend(manifests)
        return read_events(engine, root, manifests)

    monkeypatch.setattr(prepare_module, "read_events", spy)
    return days


def test_a_rerun_does_nothing_and_another_root_is_byte_for_byte_the_same(
    shop, shop_source, shop_root, tmp_path
):
    report = run(shop_root, shop_source)
    assert report.built == NOTHING
    assert tree(shop_root) == tree(shop[0] / "root")
    run(tmp_path / "other", shop_source)
    assert tree(tmp_path / "other") == tree(shop_root)


def test_a_fixed_day_is_replaced_and_what_depends_on_it(shop_root, shop_source):
    before = rows_of(shop_root, "requests", TEST)
    states = written(shop_root / "history" / f"day={DAYS.training[1]}")
    write_day(shop_source, VALIDATION, [event("user-0", 10, at(VALIDATION, 1))])
    report = run(shop_root, shop_source)
    assert report.built == NOTHING | {"events": [VALIDATION], "requests": [VALIDATION, TEST]}
    assert rows_of(shop_root, "requests", TEST) != before
    assert written(shop_root / "history" / f"day={DAYS.training[1]}") == states


def test_a_day_more_reads_that_day_only(shop_root, shop_source, read):
    before = rows_of(shop_root, "events", TEST)
    later = TEST + timedelta(days=1)
    write_day(shop_source, later, [event("user-0", 10, at(later, 5))])
    days = DAYS.model_copy(update={"test": (TEST, later)})
    report = run(shop_root, shop_source, days=days)
    assert report.built == NOTHING | {"events": [later], "requests": [later]}
    assert read == [later]
    assert rows_of(shop_root, "events", TEST) == before
    (request,) = rows_of(shop_root, "requests", later)
    assert request["history_time"][-1] == at(TEST, 9)


def test_a_training_day_more_is_built_on_the_state_before_it(shop_root, shop_source, read):
    """As in production: yesterday's validation day is training now; only it is read."""
    vocabulary = values_of(shop_root, "item_id")
    write_day(shop_source, VALIDATION, [event("user-0", 555, at(VALIDATION, 1))], name="b.parquet")
    later = TEST + timedelta(days=1)
    write_day(shop_source, later, [event("user-0", 10, at(later, 5))])
    days = DAYS.model_copy(
        update={
            "pretraining": (FIRST, VALIDATION),
            "ranking": (DAYS.ranking[0], VALIDATION),
            "validation": (TEST, TEST),
            "test": (later, later),
        }
    )
    report = run(shop_root, shop_source, days=days)
    assert report.built["sequences"] == [VALIDATION]
    assert report.built["requests"] == [VALIDATION, TEST, later]
    assert sorted(read) == [VALIDATION, TEST, later]
    assert values_of(shop_root, "item_id", VALIDATION) == [*vocabulary, 555]


def test_killed_at_any_publication_nothing_is_half_visible(
    shop, shop_source, tmp_path, monkeypatch
):
    """All of it is done again, from wherever the state before it is."""
    whole, root = tree(shop[0] / "root"), tmp_path / "killed"
    write_manifest = partitions._write_manifest
    for survives in (9, 6):
        written = []

        def killed(folder, manifest, written=written, survives=survives):
            if len(written) == survives:
                raise KeyboardInterrupt
            written.append(folder)
            write_manifest(folder, manifest)

        monkeypatch.setattr(partitions, "_write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            run(root, shop_source)
        monkeypatch.setattr(partitions, "_write_manifest", write_manifest)
        visible = [path.parent for path in root.rglob("manifest.json")]
        assert set(written) <= set(visible)
        assert all(find_manifest(folder) for folder in visible)
    run(root, shop_source)
    found = tree(root)
    assert {name: found[name] for name in whole} == whole


def test_bad_rows_stop_the_run_before_the_day_is_visible(shop_root, shop_source):
    before = tree(shop_root / "events")
    write_day(shop_source, FIRST, [event(None, 1, at(FIRST, 5))], name="bad.parquet")
    with pytest.raises(SetAsideError, match=r"bad\.parquet"):
        run(shop_root, shop_source)
    assert tree(shop_root / "events") == before
    assert find_manifest(day_folder(shop_root, "requests", TEST)) is not None


def test_what_settings_touch_is_built_anew(shop_root, shop_source):
    changed = (FEATURES[0], FeatureSettings(name="department", min_count=1000), FEATURES[2])
    report = run(shop_root, shop_source, features=changed)
    assert report.table_rows["department"] == 1
    assert report.built["events"] == []
    assert len(report.built["sequences"]) == 4
    requests = REQUESTS.model_copy(update={"seed": 7})
    report = run(shop_root, shop_source, features=changed, requests=requests)
    assert report.built["sequences"] == report.built["tails"] == []
    assert len(report.built["requests"]) == 4


def test_the_least_length_touches_tails_only(shop_root, shop_source):
    longer = SEQUENCES.model_copy(update={"min_length": 3})
    report = run(shop_root, shop_source, sequences=longer)
    assert report.built == NOTHING | {"tails": [DAYS.pretraining[1]]}
    assert report.counts["tails"] == {
        "sequences": 0,
        "events": 0,
        "too_short": 5,
        "too_short_events": 10,
    }
