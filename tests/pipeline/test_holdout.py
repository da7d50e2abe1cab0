"""Held-out users: nothing of them is learned from, all their requests are there to judge with."""

import pytest

from pipeline.errors import ConfigError
from pipeline.holdout import HoldoutSettings
from pipeline.partitions import days_between
from pipeline.sequences import SequenceSettings
from tests.pipeline.small_days import (
    DAYS,
    REQUESTS,
    manifest_of,
    rows_of,
    run,
    shop_days,
    values_of,
)

SEQUENCES = SequenceSettings(actions=("purchase",), min_length=2, max_length=3, increments=True)
HALF = HoldoutSettings(share=0.5)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """With half of the users held out, and with none."""
    folder = tmp_path_factory.mktemp("holdout")
    shop_days(folder / "source", num_users=12)
    for name, changed in {"half": {"holdout": HALF}, "none": {}}.items():
        run(folder / name, folder / "source", sequences=SEQUENCES, **changed)
    return folder


def users(root, *kinds):
    """Users in the rows of these kinds, over all of their days."""
    return {
        row["user_id"]
        for kind in kinds
        for folder in sorted((root / kind).glob("day=*"))
        for row in rows_of(root, kind, _day(folder))
    }


def _day(folder):
    first = DAYS.training[0]
    return first.fromisoformat(folder.name.removeprefix("day="))


def test_no_user_is_in_both(built):
    learned = users(built / "half", "sequences", "tails", "increments", "requests")
    held_out = users(built / "half", "held_out")
    assert learned
    assert held_out
    assert not learned & held_out
    assert learned | held_out == users(built / "none", "sequences", "tails", "requests")


def test_together_they_are_what_there_is_without_holdout(built):
    half = built / "half"
    for day in [*days_between(*DAYS.ranking), *days_between(*DAYS.test)]:
        both = [row for kind in ("requests", "held_out") for row in rows_of(half, kind, day)]
        alone = rows_of(built / "none", "requests", day)
        assert sorted(both, key=str) == sorted(alone, key=str)
        manifests = [manifest_of(half, kind, day) for kind in ("requests", "held_out")]
        assert manifests[0].final_tasks == manifests[1].final_tasks
        assert manifests[0].vocabularies == manifests[1].vocabularies
        assert manifests[0].counts == manifest_of(built / "none", "requests", day).counts


def test_vocabularies_see_everybody(built):
    assert values_of(built / "half", "item_id") == values_of(built / "none", "item_id")
    assert not (built / "none" / "held_out").exists()


def test_another_seed_holds_out_others(built, tmp_path):
    run(tmp_path, built / "source", holdout=HoldoutSettings(share=0.5, seed=1))
    assert users(tmp_path, "held_out") != users(built / "half", "held_out")


def test_days_are_made_again_for_another_share(built, tmp_path):
    run(tmp_path, built / "source", sequences=SEQUENCES)
    report = run(tmp_path, built / "source", sequences=SEQUENCES, holdout=HALF)
    assert len(report.built["requests"]) == report.num_days["requests"]
    assert len(report.built["held_out"]) == report.num_days["requests"]
    again = run(tmp_path, built / "source", sequences=SEQUENCES, holdout=HALF)
    assert not any(again.built.values())


def test_only_where_days_are_built_from_events(built, tmp_path):
    requests = REQUESTS.model_copy(update={"candidates": "last_event"})
    with pytest.raises(ConfigError, match=r"holdout\.share: users are held out of days of events"):
        run(tmp_path, built / "source", requests=requests, holdout=HALF)
