import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.requests import RequestSettings, check_candidates
from pipeline.schema import FeatureSettings


def settings(**changed):
    return RequestSettings(**({"actions": ("purchase",)} | changed))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"max_candidates": 3, "negatives_per_positive": 3}, "requests.max_candidates is 3"),
        ({"min_history": 5, "max_history": 4}, "requests.min_history is 5, more than"),
        ({"actions": ()}, "actions"),
        ({"candidates": "shown"}, "'events', 'sampled' or 'last_event'"),
        ({"negatives": "hard"}, "'uniform' or 'popularity'"),
        ({"task": "buy"}, "Extra inputs"),
        ({"split": "random"}, "'time' or 'hash'"),
        ({"test_share": 1.0}, "less than 1"),
    ],
)
def test_settings_that_contradict_each_other(changed, sentence):
    with pytest.raises(ValidationError, match=sentence):
        settings(**changed)


def test_what_is_shown_needs_no_room_for_negatives():
    shown = settings(candidates="events", max_candidates=2, negatives_per_positive=9)
    assert shown.max_candidates == 2


@pytest.mark.parametrize(("per_positive", "expected"), [(1, 5), (2, 3), (9, 1)])
def test_positives_of_a_request_at_most(per_positive, expected):
    requests = settings(max_candidates=10, negatives_per_positive=per_positive)
    assert requests.max_positives == expected


def test_negatives_are_not_drawn_from_hashes():
    hashed = [FeatureSettings(name="item_id", hash_rows=100)]
    for candidates in ("sampled", "last_event"):
        with pytest.raises(ConfigError, match=r"features\.0\.hash_rows: not with requests\.candid"):
            check_candidates(settings(candidates=candidates), hashed)
    check_candidates(settings(candidates="events"), hashed)
    check_candidates(settings(), [FeatureSettings(name="item_id")])
