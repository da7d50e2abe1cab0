"""Random streams that depend on what they are for, never on what was drawn before.

Users are simulated in blocks of a fixed number. Each block has a stream of its own for each day,
so the log is a function of the settings alone, in whatever order the blocks are taken.
"""

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["USERS_PER_BLOCK", "Floats", "Ints", "Purpose", "blocks", "generator", "sigmoid"]

USERS_PER_BLOCK = 4096

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Purpose(IntEnum):
    """What a stream is for."""

    CATALOGUE = 0
    INTERESTS = 1
    ACTIVITY = 2
    DAY = 3


def generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """The stream for this purpose and place: (block,) of users, (day, block) of a day."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, purpose, *place))))


def blocks(num_users: int) -> Iterator[slice]:
    """The users of each block, in order; the last may be smaller."""
    for first in range(0, num_users, USERS_PER_BLOCK):
        yield slice(first, min(first + USERS_PER_BLOCK, num_users))


def sigmoid(logits: np.ndarray) -> Floats:
    """1 / (1 + exp(-logits)), in float32."""
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)
