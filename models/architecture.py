"""The shape of a Transformer, written as the paper writes it: `L4H64A4`."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from pipeline.settings import Settings

__all__ = ["Architecture", "ArchitectureSetting"]

_CODE = re.compile(r"L(\d+)H(\d+)A(\d+)")


class Architecture(Settings):
    """Layers, width and attention heads of a Transformer (paper, section 5.1: `LuHvAw`)."""

    num_layers: int = Field(ge=1)
    width: int = Field(ge=2)
    num_heads: int = Field(ge=1)

    @classmethod
    def parse(cls, code: str) -> "Architecture":
        """`"L4H64A4"` -> 4 layers, width 64, 4 heads.

        Raises:
            ValueError: not of the form `L<layers>H<width>A<heads>`, or the width does not divide.
        """
        match = _CODE.fullmatch(code)
        if not match:
            raise ValueError(f"expected L<layers>H<width>A<heads>, such as L4H64A4, got {code!r}")
        layers, width, heads = map(int, match.groups())
        return cls(num_layers=layers, width=width, num_heads=heads)

    @model_validator(mode="after")
    def _divides(self) -> "Architecture":
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 2 x {self.num_heads} heads "
                "(rotary position pairs)"
            )
        if self.width % 4:  # FBGEMM's tables have rows of whole groups of four numbers
            raise ValueError(f"width {self.width} must be a multiple of 4, as rows of tables are")
        return self

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads

    @property
    def feedforward_width(self) -> int:
        """Three times the width: the paper's dense counts leave no other choice."""
        return 3 * self.width

    @property
    def num_block_parameters(self) -> int:
        """L(13d^2 + 2d): attention 4d^2, SwiGLU 9d^2, two norms; the paper's dense counts."""
        return self.num_layers * (13 * self.width**2 + 2 * self.width)

    def __str__(self) -> str:
        return f"L{self.num_layers}H{self.width}A{self.num_heads}"


ArchitectureSetting = Annotated[
    Architecture,
    BeforeValidator(lambda value: Architecture.parse(value) if isinstance(value, str) else value),
]
"""A setting that takes a code such as "L4H64A4"."""
