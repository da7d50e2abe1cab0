from datetime import timedelta

import pytest

from pipeline.partitions import days_between
from tests.pipeline.small_days import (
    DAYS,
    FIRST,
    REQUESTS,
    at,
    event,
    manifest_of,
    rows_of,
    run,
    values_of,
    write_day,
)

DAY, TEST_DAY = DAYS.ranking[0], DAYS.test[0]


def write_all(folder, *rows):
    """The rows, and one purchase of somebody else on every day, each time of another item."""
    for day in days_between(FIRST, TEST_DAY):
        filler = [event("somebody else", 500 + day.day, at(day, 1))]
        write_day(folder, day, [row for row in rows if row["event_time"].date() == day] + filler)


def build(folder, *rows, **changed):
    write_all(folder / "source", *rows)
    settings = REQUESTS.model_copy(update=changed)
    run(folder / "root", folder / "source", requests=settings)
    return folder / "root"


def requests_of(root, day, user="u"):
    return [row for row in rows_of(root, "requests", day) if row["user_id"] == user]


def labels_of(root, request):
    """Item -> label."""
    names = values_of(root, "item_id")
    pairs = zip(request["candidate_item_id"], request["label_buy"], strict=True)
    return {names[row]: label for row, label in pairs}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Several users with their own stories; items 1 to 9 are known from the first day on."""
    rows = [event("past", item, at(FIRST, item)) for item in range(1, 10)]
    rows += [
        # A history ends strictly before its basket, which lasts a while.
        event("u", 1, at(FIRST, 9)),
        event("u", 2, at(DAY, 8)),
        event("u", 3, at(DAY, 9), request="basket"),
        event("u", 4, at(DAY, 9, 30), request="basket"),
        event("u", 5, at(DAY, 9), request="same time"),
        event("v", 6, at(DAY, 7)),
        # Without ids, what was bought at one time is a basket.
        event("none", 9, at(FIRST, 9)),
        *(event("none", 1 + number, at(DAY, 9 + number // 2)) for number in range(4)),
        # A store that changed: the basket has the lowest, whatever the order.
        event("store", 1, at(FIRST, 9), store=4),
        event("store", 1, at(DAY, 9), request="r", store=4),
        event("store", 2, at(DAY, 9), request="r", store=7),
        # The past of test days goes on after training, also with items that were not known then.
        event("later", 1, at(FIRST, 9)),
        event("later", 777, at(DAYS.validation[0], 8)),
        event("later", 501, at(DAYS.validation[0], 9)),
        event("later", 1, at(TEST_DAY, 9), request="r"),
        event("later", 778, at(TEST_DAY, 9), request="r"),
        event("later", 779, at(TEST_DAY, 10), request="only new items"),
        event("newcomer", 1, at(TEST_DAY, 9)),
        # The last minute of a day belongs to it.
        event("night", 1, at(FIRST, 9)),
        event("night", 2, at(DAY, 23, 59), request="night"),
        event("night", 3, at(DAY, 23, 59) + timedelta(minutes=1), request="night"),
    ]
    folder = tmp_path_factory.mktemp("baskets")
    return build(folder, *rows)


def test_history_ends_strictly_before_the_request(built):
    names = values_of(built, "item_id")
    found = {row["request_id"]: row for row in requests_of(built, DAY)}
    basket = found["basket"]
    assert basket["request_time"] == at(DAY, 9)
    assert [names[row] for row in basket["history_item_id"]] == [1, 2]
    assert basket["history_time"] == [at(FIRST, 9), at(DAY, 8)]
    assert [names[row] for row in found["same time"]["history_item_id"]] == [1, 2]


def test_bought_against_as_many_drawn(built):
    (basket,) = [row for row in requests_of(built, DAY) if row["request_id"] == "basket"]
    labels = labels_of(built, basket)
    assert {item for item, label in labels.items() if label} == {3, 4}
    assert list(labels.values()).count(0) == 2
    assert None not in labels


def test_requests_without_id_are_grouped_by_time(built):
    found = requests_of(built, DAY, "none")
    assert sorted(sum(row["label_buy"]) for row in found) == [2, 2]
    assert len({row["request_id"] for row in found}) == 2


def test_context_is_of_the_basket(built):
    (request,) = requests_of(built, DAY, "store")
    stores = values_of(built, "store_id")
    assert stores[request["store_id"]] == stores[min(stores.index(4), stores.index(7))]


def test_a_basket_over_midnight_is_two(built):
    ids = [requests_of(built, DAY + timedelta(days=n), "night") for n in (0, 1)]
    assert [row["request_id"] for rows in ids for row in rows] == ["night", "night"]


def test_events_of_validation_days_are_the_past_of_test_days(built):
    (request,) = requests_of(built, TEST_DAY, "later")
    names = values_of(built, "item_id")
    assert [names[row] for row in request["history_item_id"]] == [1, None, 501]


def test_unknown_items_are_no_candidates_but_counted(built):
    (request,) = requests_of(built, TEST_DAY, "later")
    assert request["request_id"] == "r"
    assert labels_of(built, request)[1] == 1
    assert 0 not in request["candidate_item_id"]
    counts = manifest_of(built, "requests", TEST_DAY).counts
    # Somebody else's only item of that day is new as well.
    assert counts["unknown_item_positives"] == 3
    assert counts["without_known_positives"] == 2
    assert counts["with_short_history"] == 1
    assert counts["requests"] == counts["positives"] == counts["asked_negatives"] == 1
    assert counts["candidates"] == 2
    assert counts["label_buy_applies"] == 2
    assert counts["label_buy_positives"] == 1


def test_features_do_not_tell_what_was_bought_from_what_was_drawn(tmp_path):
    """An item whose department changes has the one of the day before, on both sides."""
    rows = [event("w", item, at(FIRST, 9), department="first") for item in range(1, 7)] + [
        event("w", item, at(FIRST, 10), department="latest") for item in range(1, 7)
    ]
    past = [event("u", 6, at(FIRST, 9), department="first")]
    bought = [event("u", item, at(DAY, 9), request="r", department="now") for item in (1, 2, 3)] + [
        event("u", 6, at(DAY, 8), department="now")
    ]
    root = build(tmp_path, *rows, *past, *bought, negatives_per_positive=9)
    names = values_of(root, "department")
    (request,) = [row for row in requests_of(root, DAY) if row["request_id"] == "r"]
    items, labels = values_of(root, "item_id"), request["label_buy"]
    of_item = {
        items[row]: names[department]
        for row, department in zip(
            request["candidate_item_id"], request["candidate_department"], strict=True
        )
    }
    # All known items are there: 1 to 6, and somebody else's of the two days before.
    assert of_item == dict.fromkeys(range(1, 7), "latest") | {501: "food", 502: "food"}
    assert sum(labels) == 3
    # In the history they are as they were.
    assert [names[row] for row in request["history_department"]] == ["first", None]
    assert manifest_of(root, "requests", DAY).counts["asked_negatives"] >= 27


def test_large_baskets_are_cut_by_hash(tmp_path):
    rows = [event("w", item, at(FIRST, 9)) for item in range(20)]
    rows += [event("u", 19, at(FIRST, 9))]
    rows += [event("u", item, at(DAY, 9), request="r") for item in range(10)]
    root = build(tmp_path, *rows, max_candidates=6)
    (request,) = requests_of(root, DAY)
    labels = labels_of(root, request)
    assert sorted(labels.values()) == [0, 0, 0, 1, 1, 1]
    # Not even the bought items that were cut are drawn as negatives.
    assert not {item for item, label in labels.items() if not label} & set(range(10))
    assert manifest_of(root, "requests", DAY).counts["cut_positives"] == 7


def test_another_seed_draws_other_items(shop, shop_source, shop_root):
    run(shop_root, shop_source, requests=REQUESTS.model_copy(update={"seed": 1}))
    drawn = []
    for root in (shop[0] / "root", shop_root):
        rows = rows_of(root, "requests", DAY)
        assert len(rows) == 5
        drawn.append({(row["user_id"], item) for row in rows for item in labels_of(root, row)})
    # Each has its positives.
    assert len(drawn[0] & drawn[1]) >= 10
    assert drawn[0] != drawn[1]
