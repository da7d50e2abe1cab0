"""What follows a click: perhaps a cart, perhaps a purchase, each after a delay.

    carted     with sigmoid(cart_bias + fit), after an exponential delay
    purchased  if carted, with `purchase_after_cart`, an exponential delay after the cart;
               if not, with sigmoid(direct_bias + fit), the same delay after the click
    fit      = conversion_pull * affinity + value_pull * the item's value

Delays that end more than `patience_days` after the click never end. The old ranker does not offer
a clicked item to that user again for so long, so whatever happens to an item within the window
after a click comes from that click: the probability of the label is exact, in closed form.

Legend: C clicks.
"""

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from pipeline.settings import Settings
from pipeline.simulation.draws import Floats, Ints, sigmoid
from pipeline.simulation.traffic import DAY_US

__all__ = ["NEVER_US", "ConversionSettings", "Conversions", "draw_conversions", "two_delays"]

HOUR_US = DAY_US // 24
NEVER_US = np.iinfo(np.int64).max


class ConversionSettings(Settings):
    """What makes carts and purchases, and how long they take."""

    cart_bias: float = Field(default=-4.0, description="logit of a cart at affinity and value 0")
    direct_bias: float = Field(default=-6.0, description="of a purchase without a cart")
    purchase_after_cart: float = Field(
        default=0.35, ge=0, le=1, description="probability of a purchase, given a cart"
    )
    conversion_pull: float = Field(default=0.4, description="of affinity on both logits")
    value_pull: float = Field(default=0.8, description="of the item's value on both logits")
    cart_delay_h: float = Field(default=3.0, gt=0, description="mean, in hours")
    purchase_delay_h: float = Field(default=24.0, gt=0, description="mean, in hours")
    cart_window_days: int = Field(default=1, ge=1, description="after the click: the cart label")
    purchase_window_days: int = Field(default=3, ge=1, description="the same for the cvr label")
    patience_days: int = Field(
        default=7, ge=1, description="after a click nothing comes of it, nor is it offered again"
    )

    @model_validator(mode="after")
    def _windows_end(self) -> "ConversionSettings":
        if self.patience_days < max(self.cart_window_days, self.purchase_window_days):
            raise ValueError(
                f"patience_days is {self.patience_days}, shorter than a window; within a window "
                "an item would be clicked twice, and the label's probability be unknown"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversions:
    """What became of each click; all are (C,)."""

    p_cart: Floats
    """probability of a cart within its window"""
    p_purchase: Floats
    """probability of a purchase within its window"""
    cart_delay_us: Ints
    """after the click; NEVER_US for none"""
    purchase_delay_us: Ints
    """after the click; NEVER_US for none"""


def draw_conversions(
    settings: ConversionSettings, affinity_C: Floats, value_C: Floats, rng: np.random.Generator
) -> Conversions:
    """Carts and purchases of these clicks, and the probabilities of their labels."""
    fit = settings.conversion_pull * affinity_C + settings.value_pull * value_C
    p_ever_carted = sigmoid(settings.cart_bias + fit)
    p_direct = sigmoid(settings.direct_bias + fit)
    carted = rng.random(len(fit)) < p_ever_carted
    after = np.where(carted, settings.purchase_after_cart, p_direct)
    purchased = rng.random(len(fit)) < after
    cart_delay = rng.exponential(settings.cart_delay_h * HOUR_US, len(fit))
    purchase_delay = rng.exponential(settings.purchase_delay_h * HOUR_US, len(fit))
    purchase_delay += np.where(carted, cart_delay, 0)
    p_cart, p_purchase = _within_windows(settings, p_ever_carted, p_direct)
    return Conversions(
        p_cart=p_cart,
        p_purchase=p_purchase,
        cart_delay_us=_delays(settings, carted, cart_delay),
        purchase_delay_us=_delays(settings, purchased, purchase_delay),
    )


def _within_windows(
    settings: ConversionSettings, p_ever_carted: Floats, p_direct: Floats
) -> tuple[Floats, Floats]:
    """The probabilities of a cart and of a purchase within their windows."""
    window_h = 24.0 * settings.purchase_window_days
    cart_in_time = _one_delay(24.0 * settings.cart_window_days, settings.cart_delay_h)
    direct_in_time = _one_delay(window_h, settings.purchase_delay_h)
    after_in_time = two_delays(window_h, settings.cart_delay_h, settings.purchase_delay_h)
    after_cart = settings.purchase_after_cart * after_in_time
    p_purchase = p_ever_carted * after_cart + (1 - p_ever_carted) * p_direct * np.float32(
        direct_in_time
    )
    return _float32(p_ever_carted * cart_in_time), _float32(p_purchase)


def _float32(values: np.ndarray) -> Floats:
    return values.astype(np.float32)


def _one_delay(time_h: float, mean_h: float) -> float:
    """The probability that an exponential delay ends within the time."""
    return -math.expm1(-time_h / mean_h)


def two_delays(time_h: float, first_mean_h: float, second_mean_h: float) -> float:
    """The probability that two exponential delays, one after the other, end within the time."""
    if math.isclose(first_mean_h, second_mean_h, rel_tol=1e-6):
        elapsed = time_h / second_mean_h
        return 1 - math.exp(-elapsed) * (1 + elapsed)
    late = second_mean_h * math.exp(-time_h / second_mean_h)
    early = first_mean_h * math.exp(-time_h / first_mean_h)
    return 1 - (late - early) / (second_mean_h - first_mean_h)


def _delays(settings: ConversionSettings, happens: np.ndarray, delay_us: np.ndarray) -> Ints:
    """Whole microseconds, NEVER_US for what does not happen or not in time."""
    ends = happens & (delay_us < settings.patience_days * DAY_US)
    return np.where(ends, delay_us.astype(np.int64), NEVER_US)
