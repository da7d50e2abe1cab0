"""The old ranker: which items a request is shown, in which order.

It collects a pool for each request (some from the topic that is sought, some popular, some new)
and orders it by popularity, a rough idea of what the user likes and noise. It offers an item to a
user once a day, and not again for some days after it was clicked.

Legend: R requests, P pool, K slots, D dimensions of taste.
"""

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from pipeline.settings import Settings
from pipeline.simulation.catalogue import Catalogue, Shelf
from pipeline.simulation.draws import Floats, Ints

__all__ = ["RankerSettings", "Shown", "draw_pool", "first_offers", "show"]


class RankerSettings(Settings):
    """How impressions were chosen and ordered."""

    slots: int = Field(default=10, ge=1, description="impressions of a request, at most")
    pool: int = Field(default=20, ge=1, description="items the old ranker orders for a request")
    topical_share: float = Field(
        default=0.4, ge=0, le=1, description="of the pool that is from the topic sought"
    )
    exploration_share: float = Field(
        default=0.1, ge=0, le=1, description="of the pool that is drawn from new items"
    )
    popularity_weight: float = Field(
        default=0.5, description="of popularity (standard deviations) in the old ranker's score"
    )
    interest_weight: float = Field(
        default=0.5, description="of the match with the user's interest in that score"
    )
    noise: float = Field(default=1.0, ge=0, description="standard deviation of that score's noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The impressions of some requests, (R, K); places past a short pool's end are not `filled`."""

    item: Ints
    filled: np.ndarray


def draw_pool(
    settings: RankerSettings, shelf: Shelf, topic_R: Ints, rng: np.random.Generator
) -> Ints:
    """Items that the old ranker considers for each request, (R, P); some may be there twice."""
    shape = len(topic_R), settings.pool
    kind = rng.random(shape, dtype=np.float32)
    topical = kind < settings.topical_share
    start = np.where(topical, shelf.topic_start[topic_R][:, None], 0.0)
    weight = np.where(topical, shelf.topic_weight[topic_R][:, None], shelf.cumulative[-1])
    drawn = shelf.draw(rng.random(shape), start, weight)
    if not len(shelf.fresh):
        return drawn
    fresh = shelf.fresh[rng.integers(len(shelf.fresh), size=shape)]
    return np.where(kind >= 1 - settings.exploration_share, fresh, drawn)


def first_offers(offer: Ints) -> np.ndarray:
    """Which of these offers (user and item as one number) have no equal before them."""
    # One distinct number each, so that equal offers sort together, the earliest first.
    bits = max(offer.size, 1).bit_length()
    ordered = np.sort((offer.ravel() << bits) | np.arange(offer.size))
    same = ordered >> bits
    first = np.ones(offer.size, dtype=bool)
    first[ordered[1:][same[1:] == same[:-1]] & ((1 << bits) - 1)] = False
    return first.reshape(offer.shape)


def show(
    settings: RankerSettings,
    catalogue: Catalogue,
    pool_RP: Ints,
    allowed_RP: np.ndarray,
    interest_RD: Floats,
    rng: np.random.Generator,
) -> Shown:
    """The best of each pool by the old ranker's score, best first."""
    match = np.einsum("rpd,rd->rp", catalogue.vector[pool_RP], interest_RD)
    # Standard deviation 1 over items, whatever the number of dimensions.
    match *= np.float32(interest_RD.shape[1] ** 0.5)
    score = (
        np.float32(settings.popularity_weight) * catalogue.log_popularity[pool_RP]
        + np.float32(settings.interest_weight) * match
        + np.float32(settings.noise) * rng.standard_normal(pool_RP.shape, dtype=np.float32)
    )
    score[~allowed_RP] = -np.inf
    order = np.argsort(-score, axis=1, kind="stable")[:, : settings.slots]
    rows = np.arange(len(order))[:, None]
    return Shown(item=pool_RP[rows, order], filled=allowed_RP[rows, order])
