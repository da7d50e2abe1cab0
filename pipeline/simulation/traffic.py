"""When users come: sessions of a day, the requests of a session, and their times.

A user's day is cut into as many equal parts as there are sessions, one in each, so sessions never
overlap; all requests and clicks of a session end within its part, so within the day.

Legend: U users of a block, S sessions, R requests; sessions and requests are in the order of users
and, within a user, of time.
"""

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from pipeline.settings import Settings
from pipeline.simulation.draws import Ints

__all__ = ["DAY_US", "TrafficSettings", "Visits", "draw_visits", "session_us"]

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
READING_US_PER_SLOT = 5 * SECOND_US
PAUSE_US = 60 * SECOND_US


class TrafficSettings(Settings):
    """How often users come, and how much they look at."""

    sessions_per_day: float = Field(
        default=0.4, gt=0, description="mean number of sessions of a user on a day"
    )
    activity_spread: float = Field(
        default=0.8, ge=0, description="standard deviation of the log of users' own such means"
    )
    max_sessions: int = Field(default=6, ge=1, description="of a user on a day")
    requests_per_session: float = Field(
        default=4.0, ge=1, description="mean of the geometric number of requests of a session"
    )
    max_requests: int = Field(default=10, ge=1, description="of a session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """The sessions, (S,), and requests, (R,), of a block's users on one day."""

    session_user: Ints
    """the user, counted within the block"""
    request_session: Ints
    request_time: Ints
    """microseconds since the start of the day"""
    request_number: Ints
    """counts a user's requests of the day, from 0"""

    @property
    def request_user(self) -> Ints:
        """The user of each request, counted within the block."""
        return self.session_user[self.request_session]


def session_us(settings: TrafficSettings, slots: int) -> int:
    """The longest that a session can last, in microseconds."""
    return settings.max_requests * (slots * READING_US_PER_SLOT + PAUSE_US)


def draw_visits(
    settings: TrafficSettings, activity_U: np.ndarray, slots: int, rng: np.random.Generator
) -> Visits:
    """Sessions and requests of users whose mean number of sessions is activity_U, on one day."""
    num_sessions_U = np.minimum(rng.poisson(activity_U), settings.max_sessions)
    session_user = np.repeat(np.arange(len(activity_U)), num_sessions_U)
    part = np.arange(len(session_user)) - np.repeat(
        np.cumsum(num_sessions_U) - num_sessions_U, num_sessions_U
    )
    part_us = DAY_US // np.maximum(num_sessions_U, 1)[session_user]
    free_us = part_us - session_us(settings, slots)
    start = part * part_us + (rng.random(len(part)) * free_us).astype(np.int64)
    num_requests_S = np.minimum(
        rng.geometric(1 / settings.requests_per_session, size=len(part)), settings.max_requests
    )
    request_session = np.repeat(np.arange(len(part)), num_requests_S)
    wait = slots * READING_US_PER_SLOT + rng.integers(PAUSE_US, size=len(request_session))
    return Visits(
        session_user=session_user,
        request_session=request_session,
        request_time=start[request_session] + _sum_before(wait, request_session),
        request_number=_sum_before(np.ones_like(wait), session_user[request_session]),
    )


def _sum_before(values: Ints, group: Ints) -> Ints:
    """For each value the sum of those before it in its group; groups are runs."""
    before = np.cumsum(values) - values
    starts = np.concatenate([[True], group[1:] != group[:-1]])[: len(group)]
    return before - np.maximum.accumulate(np.where(starts, before, 0))
