"""Which days must be built, from where, and how many at once: pure functions of digests.

Days form a chain: what a day becomes depends on its own events and on the state that the day
before left, and through it on all earlier days. `chain` gives every day a digest over all that, so
a change to an old day shows in every later one. A build starts from the latest state that is still
true, and goes on in blocks of days.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pipeline.digests import texts_digest

__all__ = ["Block", "blocks_of", "chain", "days_after"]

ONE_DAY = timedelta(days=1)
# Days are built together until they have this many events.
EVENTS_PER_BLOCK = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Block:
    """Days that are built together."""

    before: date | None
    """the day whose state they start from; None: from nothing"""
    days: tuple[date, ...]


def chain(first: str, events: Mapping[date, str], last_training_day: date) -> dict[date, str]:
    """Day -> digest of everything that its state depends on; `events` ascend, without gaps.

    From training days to held-out ones the rules change (vocabularies no longer grow).
    """
    digests: dict[date, str] = {}
    digest = first
    for day, of_day in events.items():
        kind = "training" if day <= last_training_day else f"held out after {last_training_day}"
        digest = digests[day] = texts_digest([digest, kind, of_day])
    return digests


def days_after(events: Collection[date], day: date, num_days: int) -> list[date]:
    """Days with events, among the `num_days` after `day`."""
    following = (day + number * ONE_DAY for number in range(1, num_days + 1))
    return [later for later in following if later in events]


def blocks_of(
    days: Sequence[date],
    stale: Collection[date],
    has_state: Callable[[date], bool],
    ends: Collection[date],
    num_events: Mapping[date, int],
) -> Iterator[Block]:
    """Blocks that cover all `stale` days, from the latest day before them that has its state.

    `days` are all days from the first one on, without gaps; a block ends after each of `ends`, and
    when it has EVENTS_PER_BLOCK.
    """
    if not stale:
        return
    before = next((day for day in reversed(days) if day < min(stale) and has_state(day)), None)
    block: list[date] = []
    size = 0
    for day in days:
        if (before is None or day > before) and day <= max(stale):
            block.append(day)
            size += num_events[day]
            if day in ends or size >= EVENTS_PER_BLOCK or day == max(stale):
                yield Block(before=before, days=tuple(block))
                before, block, size = day, [], 0
