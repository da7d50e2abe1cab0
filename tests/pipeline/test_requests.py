from collections import Counter
from datetime import date, timedelta

import pytest
from pydantic import ValidationError

from pipeline.partitions import day_folder, days_between, read_manifest
from pipeline.requests import RequestSettings
from tests.pipeline.small_days import (
    DAYS,
    FIRST,
    REQUESTS,
    at,
    event,
    rows_of,
    run,
    shop_days,
    values_of,
    write_day,
)

TEST_DAY = DAYS.test[0]


def settings(**changed):
    return RequestSettings(**dict(REQUESTS) | changed)


def write_all(folder, days):
    """Write the given days, and one purchase of somebody else on all others."""
    for day in days_between(FIRST, TEST_DAY):
        filler = [event("somebody else", 500 + day.day, at(day, 1))]
        write_day(folder, day, days.get(day, []) + filler)


def requests_of(root, day, user="u"):
    return [row for row in rows_of(root, "requests", day) if row["user_id"] == user]


def test_history_ends_strictly_before_the_request(tmp_path):
    day = DAYS.ranking[0]
    write_all(
        tmp_path / "source",
        {
            FIRST: [event("u", 1, at(FIRST, 9))],
            day: [
                event("u", 2, at(day, 8)),
                event("u", 3, at(day, 9), request="basket"),
                event("u", 4, at(day, 9, 30), request="basket"),
                event("u", 5, at(day, 9), request="same time"),
                event("v", 6, at(day, 7)),
            ],
        },
    )
    run(tmp_path / "root", tmp_path / "source")
    names = values_of(tmp_path / "root", "item_id")
    found = {row["request_id"]: row for row in requests_of(tmp_path / "root", day)}
    basket = found["basket"]
    assert basket["request_time"] == at(day, 9)
    assert [names[row] for row in basket["history_item_id"]] == [1, 2]
    assert basket["history_time"] == [at(FIRST, 9), at(day, 8)]
    assert [names[row] for row in found["same time"]["history_item_id"]] == [1, 2]
    pairs = zip(basket["candidate_item_id"], basket["label_buy"], strict=True)
    labels = [(names[row], label) for row, label in pairs]
    assert {item for item, label in labels if label} == {3, 4}
    assert sum(1 for _, label in labels if not label) == 2


def test_histories_across_blocks_are_the_last_events(tmp_path):
    """Every number of earlier events from 1 to 11, with blocks of 4."""
    day = DAYS.ranking[0]
    rows = [event("u", item, at(day, item), request=f"r{item}") for item in range(12)]
    write_all(tmp_path / "source", {day: rows})
    run(tmp_path / "root", tmp_path / "source")
    names = values_of(tmp_path / "root", "item_id")
    found = requests_of(tmp_path / "root", day)
    histories = {
        int(row["request_id"][1:]): [names[item] for item in row["history_item_id"]]
        for row in found
    }
    assert histories == {n: list(range(max(0, n - 4), n)) for n in range(1, 12)}


def test_events_of_validation_days_are_the_past_of_test_days(tmp_path):
    validation = DAYS.validation[0]
    write_all(
        tmp_path / "source",
        {
            FIRST: [event("u", 1, at(FIRST, 9))],
            validation: [event("u", 501, at(validation, 9))],
            TEST_DAY: [event("u", 1, at(TEST_DAY, 9))],
        },
    )
    run(tmp_path / "root", tmp_path / "source")
    (request,) = requests_of(tmp_path / "root", TEST_DAY)
    names = values_of(tmp_path / "root", "item_id")
    assert [names[row] for row in request["history_item_id"]] == [1, 501]


def test_unknown_items_are_no_candidates_but_counted(tmp_path):
    write_all(
        tmp_path / "source",
        {
            FIRST: [event("u", 1, at(FIRST, 9))],
            TEST_DAY: [
                event("u", 1, at(TEST_DAY, 9), request="r"),
                event("u", 777, at(TEST_DAY, 9), request="r"),
                event("u", 778, at(TEST_DAY, 10), request="only new items"),
                event("newcomer", 1, at(TEST_DAY, 9)),
            ],
        },
    )
    run(tmp_path / "root", tmp_path / "source")
    (request,) = requests_of(tmp_path / "root", TEST_DAY)
    assert request["request_id"] == "r"
    assert sorted(request["label_buy"]) == [0, 1]
    assert 0 not in request["candidate_item_id"]
    counts = read_manifest(day_folder(tmp_path / "root", "requests", TEST_DAY)).counts
    # Somebody else's only item of that day is new as well.
    assert counts["unknown_item_positives"] == 3
    assert counts["without_known_positives"] == 2
    assert counts["with_short_history"] == 1
    assert counts["requests"] == counts["positives"] == 1
    assert counts["candidates"] == 2


def test_features_come_from_the_event_and_from_the_catalogue(tmp_path):
    day = DAYS.ranking[1]
    write_all(
        tmp_path / "source",
        {
            FIRST: [
                event("u", 1, at(FIRST, 9), department="old"),
                event("w", 2, at(FIRST, 9), department="first"),
                event("w", 2, at(FIRST, 10), department="latest"),
            ],
            day: [
                event("u", 1, at(day, 9), request="r", department="new", store=3),
                event("u", 501, at(day, 10), request="r", department="food", store=4),
            ],
        },
    )
    run(tmp_path / "root", tmp_path / "source", requests=settings(negatives_per_positive=9))
    (request,) = requests_of(tmp_path / "root", day)
    items, departments, stores = (
        values_of(tmp_path / "root", name) for name in ("item_id", "department", "store_id")
    )
    pairs = zip(request["candidate_item_id"], request["candidate_department"], strict=True)
    of_item = {items[row]: departments[department] for row, department in pairs}
    assert of_item[1] == "new"
    assert of_item[2] == "latest"
    assert departments[request["history_department"][0]] == "old"
    assert stores[request["store_id"]] == 3
    # All known items that are not in the basket, and no more: 2, 502, 503, 504.
    assert len(of_item) == len(request["candidate_item_id"]) == 6
    counts = read_manifest(day_folder(tmp_path / "root", "requests", day)).counts
    assert counts["missing_negatives"] > 0


def test_requests_without_id_are_grouped_by_time(tmp_path):
    day = DAYS.ranking[0]
    rows = [event("u", item, at(day, 9 + item // 2)) for item in range(4)]
    write_all(tmp_path / "source", {FIRST: [event("u", 9, at(FIRST, 9))], day: rows})
    run(tmp_path / "root", tmp_path / "source")
    found = requests_of(tmp_path / "root", day)
    assert sorted(sum(row["label_buy"]) for row in found) == [2, 2]
    assert len({row["request_id"] for row in found}) == 2


def test_large_baskets_are_cut_by_hash(tmp_path):
    day = DAYS.ranking[0]
    rows = [event("u", item, at(day, 9), request="r") for item in range(10)]
    write_all(tmp_path / "source", {FIRST: [event("u", 99, at(FIRST, 9))], day: rows})
    run(tmp_path / "root", tmp_path / "source", requests=settings(max_candidates=6))
    (request,) = requests_of(tmp_path / "root", day)
    assert sum(request["label_buy"]) == 3
    assert len(request["label_buy"]) == 6
    names = values_of(tmp_path / "root", "item_id")
    pairs = zip(request["candidate_item_id"], request["label_buy"], strict=True)
    negatives = {names[row] for row, label in pairs if not label}
    # Not even the bought items that were cut are drawn as negatives.
    assert not negatives & set(range(10))
    manifest = read_manifest(day_folder(tmp_path / "root", "requests", day))
    assert manifest.counts["cut_positives"] == 7


def test_days_built_alone_or_together_are_the_same(tmp_path, monkeypatch):
    shop_days(tmp_path / "source", num_users=6)
    together, alone = tmp_path / "together", tmp_path / "alone"
    run(together, tmp_path / "source")
    monkeypatch.setattr("pipeline.engine.EVENTS_PER_PART", 10)
    run(alone, tmp_path / "source")
    monkeypatch.undo()
    (day_folder(alone, "requests", TEST_DAY) / "manifest.json").unlink()
    assert run(alone, tmp_path / "source").built["requests"] == [TEST_DAY]
    for day in days_between(DAYS.ranking[0], TEST_DAY):
        assert rows_of(together, "requests", day) == rows_of(alone, "requests", day)
        assert len(rows_of(together, "requests", day)) == 6


def test_negatives_are_uniform_and_seeded(tmp_path):
    day = DAYS.ranking[0]
    shop_days(tmp_path / "source", num_users=1, per_day=20)
    users = [event(f"u{n}", 0, at(day, 5), request=str(n)) for n in range(600)]
    past = [event(f"u{n}", 0, at(FIRST, 5), request=str(n)) for n in range(600)]
    write_day(tmp_path / "source", FIRST, past, name="part-1.parquet")
    write_day(tmp_path / "source", day, users, name="part-1.parquet")
    draws = {}
    for seed in (0, 1):
        root = tmp_path / f"root-{seed}"
        run(root, tmp_path / "source", requests=settings(negatives_per_positive=5, seed=seed))
        draws[seed] = {
            (row["user_id"], item)
            for row in rows_of(root, "requests", day)
            for item, label in zip(row["candidate_item_id"], row["label_buy"], strict=True)
            if not label and row["user_id"] != "user-0"
        }
    counts = Counter(item for _, item in draws[0])
    num_items = len(values_of(root, "item_id")) - 2
    assert sum(counts.values()) == 600 * 5
    expected = 3000 / num_items
    chi2 = sum((counts[item] - expected) ** 2 / expected for item in counts)
    assert len(counts) == num_items
    # 5 standard deviations above the mean of a chi-squared statistic.
    assert chi2 < num_items + 5 * (2 * num_items) ** 0.5
    assert len(draws[0] & draws[1]) < 1500


def test_history_of_one_day_is_of_that_user_only(tmp_path):
    shop_days(tmp_path / "source", num_users=4)
    run(tmp_path / "root", tmp_path / "source")
    names = values_of(tmp_path / "root", "item_id")
    for row in rows_of(tmp_path / "root", "requests", DAYS.ranking[1]):
        user = int(row["user_id"][-1])
        assert {names[item] % 100 // 10 for item in row["history_item_id"]} == {user}
        assert row["request_time"].date() - row["history_time"][-1].date() == timedelta(days=1)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"max_candidates": 3, "negatives_per_positive": 3}, "requests.max_candidates is 3"),
        ({"min_history": 5, "max_history": 4}, "requests.min_history is 5, more than"),
        ({"task": "Click Through"}, "task"),
    ],
)
def test_settings_that_contradict_each_other(changed, sentence):
    with pytest.raises(ValidationError, match=sentence):
        settings(**changed)


def test_day_of_a_request_is_utc(tmp_path):
    day = date(2024, 5, 4)
    write_all(
        tmp_path / "source",
        {FIRST: [event("u", 1, at(FIRST, 9))], day: [event("u", 1, at(day, 23, 59), request="r")]},
    )
    run(tmp_path / "root", tmp_path / "source")
    assert len(requests_of(tmp_path / "root", day)) == 1
