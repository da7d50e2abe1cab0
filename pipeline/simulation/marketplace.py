"""One day after another of a simulated marketplace, a block of users at a time.

    interests move -> visits -> pools of items -> the old ranker's order -> clicks -> what follows

Memory is that of users, items and one block, however many days there are.

Legend: U users of a block, S sessions, R requests, P pool, K slots, M impressions, C clicks.
"""

from collections.abc import Iterator
from datetime import date

import numpy as np
from pydantic import Field, model_validator

from pipeline.settings import Settings
from pipeline.simulation.catalogue import Catalogue, CatalogueSettings, Shelf, draw_catalogue
from pipeline.simulation.clicks import ClickSettings, affinities, click_probabilities, seen
from pipeline.simulation.conversions import ConversionSettings, draw_conversions
from pipeline.simulation.draws import Floats, Ints, Purpose, blocks, generator
from pipeline.simulation.impressions import Impressions
from pipeline.simulation.interests import Interests, InterestSettings
from pipeline.simulation.ranker import RankerSettings, Shown, draw_pool, first_offers, show
from pipeline.simulation.recent import RecentClicks
from pipeline.simulation.traffic import DAY_US, TrafficSettings, Visits, draw_visits, session_us

__all__ = ["Marketplace", "SimulationSettings"]

SECOND_US = 1_000_000
SECONDS_PER_SLOT = 4


class SimulationSettings(Settings):
    """Everything that decides a simulation: the same settings, the same log."""

    users: int = Field(ge=1, description="how many there are")
    items: int = Field(ge=1, description="how many there will be at the end")
    days: int = Field(ge=1, description="how many are simulated")
    first_day: date = Field(default=date(2024, 1, 1), description="YYYY-MM-DD, UTC")
    seed: int = Field(default=0, ge=0, description="another one, another marketplace")
    last_days: int = Field(default=2, ge=1, description="the summary has figures for these alone")
    catalogue: CatalogueSettings = CatalogueSettings()
    interests: InterestSettings = InterestSettings()
    traffic: TrafficSettings = TrafficSettings()
    ranker: RankerSettings = RankerSettings()
    clicks: ClickSettings = ClickSettings()
    conversions: ConversionSettings = ConversionSettings()

    @model_validator(mode="after")
    def _consistent(self) -> "SimulationSettings":
        longest = session_us(self.traffic, self.ranker.slots)
        if longest > DAY_US // self.traffic.max_sessions:
            raise ValueError(
                f"{self.traffic.max_sessions} sessions of up to {longest // SECOND_US} s do not "
                "fit into a day; lower max_sessions, max_requests or slots"
            )
        if self.ranker.pool < self.ranker.slots:
            raise ValueError(f"pool is {self.ranker.pool}, fewer items than slots")
        return self


class Marketplace:
    """The state of the marketplace; `days` may be walked through once."""

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self.catalogue: Catalogue = draw_catalogue(
            settings.catalogue, settings.items, settings.days, settings.seed
        )
        self._interests = Interests(
            settings.interests, settings.users, settings.catalogue.dimension, settings.seed
        )
        self._activity_N = _draw_activity(settings)
        self._recent = RecentClicks(settings.conversions.patience_days)

    def day(self, day: int) -> Iterator[Impressions]:
        """The impressions of this day, block by block; days must be taken in order, each whole."""
        shelf = self.catalogue.shelf(day)
        for block, users in enumerate(blocks(self.settings.users)):
            rng = generator(self.settings.seed, Purpose.DAY, day, block)
            self._recent.forget(block, day)
            yield self._block(day, block, users, shelf, rng)

    def _block(
        self, day: int, block: int, users: slice, shelf: Shelf, rng: np.random.Generator
    ) -> Impressions:
        interest_UD = self._interests.move(users, rng)
        visits = draw_visits(
            self.settings.traffic, self._activity_N[users], self.settings.ranker.slots, rng
        )
        interest_SD = interest_UD[visits.session_user]
        topic_S, intent_SD = self._interests.seek(
            interest_SD, self.catalogue.topic_vector, shelf.topic_weight > 0, rng
        )
        session_R = visits.request_session
        pool_RP = draw_pool(self.settings.ranker, shelf, topic_S[session_R], rng)
        allowed_RP = self._allowed(block, visits.request_user, pool_RP)
        shown = show(
            self.settings.ranker, self.catalogue, pool_RP, allowed_RP, interest_SD[session_R], rng
        )
        impressions = self._outcomes(day, users.start, visits, shown, intent_SD, rng)
        clicked = impressions.clicked
        offers = self._offers(impressions.user - users.start, impressions.item)
        self._recent.add(block, offers[clicked], day)
        return impressions

    def _offers(self, user: Ints, item: Ints) -> Ints:
        """User (of the block) and item as one number."""
        return user * self.catalogue.num_items + item

    def _allowed(self, block: int, user_R: Ints, pool_RP: Ints) -> np.ndarray:
        """Which of the pools' items were neither offered this day nor clicked lately, (R, P)."""
        offers_RP = self._offers(user_R[:, None], pool_RP)
        return first_offers(offers_RP) & ~self._recent.contains(block, offers_RP)

    def _outcomes(
        self,
        day: int,
        first_user: int,
        visits: Visits,
        shown: Shown,
        intent_SD: Floats,
        rng: np.random.Generator,
    ) -> Impressions:
        """Clicks on what was shown, and what follows them."""
        request, position = np.nonzero(shown.filled)
        item = shown.item[request, position]
        intent = intent_SD[visits.request_session[request]]
        affinity = affinities(intent, self.catalogue.vector[item])
        seen_M = seen(self.settings.clicks, position)
        p_click = click_probabilities(
            self.settings.clicks, affinity, self.catalogue.appeal[item], seen_M
        )
        clicked = rng.random(len(item), dtype=np.float32) < p_click
        conversions = draw_conversions(
            self.settings.conversions, affinity[clicked], self.catalogue.value[item[clicked]], rng
        )
        user = first_user + visits.request_user
        number = (day * self.settings.users + user) * self._requests_per_day
        time_us = visits.request_time[request]
        reading_s = SECONDS_PER_SLOT * position[clicked] + 1 + 3 * rng.random(len(item[clicked]))
        return Impressions(
            day=day,
            user=user[request],
            item=item,
            request=(number + visits.request_number)[request],
            time_us=time_us,
            position=position,
            seen=seen_M,
            p_click=p_click,
            clicked=clicked,
            click_time_us=time_us[clicked] + (reading_s * SECOND_US).astype(np.int64),
            conversions=conversions,
        )

    @property
    def _requests_per_day(self) -> int:
        """More than a user can make on a day."""
        return self.settings.traffic.max_sessions * self.settings.traffic.max_requests


def _draw_activity(settings: SimulationSettings) -> Floats:
    """The mean number of sessions of each user on a day, (N,)."""
    spread = settings.traffic.activity_spread
    activity_N = np.empty(settings.users, dtype=np.float32)
    for block, users in enumerate(blocks(settings.users)):
        rng = generator(settings.seed, Purpose.ACTIVITY, block)
        shape = spread * rng.standard_normal(users.stop - users.start) - spread**2 / 2
        activity_N[users] = settings.traffic.sessions_per_day * np.exp(shape)
    return activity_N
