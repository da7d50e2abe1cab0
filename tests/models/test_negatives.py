import numpy as np
import torch

from models.negatives import UniformNegatives


def splitmix_reference(seed: int, step: int, rows: int, count: int) -> list[int]:
    """The same numbers with Python's integers."""
    mask = 2**64 - 1

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    key = mix(mix(seed) ^ step)
    bits = [mix((key + n * 0x9E3779B97F4A7C15) & mask) & (2**63 - 1) for n in range(1, count + 1)]
    return [b % (rows - 1) + 1 for b in bits]


def test_shared_negatives_are_splitmix64():
    draw = UniformNegatives(num_rows=1000, num_negatives=50, share="batch", seed=7)
    assert draw.draw(3, torch.tensor([4, 5]))[0].tolist() == splitmix_reference(7, 3, 1000, 50)


def test_a_sequence_draws_the_same_in_any_batch():
    draw = UniformNegatives(num_rows=1000, num_negatives=64, share="sequence", seed=7)
    together = draw.draw(3, torch.tensor([4, 5, 6]))
    assert together.shape == (3, 64)
    assert torch.equal(together[1], draw.draw(3, torch.tensor([5]))[0])
    assert not torch.equal(together[1], draw.draw(4, torch.tensor([5]))[0])
    assert not torch.equal(together[0], together[1])


def test_uniform_over_all_rows_but_the_unknown_one():
    draw = UniformNegatives(num_rows=11, num_negatives=100_000, share="batch", seed=1)
    counts = np.bincount(draw.draw(0, torch.tensor([0]))[0].numpy(), minlength=11)
    assert counts[0] == 0
    chi_squared = ((counts[1:] - 10_000) ** 2 / 10_000).sum()
    assert chi_squared < 27.9  # 0.1% point of 9 degrees of freedom
