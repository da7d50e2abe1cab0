import pytest

from jobs.strategies import Strategy


@pytest.mark.parametrize(
    ("name", "transfers", "freezes", "dense"),
    [
        ("NT", False, False, False),
        ("FT", True, False, True),
        ("ST", True, False, False),
        ("FT&SF", True, True, True),
        ("ST&SF", True, True, False),
    ],
)
def test_the_papers_table(name, transfers, freezes, dense):
    strategy = Strategy(name)
    assert strategy.transfers_tables == transfers
    assert strategy.freezes_tables == freezes
    assert strategy.transfers_dense == dense
