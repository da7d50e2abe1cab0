"""Users that no model learns from, so that one trained on a day can be judged on that same day.

    requests, sequences -> those of held-out users, those of all others

Who is held out is a function of the user's id and a seed, the same on every day: nothing that a
held-out user ever did is in training data, while vocabularies and the catalogue see everybody.
"""

from ibis.expr.types import BooleanValue, Table
from pydantic import Field

from pipeline.hashing import hash_key, hash_number
from pipeline.settings import Settings

__all__ = ["NO_HOLDOUT", "HoldoutSettings", "is_held_out"]

HASH_SPACE = 2**52


class HoldoutSettings(Settings):
    """`[holdout]`: users kept for judging models; their requests are the kind `held_out`."""

    # Of the users.
    share: float = Field(default=0.0, ge=0, le=0.5)
    # Another one holds out others.
    seed: int = Field(default=0, ge=0)


NO_HOLDOUT = HoldoutSettings()


def is_held_out(rows: Table, settings: HoldoutSettings) -> BooleanValue:
    """Whether a row's `user_id` is a held-out one."""
    number = hash_number(hash_key("held out", str(settings.seed), rows.user_id))
    return number < int(settings.share * HASH_SPACE)
