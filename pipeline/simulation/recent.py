"""Which items each user clicked lately, so that the old ranker does not offer them again.

One sorted array of (user, item) numbers for each block of users, with the day of each click; it
holds as many days as the old ranker waits.
"""

import numpy as np

from pipeline.simulation.draws import Ints

__all__ = ["RecentClicks"]


class RecentClicks:
    """Clicks of the last `num_days` days, by block of users."""

    def __init__(self, num_days: int) -> None:
        self._num_days = num_days
        self._offers: dict[int, Ints] = {}
        self._days: dict[int, Ints] = {}

    def forget(self, block: int, day: int) -> None:
        """Drop what was clicked more than `num_days` days before `day`."""
        if block in self._offers:
            kept = self._days[block] >= day - self._num_days
            self._offers[block] = self._offers[block][kept]
            self._days[block] = self._days[block][kept]

    def contains(self, block: int, offer: Ints) -> np.ndarray:
        """Which of these offers (user and item as one number) are not to be made."""
        known = self._offers.get(block)
        if known is None or not len(known):
            return np.zeros(offer.shape, dtype=bool)
        place = np.minimum(np.searchsorted(known, offer), len(known) - 1)
        return known[place] == offer

    def add(self, block: int, offer: Ints, day: int) -> None:
        """Remember these clicks; none of them is held yet."""
        none = np.zeros(0, dtype=np.int64)
        offers = np.concatenate([self._offers.get(block, none), offer])
        days = np.concatenate([self._days.get(block, none), np.full(len(offer), day)])
        order = np.argsort(offers, kind="stable")
        self._offers[block], self._days[block] = offers[order], days[order]
