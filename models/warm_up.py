"""Compiles, once, all that numba compiles for the processor: `python -m models.warm_up`.

Otherwise every process that starts before one of them is done compiles the same (half a minute).
"""

import torch

from models.architecture import Architecture
from models.rows import Rows
from models.transformer import Transformer

__all__ = ["main"]

# The smallest that the compiled code is for.
_ARCHITECTURE = Architecture.parse("L2H32A2")
_HISTORIES, _CANDIDATES = torch.tensor([0, 3, 8]), torch.tensor([0, 2, 4])


def main() -> None:
    """Go through a Transformer and back, with and without candidates, in both precisions."""
    model = Transformer(_ARCHITECTURE)
    for is_bf16 in (False, True):
        for candidates in (None, _CANDIDATES):
            rows = Rows.build(_HISTORIES, candidates)
            num_tokens = int(_HISTORIES[-1]) + (0 if candidates is None else int(candidates[-1]))
            hidden = torch.zeros(num_tokens, _ARCHITECTURE.width, requires_grad=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                model(hidden, rows).sum().backward()


if __name__ == "__main__":
    main()
