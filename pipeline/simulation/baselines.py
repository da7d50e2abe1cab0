"""Cheap rankings of the simulated impressions, that trained models should beat by far.

    item popularity        clicks of the item on earlier days
    item click rate        the same over its impressions, shrunk towards the rate of all items
    category in history    the user's clicks so far, up to the request, in the item's category
    position               where the old ranker put it

Legend: M impressions, I items, N users, G categories.
"""

import numpy as np

from pipeline.simulation.catalogue import Catalogue
from pipeline.simulation.draws import Floats, Ints
from pipeline.simulation.impressions import Impressions

__all__ = ["BASELINES", "Baselines", "earlier_clicks"]

BASELINES = ("item popularity", "item click rate", "category in history", "position")
PRIOR_IMPRESSIONS = 20


class Baselines:
    """What they count; blocks are to be scored before they are counted."""

    def __init__(self, catalogue: Catalogue, num_users: int, slots: int) -> None:
        self._category_I = catalogue.category_id - 1
        self._num_categories = catalogue.settings.categories
        self._slots = slots
        self._history_NG = np.zeros((num_users, self._num_categories), dtype=np.int32)
        # Clicks and impressions: until yesterday, and until now.
        self._known_2I = np.zeros((2, catalogue.num_items), dtype=np.int64)
        self._counted_2I = np.zeros_like(self._known_2I)

    def scores(self, shown: Impressions) -> dict[str, Floats]:
        """Each baseline's score of each impression, never negative, (M,)."""
        clicks_M, impressions_M = self._known_2I[:, shown.item]
        clicks, impressions = self._known_2I.sum(axis=1)
        rate = clicks / max(impressions, 1)
        category_M = self._category_I[shown.item]
        group_M = shown.user * self._num_categories + category_M
        history_M = self._history_NG[shown.user, category_M]
        history_M = history_M + earlier_clicks(group_M, shown.request, shown.clicked)
        scores = (
            clicks_M,
            (clicks_M + PRIOR_IMPRESSIONS * rate) / (impressions_M + PRIOR_IMPRESSIONS),
            history_M,
            self._slots - shown.position,
        )
        named = zip(BASELINES, scores, strict=True)
        return {name: score.astype(np.float32) for name, score in named}

    def count(self, shown: Impressions) -> None:
        """Take in a block."""
        num_items = self._counted_2I.shape[1]
        clicked = shown.item[shown.clicked]
        self._counted_2I[0] += np.bincount(clicked, minlength=num_items)
        self._counted_2I[1] += np.bincount(shown.item, minlength=num_items)
        user = shown.user[shown.clicked]
        np.add.at(self._history_NG, (user, self._category_I[clicked]), 1)

    def end_day(self) -> None:
        """From now on the day counts as known."""
        self._known_2I[:] = self._counted_2I

    @property
    def clicks_of_items(self) -> Ints:
        """Clicks of each item so far."""
        return self._counted_2I[0]

    @property
    def clicks_of_users(self) -> Ints:
        """Clicks of each user so far."""
        return self._history_NG.sum(axis=1, dtype=np.int64)


def earlier_clicks(group_M: Ints, request_M: Ints, clicked_M: np.ndarray) -> Ints:
    """For each impression the clicks of its group in requests before its own, (M,).

    Requests ascend, and with them time.
    """
    order = np.argsort(group_M, kind="stable")
    group, request = group_M[order], request_M[order]
    clicks = clicked_M[order].astype(np.int64)
    before = np.cumsum(clicks) - clicks
    new_group = np.concatenate([[True], group[1:] != group[:-1]])[: len(group)]
    new_request = new_group | np.concatenate([[True], request[1:] != request[:-1]])[: len(group)]
    # Sums never fall, so the latest start is the largest so far.
    at_group, at_request = (
        np.maximum.accumulate(np.where(starts, before, 0)) for starts in (new_group, new_request)
    )
    counts = np.empty_like(before)
    counts[order] = at_request - at_group
    return counts
