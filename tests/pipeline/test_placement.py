"""Placement as tables of numbers: every row once, the same steps at any world size, resume."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.placement import (
    Segment,
    epoch_order,
    lane_range,
    lane_segments,
    lanes_of_rank,
    row_permutation,
    segments_by_step,
    steps_per_epoch,
)

ROW_GROUPS = {
    "none": [],
    "empty": [0, 0],
    "one row": [1],
    "fewer rows than lanes": [2, 1],
    "even": [16, 16, 16, 16],
    "uneven": [5, 0, 31, 1, 12, 7],
    "one large": [97],
}


def flat(steps):
    return list(itertools.chain.from_iterable(steps))


def lane_steps(row_group_rows, *, lanes, lane, batch_size, seed, epoch=0, first_step=0):
    """The row ids a lane gives at each step from `first_step`."""
    rows = np.array(row_group_rows, dtype=np.int64)
    starts = np.cumsum(rows) - rows
    segments = lane_segments(
        rows,
        epoch_order(len(rows), seed, epoch),
        lanes=lanes,
        lane=lane,
        batch_size=batch_size,
        first_step=first_step,
    )
    return [
        [
            int(starts[group] + offset)
            for group, first, last in step
            for offset in row_permutation(int(rows[group]), seed, epoch, group)[first:last]
        ]
        for step in segments_by_step(segments, batch_size // lanes)
    ]


def rank_steps(row_group_rows, *, lanes, world_size, rank, batch_size, seed, first_step=0):
    """The row ids a rank gives at each step from `first_step`, padded with empty steps."""
    of_lanes = [
        lane_steps(
            row_group_rows,
            lanes=lanes,
            lane=lane,
            batch_size=batch_size,
            seed=seed,
            first_step=first_step,
        )
        for lane in lanes_of_rank(lanes, world_size, rank)
    ]
    num_steps = steps_per_epoch(sum(row_group_rows), lanes, batch_size) - first_step
    joined = [flat(step) for step in itertools.zip_longest(*of_lanes, fillvalue=[])]
    assert len(joined) <= num_steps
    return joined + [[]] * (num_steps - len(joined))


def global_steps(row_group_rows, *, world_size, **options):
    """The set of row ids of each step, over all ranks."""
    ranks = [
        rank_steps(row_group_rows, world_size=world_size, rank=rank, **options)
        for rank in range(world_size)
    ]
    return [sorted(flat(step)) for step in zip(*ranks, strict=True)]


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize("batch_per_lane", [1, 3])
@pytest.mark.parametrize("lanes", [1, 2, 8])
@pytest.mark.parametrize("row_group_rows", ROW_GROUPS.values(), ids=ROW_GROUPS.keys())
def test_each_row_once_and_same_steps_at_any_world_size(
    row_group_rows, lanes, batch_per_lane, seed
):
    options = {"lanes": lanes, "batch_size": lanes * batch_per_lane, "seed": seed}
    alone = global_steps(row_group_rows, world_size=1, **options)
    assert sorted(flat(alone)) == list(range(sum(row_group_rows)))
    for world_size in range(2, lanes + 1):
        assert global_steps(row_group_rows, world_size=world_size, **options) == alone


@pytest.mark.parametrize("world_sizes", [(1, 2), (2, 1), (4, 3), (3, 8)])
@pytest.mark.parametrize("row_group_rows", ROW_GROUPS.values(), ids=ROW_GROUPS.keys())
def test_resume_on_another_world_size_gives_exactly_the_rest(row_group_rows, world_sizes):
    options = {"lanes": 8, "batch_size": 16, "seed": 3}
    before, after = world_sizes
    whole = global_steps(row_group_rows, world_size=before, **options)
    for step in range(len(whole) + 1):
        rest = global_steps(row_group_rows, world_size=after, first_step=step, **options)
        assert rest == whole[step:]


@given(
    row_group_rows=st.lists(st.integers(0, 40), max_size=12),
    lanes=st.integers(1, 9),
    batch_per_lane=st.integers(1, 6),
    world_size=st.integers(1, 9),
    seed=st.none() | st.integers(0, 2**40),
    data=st.data(),
)
@settings(max_examples=60)
def test_any_numbers(row_group_rows, lanes, batch_per_lane, world_size, seed, data):
    world_size = min(world_size, lanes)
    options = {"lanes": lanes, "batch_size": lanes * batch_per_lane, "seed": seed}
    whole = global_steps(row_group_rows, world_size=1, **options)
    assert sorted(flat(whole)) == list(range(sum(row_group_rows)))
    step = data.draw(st.integers(0, len(whole)))
    rest = global_steps(row_group_rows, world_size=world_size, first_step=step, **options)
    assert rest == whole[step:]


def test_only_the_last_step_is_short():
    sizes = [len(s) for s in global_steps([5, 31, 8], world_size=2, lanes=4, batch_size=8, seed=1)]
    assert sizes == [8, 8, 8, 8, 8, 4]


@pytest.mark.parametrize("num_rows", [0, 1, 7, 8, 9, 1000, 10**12 + 1])
@pytest.mark.parametrize("lanes", [1, 3, 8, 64])
def test_lanes_are_balanced_to_one_row(num_rows, lanes):
    ranges = [lane_range(num_rows, lanes, lane) for lane in range(lanes)]
    sizes = [last - first for first, last in ranges]
    assert max(sizes) - min(sizes) <= 1
    assert ranges[0][0] == 0
    assert ranges[-1][1] == num_rows
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))


def test_lanes_of_ranks_are_dealt_round():
    assert [list(lanes_of_rank(8, 3, rank)) for rank in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_more_ranks_than_lanes_is_an_error():
    with pytest.raises(ConfigError, match=r"reader\.lanes: 8 lanes cannot feed 9 ranks"):
        lanes_of_rank(8, 9, 0)


@pytest.mark.parametrize(
    ("num_rows", "lanes", "batch_size", "expected"),
    [(0, 8, 16, 0), (1, 8, 16, 1), (16, 8, 16, 1), (17, 8, 16, 2), (10**9, 8, 512, 1953125)],
)
def test_steps_per_epoch(num_rows, lanes, batch_size, expected):
    assert steps_per_epoch(num_rows, lanes, batch_size) == expected


def test_a_billion_rows_are_planned_from_their_row_groups():
    rows = np.full(100_000, 10_000)
    order = epoch_order(len(rows), 0, 0)
    segments = lane_segments(rows, order, lanes=8, lane=7, batch_size=512, first_step=1_953_000)
    assert sum(last - first for _, first, last in segments) == 125 * 64
    assert segments == [Segment(int(order[-1]), 2_000, 10_000)]


def test_orders_are_permutations_that_differ_by_seed_epoch_and_row_group():
    orders = [
        epoch_order(50, 0, 0),
        epoch_order(50, 1, 0),
        epoch_order(50, 0, 1),
        *(
            row_permutation(50, seed, epoch, group)
            for seed in (0, 1)
            for epoch in (0, 1)
            for group in (0, 1)
        ),
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)


def test_orders_never_change():
    # A run that resumes under a later release of this project or of NumPy must meet these.
    assert epoch_order(8, 5, 2).tolist() == [4, 3, 2, 0, 5, 1, 6, 7]
    assert row_permutation(8, 5, 2, 3).tolist() == [5, 2, 4, 3, 1, 0, 7, 6]


def test_without_a_seed_rows_keep_their_order():
    assert lane_steps([3, 4], lanes=2, lane=1, batch_size=4, seed=None) == [[3, 4], [5, 6]]
