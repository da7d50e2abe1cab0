"""The items: taste vectors, what the log tells of them, how popular they are, when they appear.

    category -> topic -> item      each explains a share of the variance of the vectors of the next

Items are numbered in the order of their topics, so that one cumulative sum of weights draws from
all items or from one topic; the ids in the log are shuffled and tell nothing. `Shelf` is what can
be shown on one day.

Legend: I items, T topics, D dimensions of taste.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.settings import Settings
from pipeline.simulation.draws import Floats, Ints, Purpose, generator

__all__ = ["Catalogue", "CatalogueSettings", "Shelf", "draw_catalogue"]


class CatalogueSettings(Settings):
    """Which items there are."""

    categories: int = Field(default=20, ge=1, description="values of category_id")
    brands: int = Field(default=200, ge=1, description="values of brand_id")
    topics: int = Field(default=100, ge=1, description="hidden groups of items sought together")
    dimension: int = Field(default=8, ge=2, description="of the hidden vectors of taste")
    category_share: float = Field(
        default=0.2, ge=0, le=1, description="of a topic's vector that its category explains"
    )
    topic_share: float = Field(
        default=0.85, ge=0, le=1, description="of an item's vector that its topic explains"
    )
    stray_share: float = Field(
        default=0.2, ge=0, le=1, description="items filed under a category not their topic's"
    )
    zipf_exponent: float = Field(
        default=0.8, ge=0, description="popularity is rank to the power of minus this"
    )
    popularity_pull: float = Field(
        default=0.2, ge=0, description="logit of a click per standard deviation of log popularity"
    )
    brand_pull: float = Field(
        default=0.2, ge=0, description="standard deviation of the brands' part of that logit"
    )
    quality_pull: float = Field(
        default=0.3, ge=0, description="standard deviation of the items' own part of that logit"
    )
    launch_share: float = Field(
        default=0.3, ge=0, lt=1, description="items that appear after the first day"
    )
    ramp_days: int = Field(
        default=3, ge=1, description="days until a new item is as popular as it will be"
    )
    fresh_days: int = Field(default=3, ge=1, description="days that an item counts as new")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What can be shown on one day; weights are 0 for items that are not launched yet."""

    cumulative: NDArray[np.float64]
    """sum of the weights up to each item, (I,)"""
    topic_start: NDArray[np.float64]
    """sum of the weights before each topic, (T,)"""
    topic_weight: NDArray[np.float64]
    """sum of the weights of each topic, (T,)"""
    fresh: Ints
    """items that count as new, of any number"""

    def draw(self, uniform: np.ndarray, start: np.ndarray, weight: np.ndarray) -> Ints:
        """Items by weight, from the range of weights [start, start + weight); arrays broadcast."""
        aim = start + uniform * weight
        found = np.searchsorted(self.cumulative, aim.ravel(), side="right").reshape(aim.shape)
        # A sum that rounds up to the very end is the last item's.
        return np.minimum(found, np.searchsorted(self.cumulative, self.cumulative[-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All items, (I,), launched or not, and the topics, (T,); vectors are (I, D) and (T, D)."""

    item_id: Ints
    category_id: Ints
    brand_id: Ints
    vector: Floats
    appeal: Floats
    """the item's part of the logit of a click"""
    value: Floats
    """the item's part of the logits of a cart and a purchase, of standard deviation 1"""
    log_popularity: Floats
    """of mean 0 and standard deviation 1"""
    weight: NDArray[np.float64]
    launch_day: Ints
    """0 for items that were there before the first day"""
    topic_vector: Floats
    topic_end: Ints
    """the first item after each topic"""
    settings: CatalogueSettings

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.item_id)

    def shelf(self, day: int) -> Shelf:
        """What can be shown on this day, counted from 0."""
        age = day - self.launch_day
        ramp = np.clip((age + 1) / self.settings.ramp_days, 0, 1)
        weight = self.weight * np.where(self.launch_day > 0, ramp, 1.0)
        cumulative = np.cumsum(weight)
        before = np.concatenate([[0.0], cumulative])
        start = before[np.concatenate([[0], self.topic_end[:-1]])]
        is_fresh = (self.launch_day > 0) & (age >= 0) & (age < self.settings.fresh_days)
        return Shelf(
            cumulative=cumulative,
            topic_start=start,
            topic_weight=before[self.topic_end] - start,
            fresh=np.flatnonzero(is_fresh),
        )


def draw_catalogue(
    settings: CatalogueSettings, num_items: int, num_days: int, seed: int
) -> Catalogue:
    """The items of a simulation."""
    rng = generator(seed, Purpose.CATALOGUE)
    topic = np.sort(rng.integers(settings.topics, size=num_items))
    topic_category = rng.integers(settings.categories, size=settings.topics)
    category_vectors = _vectors(rng, settings.categories, settings.dimension)
    topic_vectors = _mixture(rng, category_vectors[topic_category], settings.category_share)
    strays = rng.random(num_items) < settings.stray_share
    category = np.where(
        strays, rng.integers(settings.categories, size=num_items), topic_category[topic]
    )
    brand = rng.integers(settings.brands, size=num_items)
    weight = (1.0 + rng.permutation(num_items)) ** -settings.zipf_exponent
    log_popularity = _standardized(np.log(weight))
    appeal = (
        settings.popularity_pull * log_popularity
        + settings.brand_pull * rng.standard_normal(settings.brands)[brand]
        + settings.quality_pull * rng.standard_normal(num_items)
    )
    return Catalogue(
        item_id=1 + rng.permutation(num_items),
        category_id=1 + category,
        brand_id=1 + brand,
        vector=_mixture(rng, topic_vectors[topic], settings.topic_share),
        appeal=appeal.astype(np.float32),
        value=rng.standard_normal(num_items, dtype=np.float32),
        log_popularity=log_popularity.astype(np.float32),
        weight=weight.astype(np.float64),
        launch_day=_launch_days(rng, num_items, num_days, settings.launch_share),
        topic_vector=topic_vectors,
        topic_end=np.searchsorted(topic, np.arange(settings.topics), side="right"),
        settings=settings,
    )


def _vectors(rng: np.random.Generator, number: int, dimension: int) -> Floats:
    """Vectors of mean squared length 1."""
    return rng.standard_normal((number, dimension), dtype=np.float32) / np.float32(dimension**0.5)


def _mixture(rng: np.random.Generator, parents: Floats, share: float) -> Floats:
    """Children of these parents, whose vectors the parents' explain to this share."""
    own = _vectors(rng, *parents.shape)
    mixed = share**0.5 * parents + (1 - share) ** 0.5 * own
    return mixed.astype(np.float32)


def _launch_days(
    rng: np.random.Generator, num_items: int, num_days: int, launch_share: float
) -> Ints:
    """0 for items there from the start; the others' days are spread over all days but the first."""
    if num_days == 1:
        return np.zeros(num_items, dtype=np.int64)
    late = rng.permutation(num_items) >= max(1, round((1 - launch_share) * num_items))
    return np.where(late, rng.integers(1, num_days, size=num_items), 0)


def _standardized(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / (spread or 1.0)
