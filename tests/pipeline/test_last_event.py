"""Each user's last event, against plain loops over the same log."""

from datetime import timedelta

import pytest

from pipeline.errors import ConfigError
from pipeline.partitions import days_between
from pipeline.requests import RequestSettings
from pipeline.schema import DaySettings
from pipeline.vocabulary import vocabulary_lineage
from tests.pipeline.reference_events import hash_number
from tests.pipeline.small_days import (
    FEATURES,
    FIRST,
    at,
    event,
    manifest_of,
    rows_of,
    run,
    tree,
    values_of,
    write_day,
)

LAST = FIRST + timedelta(days=3)
RANKING, VALIDATION, TEST = (LAST + timedelta(days=number) for number in (1, 2, 3))
DAYS = DaySettings(
    pretraining=(FIRST, LAST),
    ranking=(RANKING, RANKING),
    validation=(VALIDATION, VALIDATION),
    test=(TEST, TEST),
)
REQUESTS = RequestSettings(
    candidates="last_event",
    actions=("purchase",),
    history_actions=("purchase", "click"),
    max_history=3,
    validation_share=0.3,
)
NUM_USERS = 20


def log():
    """Users with 1 to 6 events in turn; those of one user lie an hour apart and more."""
    rows = []
    for user in range(NUM_USERS):
        for number in range(1 + user % 6):
            day = FIRST + timedelta(days=(user + number) % 4)
            time = at(day, number, user)
            rows.append(event(f"u{user}", (3 * user + number) % 9, time, department=f"d{user}"))
        if user % 3 == 0:
            rows.append(event(f"u{user}", 8, at(LAST, 23, user), action="click"))
    return rows


def build(root, source, **changed):
    settings = {"days": DAYS, "requests": REQUESTS.model_copy(update=changed)}
    return run(root, source, **settings)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("last")
    for day in days_between(FIRST, LAST):
        rows = [row for row in log() if row["event_time"].date() == day]
        write_day(folder / "source", day, rows)
    build(folder / "root", folder / "source")
    return folder


def of_users():
    """User -> events, oldest first."""
    users = {}
    for row in sorted(log(), key=lambda row: row["event_time"]):
        users.setdefault(row["user_id"], []).append(row)
    return users


def last_purchases():
    return {
        user: [row for row in own if row["action"] == "purchase"][-1]
        for user, own in of_users().items()
    }


def group_of(user, split):
    """The day that names the user's group."""
    last = last_purchases()
    key = lambda name: f"{hash_number('0', name):013x}"  # noqa: E731
    ordered = sorted(last, key=lambda name: (last[name]["event_time"], key(name)))
    if split == "time":
        in_test = ordered.index(user) >= 0.7 * len(ordered)
    else:
        in_test = hash_number("0", user) / 2**52 < 0.3
    if in_test:
        return TEST
    in_validation = hash_number("0", "validation", user) / 2**52 < 0.3
    return VALIDATION if in_validation else RANKING


def check_requests(root, split):
    items = values_of(root, "item_id", RANKING)
    found = {
        row["user_id"]: (day, row)
        for day in (RANKING, VALIDATION, TEST)
        for row in rows_of(root, "requests", day)
    }
    expected = {}
    for user, last in last_purchases().items():
        before = [row for row in of_users()[user] if row["event_time"] < last["event_time"]]
        if before and last["item_id"] in items:
            expected[user] = (group_of(user, split), last, before[-3:])
    assert found.keys() == expected.keys()
    assert len({day for day, _, _ in expected.values()}) == 3
    for user, (day, last, before) in expected.items():
        found_day, row = found[user]
        assert (found_day, row["request_time"]) == (day, last["event_time"])
        assert [items[number] for number in row["history_item_id"]] == [
            e["item_id"] for e in before
        ]
        assert row["history_time"] == [e["event_time"] for e in before]
        pairs = zip(row["candidate_item_id"], row["label_buy"], strict=True)
        assert {items[number]: label for number, label in pairs}[last["item_id"]] == 1
        assert sorted(row["label_buy"]) == [0, 1]


def test_split_by_time(built):
    check_requests(built / "root", "time")


def test_split_by_hash(built, tmp_path):
    build(tmp_path / "root", built / "source", split="hash")
    check_requests(tmp_path / "root", "hash")


def test_nobodys_last_event_is_learned_from(built):
    root = built / "root"
    sequences = [
        row
        for kind, days in (("sequences", days_between(FIRST, LAST)), ("tails", [LAST]))
        for day in days
        for row in rows_of(root, kind, day)
    ]
    learned = {(row["user_id"], time) for row in sequences for time in row["event_time"]}
    held_out = {(user, row["event_time"]) for user, row in last_purchases().items()}
    assert learned
    assert not learned & held_out
    every = {(row["user_id"], row["event_time"]) for row in log() if row["action"] == "purchase"}
    too_short = every - held_out - learned
    counts = manifest_of(root, "tails", LAST).counts
    assert counts["too_short_events"] == len(too_short) > 0
    for day in (RANKING, VALIDATION, TEST):
        for row in rows_of(root, "requests", day):
            assert not {(row["user_id"], time) for time in row["history_time"]} & held_out


def test_a_feature_that_only_last_events_have_is_unknown(built):
    """Every sixth user buys only once, and has a department of their own."""
    known = values_of(built / "root", "department", RANKING)
    assert set(known) == {f"d{user}" for user in range(NUM_USERS) if user % 6} | {None, "food"}


def test_all_rows_are_of_one_vocabulary(built):
    root = built / "root"
    digests = manifest_of(root, "requests", TEST).vocabularies
    for day in days_between(FIRST, LAST):
        assert manifest_of(root, "sequences", day).vocabularies == digests
    for feature in FEATURES:
        assert digests[feature.name] in vocabulary_lineage(root, feature, RANKING)


def test_a_rerun_does_nothing_and_a_new_seed_makes_requests_anew(built, tmp_path):
    root = built / "root"
    before = tree(root)
    report = build(root, built / "source")
    assert all(not days for days in report.built.values())
    assert tree(root) == before
    build(tmp_path / "root", built / "source", seed=1)
    requests = {name: rows_of(name, "requests", TEST) for name in (root, tmp_path / "root")}
    assert requests[root] != requests[tmp_path / "root"]


def test_groups_need_days_of_their_own(tmp_path):
    days = DAYS.model_copy(update={"ranking": (LAST, LAST)})
    with pytest.raises(ConfigError, match=rf"days\.ranking: {LAST} is a day of the log"):
        run(tmp_path / "root", tmp_path, days=days, requests=REQUESTS)
