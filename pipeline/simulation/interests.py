"""The users: what they like, how that drifts from day to day, what they seek in a session.

A user's interest is a point in the space of tastes that moves by an Ornstein-Uhlenbeck step a day
and, now and then, jumps elsewhere. A session seeks one topic, drawn by how near topics are to the
interest; it is the same for all requests of the session, so what was clicked a minute ago tells
more than what is liked in general.

Legend: N users, S sessions, T topics, D dimensions of taste.
"""

import numpy as np
from pydantic import Field

from pipeline.settings import Settings
from pipeline.simulation.draws import Floats, Ints, Purpose, blocks, generator

__all__ = ["InterestSettings", "Interests"]


class InterestSettings(Settings):
    """What users like, and for how long."""

    drift: float = Field(
        default=0.05, ge=0, le=1, description="share of an interest's variance renewed each day"
    )
    jump_share: float = Field(
        default=0.01, ge=0, le=1, description="users whose interest is drawn anew, each day"
    )
    focus: float = Field(
        default=12.0, ge=0, description="how strongly sessions keep to topics near the interest"
    )
    intent_share: float = Field(
        default=0.8, ge=0, le=1, description="of what a session seeks that its topic decides"
    )


class Interests:
    """The interest of each user, (N, D); taken block by block, once a day."""

    def __init__(
        self, settings: InterestSettings, num_users: int, dimension: int, seed: int
    ) -> None:
        self._settings = settings
        self._interest_ND = np.empty((num_users, dimension), dtype=np.float32)
        for block, users in enumerate(blocks(num_users)):
            rng = generator(seed, Purpose.INTERESTS, block)
            self._interest_ND[users] = _points(rng, users.stop - users.start, dimension)

    def move(self, users: slice, rng: np.random.Generator) -> Floats:
        """Move the interests of a block by a day, and return them."""
        interest = self._interest_ND[users]
        step = _points(rng, *interest.shape)
        kept, renewed = (1 - self._settings.drift) ** 0.5, self._settings.drift**0.5
        moved = kept * interest + renewed * step
        jumps = rng.random(len(interest)) < self._settings.jump_share
        self._interest_ND[users] = np.where(jumps[:, None], _points(rng, *step.shape), moved)
        return self._interest_ND[users]

    def seek(
        self,
        interest_SD: Floats,
        topic_vector_TD: Floats,
        on_sale_T: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[Ints, Floats]:
        """The topic that each session seeks, (S,), and the whole of what it seeks, (S, D)."""
        attraction = self._settings.focus * (interest_SD @ topic_vector_TD.T)
        attraction[:, ~on_sale_T] = -np.inf
        weights = np.exp(attraction - attraction.max(axis=1, keepdims=True))
        cumulative = np.cumsum(weights, axis=1)
        aim = rng.random(len(weights), dtype=np.float32) * cumulative[:, -1]
        topic = np.minimum((cumulative <= aim[:, None]).sum(axis=1), _last(on_sale_T))
        share = self._settings.intent_share
        intent = share**0.5 * topic_vector_TD[topic] + (1 - share) ** 0.5 * interest_SD
        return topic, intent.astype(np.float32)


def _points(rng: np.random.Generator, number: int, dimension: int) -> Floats:
    """Points of mean squared length 1, as the interests are at all times."""
    return rng.standard_normal((number, dimension), dtype=np.float32) / np.float32(dimension**0.5)


def _last(mask: np.ndarray) -> int:
    """Where a sum that rounds up to the very end belongs."""
    return int(np.flatnonzero(mask)[-1])
