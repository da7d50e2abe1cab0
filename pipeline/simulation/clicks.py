"""Whether an impression is clicked: it must be seen, and then it must be liked.

    p_click = seen(position) * sigmoid(bias + pull * affinity + the item's appeal)
    seen(position) = (1 + position) ^ -position_bias

The affinity is the product of what the session seeks and the item's vector, of standard deviation
about 1 over all items. The model of examination is that of position-based click models.

Legend: M impressions, D dimensions of taste.
"""

import numpy as np
from pydantic import Field

from pipeline.settings import Settings
from pipeline.simulation.draws import Floats, Ints, sigmoid

__all__ = ["ClickSettings", "affinities", "click_probabilities", "seen"]


class ClickSettings(Settings):
    """What makes a click."""

    click_bias: float = Field(default=-3.5, description="logit of a click of an average item seen")
    click_pull: float = Field(
        default=0.7, description="of affinity, per standard deviation, on that logit"
    )
    position_bias: float = Field(
        default=0.4, ge=0, description="an item is seen with (1 + position) to minus this"
    )


def affinities(intent_MD: Floats, vector_MD: Floats) -> Floats:
    """How well items fit what is sought, (M,); standard deviation about 1 over all items."""
    product = np.einsum("md,md->m", intent_MD, vector_MD)
    return np.float32(intent_MD.shape[1] ** 0.5) * product


def seen(settings: ClickSettings, position_M: Ints) -> Floats:
    """The probability that an impression at this position is looked at, (M,)."""
    return ((1.0 + position_M) ** -settings.position_bias).astype(np.float32)


def click_probabilities(
    settings: ClickSettings, affinity_M: Floats, appeal_M: Floats, seen_M: Floats
) -> Floats:
    """The probabilities that clicks are drawn with, (M,)."""
    logit = settings.click_bias + settings.click_pull * affinity_M
    return seen_M * sigmoid(logit + appeal_M)
