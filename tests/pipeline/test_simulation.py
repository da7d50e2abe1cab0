"""The simulated log as a whole: its contract, and the truth about it, counted from its files."""

import json
from collections import defaultdict
from datetime import date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.errors import DataError
from pipeline.partitions import file_paths, read_manifest
from pipeline.simulation import draws
from pipeline.simulation.marketplace import SimulationSettings
from pipeline.simulation.simulate import simulate

DAYS = 7


def small(**changes):
    values = {"users": 400, "items": 600, "days": DAYS, "traffic": {"sessions_per_day": 2.0}}
    # Many conversions, so that windows and days on end matter.
    conversions = {"cart_bias": -1.5, "direct_bias": -2.0, "patience_days": 4}
    return SimulationSettings.model_validate(values | {"conversions": conversions} | changes)


def read(root, kind):
    folders = sorted((root / kind).glob("day=*"))
    return [
        pa.concat_tables(pq.read_table(path) for path in file_paths(folder, read_manifest(folder)))
        for folder in folders
    ]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated") / "out"
    told = []
    summary = simulate(small(), root, lambda *step: told.append(step))
    assert told[-1] == ("simulated days", DAYS, DAYS)
    return root, summary


@pytest.fixture(scope="module")
def events(simulated):
    return [event for table in read(simulated[0], "events") for event in table.to_pylist()]


@pytest.fixture(scope="module")
def truths(simulated):
    rows = [row for table in read(simulated[0], "truth") for row in table.to_pylist()]
    return {(row["request_id"], row["item_id"]): row for row in rows}


def of_action(events, action):
    return [event for event in events if event["action"] == action]


def test_days_are_whole_and_hold_their_own_events(simulated):
    tables = read(simulated[0], "events")
    assert len(tables) == DAYS
    for number, table in enumerate(tables):
        day = date(2024, 1, 1) + timedelta(days=number)
        assert {time.date() for time in table["event_time"].to_pylist()} == {day}
        assert table.num_rows > 1000


def test_a_click_follows_its_impression_and_carts_and_purchases_follow_a_click(events):
    shown = {(e["request_id"], e["item_id"]): e for e in of_action(events, "impression")}
    clicked = {(e["request_id"], e["item_id"]): e for e in of_action(events, "click")}
    assert len(clicked) == len(of_action(events, "click"))
    for earlier, action in ((shown, "click"), (clicked, "cart"), (clicked, "purchase")):
        later = of_action(events, action)
        assert len(later) > 100
        for event in later:
            cause = earlier[event["request_id"], event["item_id"]]
            assert cause["event_time"] <= event["event_time"]
            same = ("user_id", "category_id", "brand_id", "position")
            assert all(event[name] == cause[name] for name in same)


def test_a_request_is_one_user_at_one_time_with_each_position_once(events):
    requests = defaultdict(list)
    for event in of_action(events, "impression"):
        requests[event["request_id"]].append(event)
    for shown in requests.values():
        assert len({(event["user_id"], event["event_time"]) for event in shown}) == 1
        assert [event["position"] for event in shown] == list(range(len(shown)))
        assert len({event["item_id"] for event in shown}) == len(shown)
    assert 6 < np.mean([len(shown) for shown in requests.values()]) <= 10


def test_clicks_come_before_the_next_request_so_that_histories_hold_them(events):
    times = defaultdict(set)
    for event in of_action(events, "impression"):
        times[event["user_id"]].add(event["event_time"])
    requests = {e["request_id"]: e["event_time"] for e in of_action(events, "impression")}
    for click in of_action(events, "click"):
        since = requests[click["request_id"]]
        between = [t for t in times[click["user_id"]] if since < t <= click["event_time"]]
        assert between == []


def test_features_of_an_item_never_change(events):
    described = {(event["item_id"], event["category_id"], event["brand_id"]) for event in events}
    assert len(described) == len({event["item_id"] for event in events})


def test_items_appear_over_time(simulated, events):
    first_seen = {}
    for event in of_action(events, "impression"):
        day = event["event_time"].date()
        first_seen[event["item_id"]] = min(day, first_seen.get(event["item_id"], day))
    late = [day for day in first_seen.values() if day > date(2024, 1, 1)]
    launched = simulated[1].counts["items launched after the first day"]
    assert launched == 180
    assert len(first_seen) > 570
    assert launched * 0.9 < len(late) < 400


def labels_within(events, action, window):
    """Of each click, by brute force: whether the user did this to the item within the window."""
    happened = defaultdict(list)
    for event in of_action(events, action):
        happened[event["user_id"], event["item_id"]].append(event["event_time"])
    return {
        (click["request_id"], click["item_id"]): any(
            click["event_time"] < time <= click["event_time"] + window
            for time in happened[click["user_id"], click["item_id"]]
        )
        for click in of_action(events, "click")
        if click["event_time"].date() + window < date(2024, 1, 1) + timedelta(days=DAYS)
    }


@pytest.mark.parametrize(
    ("task", "action", "column", "days"),
    [("cart", "cart", "p_cart", 1), ("cvr", "purchase", "p_purchase", 3)],
)
def test_the_truth_of_clicks_is_that_of_their_labels(
    simulated, events, truths, task, action, column, days
):
    labels = labels_within(events, action, timedelta(days=days))
    label = np.array(list(labels.values()))
    p = np.array([truths[click][column] for click in labels])
    assert abs(label.sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    figures = simulated[1].tasks[task].all_days
    assert (figures.num_samples, figures.num_positives) == (len(label), label.sum())
    assert figures.expected_positives == pytest.approx(p.sum(), rel=1e-5)
    assert figures.oracle_auc == pytest.approx(roc_auc_score(label, p), abs=1e-3)


def test_the_truth_of_impressions_is_that_of_clicks(simulated, events, truths):
    clicked = {(event["request_id"], event["item_id"]) for event in of_action(events, "click")}
    assert len(truths) == len(of_action(events, "impression"))
    assert all((row["p_cart"] is not None) == (key in clicked) for key, row in truths.items())
    label = np.array([key in clicked for key in truths])
    p = np.array([row["p_click"] for row in truths.values()])
    for part in (p < 0.05, (p >= 0.05) & (p < 0.2), p >= 0.2):
        spread = np.sqrt((p * (1 - p))[part].sum())
        assert abs(label[part].sum() - p[part].sum()) < 4 * spread
    figures = simulated[1].tasks["ctr"].all_days
    assert figures.oracle_auc == pytest.approx(roc_auc_score(label, p), abs=1e-3)


def test_a_clicked_item_is_not_shown_again_while_something_may_come_of_it(events):
    clicked = {}
    repeated = 0
    for event in sorted(of_action(events, "impression"), key=lambda event: event["event_time"]):
        clicked.setdefault((event["user_id"], event["item_id"]), []).append(event)
    requests = {(event["request_id"], event["item_id"]) for event in of_action(events, "click")}
    for shown in clicked.values():
        for earlier, later in pairwise(shown):
            assert earlier["event_time"].date() < later["event_time"].date()
            if (earlier["request_id"], earlier["item_id"]) in requests:
                assert later["event_time"] - earlier["event_time"] > timedelta(days=4)
                repeated += 1
    assert repeated > 0


def test_the_summary_says_that_it_is_simulated(simulated):
    root, summary = simulated
    written = json.loads((root / "truth/summary.json").read_text())
    assert written["simulated"] is True
    assert written["settings"]["users"] == 400
    counts = {name: summary.counts[name] for name in ("impression", "click", "cart", "purchase")}
    assert written["counts"].items() >= counts.items()
    tables = read(root, "events")
    assert sum(counts.values()) == sum(table.num_rows for table in tables)
    assert summary.counts["after the last day"] > 0


def content(root):
    return {
        (kind, number): table.to_pydict()
        for kind in ("events", "truth")
        for number, table in enumerate(read(root, kind))
    }


def test_the_same_seed_gives_the_same_log_and_another_one_another(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        simulate(small(days=2, users=50, seed=seed), tmp_path / name)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a") != content(tmp_path / "c")


def test_users_of_all_blocks_are_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(draws, "USERS_PER_BLOCK", 16)
    summary = simulate(small(days=3, users=50), tmp_path)
    seen = {user for table in read(tmp_path, "events") for user in table["user_id"].to_pylist()}
    assert min(seen) >= 1
    assert max(seen) <= 50
    assert len(seen) > 40
    assert summary.tasks["ctr"].all_days.auc_within_request["oracle"] > 0.7


def test_a_run_that_was_cut_off_is_repeated_with_the_same_result(tmp_path):
    settings = small(days=2, users=50)
    simulate(settings, tmp_path)
    before = content(tmp_path)
    (tmp_path / "events/day=2024-01-02/manifest.json").unlink()
    (tmp_path / "truth/summary.json").unlink()
    simulate(settings, tmp_path)
    assert content(tmp_path) == before
    assert (tmp_path / "truth/summary.json").is_file()


def test_another_simulations_folder_and_a_strangers_are_left_alone(tmp_path):
    simulate(small(days=1, users=5), tmp_path / "a")
    with pytest.raises(DataError, match="other settings"):
        simulate(small(days=1, users=6), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep me")
    with pytest.raises(DataError, match="not empty"):
        simulate(small(days=1, users=5), tmp_path / "b")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["mine.txt"]


def test_a_log_shorter_than_a_window_has_no_figures_for_its_task(tmp_path):
    summary = simulate(small(days=2, users=100), tmp_path)
    assert summary.tasks["cvr"].all_days is None
    assert summary.tasks["cart"].all_days.last_day == date(2024, 1, 1)
    assert summary.tasks["ctr"].last_days.last_day == date(2024, 1, 2)


def test_popularity_and_categories_tell_far_less_than_the_truth(tmp_path):
    summary = simulate(SimulationSettings(users=600, items=2000, days=10), tmp_path)
    figures = summary.tasks["ctr"].last_days
    for auc in (figures.auc, figures.auc_within_request):
        baselines = [auc[name] for name in ("item popularity", "category in history", "position")]
        assert 0.75 < auc["oracle"] < 0.87
        assert min(baselines) > 0.5
        assert max(baselines) < auc["oracle"] - 0.08
        assert auc["oracle without position"] < auc["oracle"]
    assert summary.clicks_per_item["median"] < 10
    assert 5 < summary.clicks_per_user["mean"] < 100


def test_days_are_of_the_calendar(tmp_path):
    simulate(small(days=2, users=20, first_day=date(2023, 12, 31)), tmp_path)
    assert sorted(path.name for path in (tmp_path / "events").iterdir()) == [
        "day=2023-12-31",
        "day=2024-01-01",
    ]
    (first, _) = read(tmp_path, "events")
    assert isinstance(first["event_time"][0].as_py(), datetime)
    assert first["event_time"][0].as_py().date() == date(2023, 12, 31)
