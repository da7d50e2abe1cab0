from datetime import date

import pytest

from pipeline import day_chain
from pipeline.day_chain import Block, blocks_of, chain, days_after

DAYS = [date(2024, 5, number) for number in range(1, 7)]
ONE, TWO, THREE, FOUR, FIVE, SIX = DAYS
SIZES = dict.fromkeys(DAYS, 10)


def blocks(stale, states=(), ends=(FOUR,), sizes=SIZES):
    """Before and days of every block, as numbers."""
    found = blocks_of(DAYS, stale, lambda day: day in states, ends, sizes)
    return [(block.before and block.before.day, [day.day for day in block.days]) for block in found]


@pytest.mark.parametrize(
    ("stale", "states", "expected"),
    [
        ([], [], []),
        (DAYS, [], [(None, [1, 2, 3, 4]), (4, [5, 6])]),
        ([SIX], [FIVE], [(5, [6])]),
        ([SIX], [THREE], [(3, [4]), (4, [5, 6])]),
        ([FIVE], [FOUR], [(4, [5])]),
        # The state of a stale day itself, or of a later one, is of no use.
        ([FOUR], [TWO, FOUR, FIVE], [(2, [3, 4])]),
        ([ONE], [ONE], [(None, [1])]),
        # From the first stale day to the last one, whatever is between them.
        ([TWO, SIX], [ONE, FOUR], [(1, [2, 3, 4]), (4, [5, 6])]),
    ],
)
def test_blocks_cover_what_is_stale_from_the_latest_state_before_it(stale, states, expected):
    assert blocks(stale, states) == expected


def test_a_block_ends_when_it_is_large_enough(monkeypatch):
    monkeypatch.setattr(day_chain, "EVENTS_PER_BLOCK", 20)
    sizes = {ONE: 10, TWO: 9, THREE: 1, FOUR: 5, FIVE: 30, SIX: 0}
    expected = [(None, [1, 2, 3]), (3, [4]), (4, [5]), (5, [6])]
    assert blocks(DAYS, sizes=sizes) == expected


def test_blocks_know_where_they_start():
    assert list(blocks_of(DAYS, [ONE], lambda _: False, [], SIZES)) == [
        Block(before=None, days=(ONE,))
    ]


def changed_days(**changed):
    """Numbers of the days whose digest is another than before."""
    before = {"first": "f", "events": {day: str(day) for day in DAYS}, "last_training_day": FOUR}
    one, other = chain(**before), chain(**(before | changed))
    return [day.day for day in DAYS if one[day] != other[day]]


def test_a_day_is_what_it_and_all_before_it_were_made_from():
    events = {day: str(day) for day in DAYS}
    assert changed_days() == []
    assert changed_days(first="g") == [1, 2, 3, 4, 5, 6]
    assert changed_days(events=events | {THREE: "other"}) == [3, 4, 5, 6]
    # Days that training now reaches, or no longer, and those after them.
    assert changed_days(last_training_day=FIVE) == [5, 6]
    assert changed_days(last_training_day=TWO) == [3, 4, 5, 6]


def test_equal_days_have_digests_of_their_own():
    digests = chain("f", dict.fromkeys(DAYS, "same"), FOUR)
    assert len(set(digests.values())) == len(DAYS)


@pytest.mark.parametrize(
    ("num_days", "expected"), [(0, []), (1, [FIVE]), (2, [FIVE, SIX]), (9, [FIVE, SIX])]
)
def test_days_after(num_days, expected):
    assert days_after(dict.fromkeys(DAYS, ""), FOUR, num_days) == expected
