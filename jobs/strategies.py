"""The five ways to bridge pretraining and ranking (paper, table 2).

        tables                       dense layers
NT      random                       random
FT      from pretraining             from pretraining
ST      from pretraining             random
FT&SF   from pretraining, frozen     from pretraining
ST&SF   from pretraining, frozen     random
"""

from enum import Enum

__all__ = ["Strategy"]


class Strategy(Enum):
    """A strategy by its name in the paper."""

    NT = "NT"
    FT = "FT"
    ST = "ST"
    FT_SF = "FT&SF"
    ST_SF = "ST&SF"

    @property
    def transfers_tables(self) -> bool:
        """Whether tables start from the export."""
        return self is not Strategy.NT

    @property
    def freezes_tables(self) -> bool:
        """Whether transferred tables stay as they are."""
        return self in (Strategy.FT_SF, Strategy.ST_SF)

    @property
    def transfers_dense(self) -> bool:
        """Whether the Transformer starts from the export."""
        return self in (Strategy.FT, Strategy.FT_SF)

    @property
    def folder_name(self) -> str:
        """The name without characters that shells care about."""
        return self.name
