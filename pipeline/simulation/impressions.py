"""The impressions of a block of users on one day, with the truth about each.

What passes from the making of a day (`marketplace`) to the log (`log`) and to the figures
(`figures`). Rows are in the order of users, of their requests' times, and of positions.

Legend: M impressions, C those that were clicked.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.simulation.conversions import Conversions
from pipeline.simulation.draws import Floats, Ints

__all__ = ["Impressions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Impressions:
    """Columns of all impressions (M,) and of the clicks among them (C,)."""

    day: int
    user: Ints
    """counted from 0 over all users"""
    item: Ints
    """counted from 0 in the catalogue's order"""
    request: Ints
    """a number that no other request has; ascending"""
    time_us: Ints
    """since the start of the day"""
    position: Ints
    seen: Floats
    """probability of being looked at"""
    p_click: Floats
    clicked: np.ndarray
    click_time_us: Ints
    """since the start of the day"""
    conversions: Conversions
