"""The simulator's parts, each by itself: what the summary's figures and the truth rest on."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from pipeline.simulation.areas import Area, WithinArea
from pipeline.simulation.baselines import earlier_clicks
from pipeline.simulation.catalogue import CatalogueSettings, draw_catalogue
from pipeline.simulation.clicks import ClickSettings, affinities, click_probabilities, seen
from pipeline.simulation.conversions import (
    NEVER_US,
    ConversionSettings,
    draw_conversions,
    two_delays,
)
from pipeline.simulation.draws import Purpose, generator
from pipeline.simulation.interests import Interests, InterestSettings
from pipeline.simulation.marketplace import SimulationSettings
from pipeline.simulation.ranker import RankerSettings, draw_pool, first_offers, show
from pipeline.simulation.recent import RecentClicks
from pipeline.simulation.traffic import DAY_US, TrafficSettings, draw_visits


def stream(seed=0):
    return np.random.default_rng(seed)


def floats(*values):
    return np.array(values, dtype=np.float32)


def test_streams_differ_by_purpose_and_place():
    places = [(Purpose.DAY, 0, 1), (Purpose.DAY, 1, 0), (Purpose.ACTIVITY, 1), (Purpose.CATALOGUE,)]
    drawn = {generator(7, *place).integers(1 << 60) for place in places}
    assert len(drawn) == len(places)
    assert generator(7, Purpose.DAY, 0, 1).random() == generator(7, Purpose.DAY, 0, 1).random()


def test_area_is_the_auc():
    rng = stream()
    score = rng.random(5000, dtype=np.float32)
    positive = rng.random(5000) < score
    area = Area()
    for part in np.array_split(np.arange(5000), 3):
        area.update(score[part], positive[part])
    assert area.result() == pytest.approx(roc_auc_score(positive, score), abs=5e-4)


def test_area_of_counts_is_exact_with_ties():
    score = floats(0, 1, 1, 2, 300, 301, 0)
    positive = np.array([0, 1, 0, 0, 0, 1, 1], dtype=bool)
    area = Area()
    area.update(score, positive)
    assert area.result() == pytest.approx(roc_auc_score(positive, score))
    assert Area().result() is None


def test_area_within_requests_compares_no_two_requests():
    area = WithinArea()
    score = floats(0.1, 0.3, 0.2, 0.9, 0.9, 0.5, 0.7)
    positive = np.array([0, 1, 0, 1, 0, 0, 1], dtype=bool)
    area.update(score, positive, np.array([4, 4, 4, 9, 9, 9, 11]))
    # Request 4: two pairs right; 9: a tie and one right; 11: no pair.
    assert area.result() == pytest.approx((2 + 0.5 + 1) / 4)
    assert WithinArea().result() is None


def test_earlier_clicks_are_of_the_group_and_of_earlier_requests():
    group = np.array([5, 5, 3, 5, 3, 5, 3])
    request = np.array([1, 1, 1, 2, 2, 2, 3])
    clicked = np.array([1, 1, 0, 1, 1, 0, 0], dtype=bool)
    assert earlier_clicks(group, request, clicked).tolist() == [0, 0, 0, 2, 0, 2, 1]
    assert len(earlier_clicks(group[:0], request[:0], clicked[:0])) == 0


def catalogue_of(num_items=3000, num_days=10, **settings):
    return draw_catalogue(CatalogueSettings(**settings), num_items, num_days, seed=3)


def test_a_shelf_draws_by_weight_and_only_what_is_launched():
    catalogue = catalogue_of(50, topics=5, launch_share=0.5)
    shelf = catalogue.shelf(2)
    drawn = shelf.draw(stream().random(100_000), np.float64(0), shelf.cumulative[-1])
    counts = np.bincount(drawn, minlength=50)
    weight = np.diff(shelf.cumulative, prepend=0)
    assert (counts[catalogue.launch_day > 2] == 0).all()
    assert np.abs(counts / 1e5 - weight / weight.sum()).max() < 0.01
    # New items reach their full weight in three days.
    new = catalogue.launch_day == 2
    assert weight[new] == pytest.approx(catalogue.weight[new] / 3)
    assert set(shelf.fresh) == set(np.flatnonzero(np.isin(catalogue.launch_day, [1, 2])))


def test_a_shelf_draws_from_one_topic():
    catalogue = catalogue_of(200, topics=5)
    shelf = catalogue.shelf(0)
    ends = [0, *catalogue.topic_end]
    for topic in range(5):
        start, weight = shelf.topic_start[topic], shelf.topic_weight[topic]
        drawn = shelf.draw(stream().random(1000), start, weight)
        assert ends[topic] <= drawn.min()
        assert drawn.max() < ends[topic + 1]
    end = shelf.draw(np.array([1.0]), np.float64(0), shelf.cumulative[-1])
    assert catalogue.launch_day[end] == 0


def test_a_topic_explains_its_share_of_items_and_ids_tell_nothing():
    catalogue = catalogue_of(20_000, topics=50, topic_share=0.7, dimension=8)
    topic = np.searchsorted(catalogue.topic_end, np.arange(20_000), side="right")
    rest = catalogue.vector - np.sqrt(0.7) * catalogue.topic_vector[topic]
    assert (rest**2).sum(axis=1).mean() == pytest.approx(0.3, abs=0.01)
    assert sorted(catalogue.item_id) == list(range(1, 20_001))
    assert abs(np.corrcoef(catalogue.item_id, topic)[0, 1]) < 0.03
    assert abs(np.corrcoef(catalogue.item_id, catalogue.log_popularity)[0, 1]) < 0.03


@pytest.mark.parametrize(("num_items", "num_days", "num_late"), [(10, 4, 3), (10, 1, 0), (1, 9, 0)])
def test_items_appear_after_the_first_day_but_never_all(num_items, num_days, num_late):
    launched = catalogue_of(num_items, num_days).launch_day
    assert (launched > 0).sum() == num_late
    assert launched.max() < num_days


def test_popularity_is_zipf():
    weight = np.sort(catalogue_of(1000, zipf_exponent=1.2).weight)[::-1]
    assert weight == pytest.approx((1.0 + np.arange(1000)) ** -1.2)


def test_interests_drift_as_told_and_keep_their_spread():
    settings = InterestSettings(drift=0.1, jump_share=0.0)
    interests = Interests(settings, 4000, 8, seed=0)
    users = slice(0, 4000)
    first = interests.move(users, stream(1)).copy()
    second = interests.move(users, stream(2)).copy()
    assert (first * second).sum(axis=1).mean() == pytest.approx(0.9**0.5, abs=0.03)
    assert (second**2).sum(axis=1).mean() == pytest.approx(1, abs=0.03)
    jumping = Interests(InterestSettings(drift=0.0, jump_share=0.25), 4000, 8, seed=0)
    before = jumping.move(users, stream(1)).copy()
    kept = (jumping.move(users, stream(2)) == before).all(axis=1)
    assert kept.mean() == pytest.approx(0.75, abs=0.03)


def test_sessions_seek_topics_near_the_interest_that_are_on_sale():
    interests = Interests(InterestSettings(focus=4.0, intent_share=0.5), 1, 2, seed=0)
    topics = floats([1, 0], [0, 1], [5, 5])
    interest = np.tile(floats(1, 0), (20_000, 1))
    topic, intent = interests.seek(interest, topics, np.array([True, True, False]), stream())
    assert (topic == 0).mean() == pytest.approx(1 / (1 + math.exp(-4)), abs=0.005)
    assert set(topic) == {0, 1}
    assert intent == pytest.approx(0.5**0.5 * (topics[topic] + interest), abs=1e-6)


def test_sessions_do_not_overlap_and_end_within_the_day():
    settings = TrafficSettings(sessions_per_day=3.0, requests_per_session=6.0)
    visits = draw_visits(settings, np.full(2000, 3.0), 10, stream())
    user, time = visits.request_user, visits.request_time
    same_user = user[1:] == user[:-1]
    # A click comes within five seconds a slot, before the next request.
    assert (np.diff(time)[same_user] >= 50_000_000).all()
    assert time.min() >= 0
    assert time.max() < DAY_US - 50_000_000
    assert (np.diff(user) >= 0).all()
    number = visits.request_number
    assert (np.diff(number)[same_user] == 1).all()
    assert (number[1:][~same_user] == 0).all()
    per_user = np.bincount(visits.session_user, minlength=2000)
    assert per_user.max() <= settings.max_sessions
    assert per_user.mean() == pytest.approx(2.9, abs=0.15)


def test_a_day_without_visits_is_no_error():
    visits = draw_visits(TrafficSettings(), np.zeros(10), 10, stream())
    assert len(visits.request_time) == len(visits.request_number) == 0


def test_first_offers_keeps_the_earliest_of_equals():
    offers = np.array([[7, 3], [7, 7], [3, 9]])
    assert first_offers(offers).tolist() == [[True, True], [False, False], [False, True]]
    assert first_offers(offers[:0]).shape == (0, 2)


def test_the_old_ranker_explores_and_keeps_to_the_topic():
    catalogue = catalogue_of(3000, topics=10)
    shelf = catalogue.shelf(3)
    topic = np.full(2000, 4)
    settings = RankerSettings(topical_share=0.3, exploration_share=0.2)
    pool = draw_pool(settings, shelf, topic, stream())
    weight = np.diff(shelf.cumulative, prepend=0)
    fresh, own = (
        np.isin(pool, shelf.fresh),
        (pool >= catalogue.topic_end[3]) & (pool < catalogue.topic_end[4]),
    )
    by_weight = weight[shelf.fresh].sum() / weight.sum()
    assert fresh.mean() == pytest.approx(0.2 + 0.8 * by_weight, abs=0.02)
    assert own.mean() == pytest.approx(0.3 + 0.7 * 0.1, abs=0.04)


def test_the_old_ranker_orders_by_its_score_and_shows_only_what_is_allowed():
    catalogue = SimpleNamespace(
        vector=floats([1, 0], [0, 1], [-1, 0], [2, 0]), log_popularity=floats(0, 0.5, 0, 0)
    )
    settings = RankerSettings(slots=3, noise=0.0, popularity_weight=1.0, interest_weight=1.0)
    pool, interest = np.array([[0, 1, 2, 3]]), floats([1, 0])
    every = np.ones((1, 4), dtype=bool)
    shown = show(settings, catalogue, pool, every, interest, stream())
    assert shown.item.tolist() == [[3, 0, 1]]
    shown = show(settings, catalogue, pool, np.array([[1, 0, 0, 1]]) > 0, interest, stream())
    assert shown.item[shown.filled].tolist() == [3, 0]


def test_recent_clicks_are_forgotten_after_their_days():
    recent = RecentClicks(2)
    assert not recent.contains(0, np.array([1, 2])).any()
    recent.add(0, np.array([9, 2]), day=0)
    recent.add(0, np.array([5]), day=1)
    recent.add(1, np.array([3]), day=0)
    assert recent.contains(0, np.array([[2, 3], [5, 9]])).tolist() == [[True, False], [True, True]]
    recent.forget(0, 2)
    assert recent.contains(0, np.array([2, 5])).all()
    recent.forget(0, 3)
    assert recent.contains(0, np.array([2, 5])).tolist() == [False, True]
    assert recent.contains(1, np.array([3])).all()


def test_a_click_needs_a_look_and_a_match():
    settings = ClickSettings(click_bias=-1.0, click_pull=2.0, position_bias=0.5)
    affinity = affinities(floats([1, 0], [1, 0]), floats([1, 5], [0, 5]))
    assert affinity.tolist() == pytest.approx([2**0.5, 0.0])
    p = click_probabilities(settings, affinity, floats(0.0, 3.0), seen(settings, np.array([0, 3])))
    assert p.tolist() == pytest.approx(
        [1 / (1 + math.exp(1 - 2 * 2**0.5)), 0.5 / (1 + math.exp(-2))]
    )


@pytest.mark.parametrize(("cart_h", "purchase_h"), [(3.0, 24.0), (24.0, 3.0), (10.0, 10.0)])
def test_conversions_happen_as_often_as_their_probabilities_say(cart_h, purchase_h):
    settings = ConversionSettings(
        cart_bias=-1, direct_bias=-2, cart_delay_h=cart_h, purchase_delay_h=purchase_h
    )
    rng = stream(4)
    affinity, value = rng.standard_normal((2, 200_000)).astype(np.float32)
    followed = draw_conversions(settings, affinity, value, rng)
    for p, delay, days in (
        (followed.p_cart, followed.cart_delay_us, 1),
        (followed.p_purchase, followed.purchase_delay_us, 3),
    ):
        spread = np.sqrt((p * (1 - p)).sum(dtype=np.float64))
        label = delay <= days * DAY_US
        assert abs(label.sum() - p.sum(dtype=np.float64)) < 4 * spread
        high = p > np.median(p)
        assert abs(label[high].sum() - p[high].sum(dtype=np.float64)) < 4 * spread
        ends = delay[delay != NEVER_US]
        assert ends.max() < 7 * DAY_US


def test_two_delays_have_one_formula():
    rng = stream(5)
    total = rng.exponential(2.0, 400_000) + rng.exponential(5.0, 400_000)
    assert two_delays(6.0, 2.0, 5.0) == pytest.approx((total <= 6).mean(), abs=0.003)
    assert two_delays(6.0, 2.0, 5.0) == pytest.approx(two_delays(6.0, 5.0, 2.0))
    assert two_delays(6.0, 5.0, 5.0) == pytest.approx(two_delays(6.0, 5.0, 5.001), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conversions": {"patience_days": 2}}, "patience_days is 2, shorter than a window"),
        ({"ranker": {"pool": 5}}, "pool is 5, fewer items than slots"),
        ({"traffic": {"max_sessions": 50, "max_requests": 50}}, "do not fit into a day"),
        ({"clicks": {"click_bais": 1}}, "click_bais"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    values = {"users": 10, "items": 10, "days": 1}
    with pytest.raises(ValidationError, match=message):
        SimulationSettings.model_validate(values | changes)
