import itertools

import pytest

from jobs.schedule import learning_rate_factor


def test_warms_up_linearly_then_falls_to_a_tenth():
    factors = [learning_rate_factor(s, warmup_steps=10, total_steps=110) for s in range(110)]
    assert factors[:10] == pytest.approx([0.1 * s for s in range(1, 11)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.55)  # half way down the cosine
    assert factors[-1] == pytest.approx(0.1, abs=1e-3)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_never_below_a_tenth_after_the_end():
    assert learning_rate_factor(500, warmup_steps=0, total_steps=100) == pytest.approx(0.1)


def test_constant_stays_at_the_peak_after_warm_up():
    factors = [
        learning_rate_factor(s, warmup_steps=4, total_steps=20, schedule="constant")
        for s in range(30)
    ]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(factors[4:]) == {1.0}


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_run_of_one_step_without_warm_up_trains_at_the_peak(schedule):
    assert learning_rate_factor(0, warmup_steps=0, total_steps=1, schedule=schedule) == 1.0
