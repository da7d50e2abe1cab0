import pytest

from models.architecture import Architecture
from models.transformer import Transformer

# Dense parameter counts of the paper's eight models, as printed there.
PAPER = {
    "L1H32A4": "13,376",
    "L4H32A4": "53,504",
    "L4H64A4": "213,504",
    "L4H128A4": "852,992",
    "L4H256A4": "3.41M",
    "L8H512A8": "27.3M",
    "L12H768A12": "92.0M",
    "L24H1024A16": "327.2M",
}


def as_printed(count: int, like: str) -> str:
    if not like.endswith("M"):
        return f"{count:,}"
    decimals = len(like[:-1].partition(".")[2])
    return f"{count / 1e6:.{decimals}f}M"


@pytest.mark.parametrize(("code", "printed"), PAPER.items())
def test_parameter_counts_are_the_papers(code, printed):
    architecture = Architecture.parse(code)
    assert as_printed(architecture.num_block_parameters, printed) == printed


@pytest.mark.parametrize("code", ["L1H32A4", "L4H64A4", "L8H512A8"])
def test_the_built_transformer_has_as_many(code):
    architecture = Architecture.parse(code)
    blocks = Transformer(architecture).blocks
    assert sum(p.numel() for p in blocks.parameters()) == architecture.num_block_parameters


def test_code_round_trips():
    assert str(Architecture.parse("L12H768A12")) == "L12H768A12"


@pytest.mark.parametrize("code", ["L4H64", "l4h64a4", "L0H64A4", "L4H66A4", "L4H12A4", "L4H64A4 "])
def test_a_bad_code_is_refused(code):
    with pytest.raises(ValueError):
        Architecture.parse(code)
