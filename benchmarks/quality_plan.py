"""What `benchmarks.quality` runs: the data sets, and variants that differ from the base in one way.

A variant is some overrides of the data set's config, the strategies that it is tried with, and
whether it pretrains or takes what another variant pretrained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.strategies import Strategy
from pipeline.errors import ConfigError

__all__ = ["BASE", "DATA_SETS", "DataSet", "Variant", "asked_strategies", "chosen_variants"]

BASE = "base"
EVERY = tuple(Strategy)
PRETRAINED = tuple(strategy for strategy in Strategy if strategy != Strategy.NT)
COMPARED = (Strategy.NT, Strategy.FT_SF, Strategy.ST_SF)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to pretrain and rank."""

    overrides: tuple[str, ...] = ()
    strategies: tuple[Strategy, ...] = EVERY
    pretrained_by: str | None = None
    """the variant whose tables it takes; None: it pretrains itself"""
    tested_by_epoch: bool = False
    """as the authors do: no validation users, and test AUC after every epoch"""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A config, and what is tried on it."""

    title: str
    config: Path
    variants: Mapping[str, Variant]


_ARITHMETIC = {
    "negatives of each sequence": Variant(
        overrides=("pretraining.softmax.share_negatives=sequence",), strategies=PRETRAINED
    ),
    "bf16": Variant(
        overrides=(
            "pretraining.training.precision=bf16",
            "ranking.training.precision=bf16",
        )
    ),
    "FP16 tables": Variant(overrides=("embeddings.dtype=fp16",)),
    "AdamW tables": Variant(
        overrides=("embeddings.optimizer=adamw", "embeddings.learning_rate=5e-3")
    ),
}
# Days 02 and 03 are all users that are no test users, 04 and 05 both the test users.
_AUTHORS = (
    'days.ranking=["2024-01-02", "2024-01-03"]',
    'days.validation=["2024-01-04", "2024-01-04"]',
    'days.test=["2024-01-05", "2024-01-05"]',
    "ranking.training.epochs=10",
)
DATA_SETS = {
    "beauty": DataSet(
        title="Amazon Beauty, 22,363 users",
        config=Path("deploy/configs/beauty.toml"),
        variants={
            BASE: Variant(),
            "authors' protocol": Variant(
                overrides=_AUTHORS,
                strategies=COMPARED,
                pretrained_by=BASE,
                tested_by_epoch=True,
            ),
            "tables at rate 0.2": Variant(
                overrides=("embeddings.learning_rate=0.2",), strategies=COMPARED
            ),
            **_ARITHMETIC,
        },
    ),
    "complete_journey": DataSet(
        title="Complete Journey, 2,469 households",
        config=Path("deploy/configs/complete_journey.toml"),
        variants={
            BASE: Variant(),
            "tables at rate 0.2": Variant(
                overrides=("embeddings.learning_rate=0.2",), strategies=COMPARED
            ),
            **_ARITHMETIC,
        },
    ),
}


def chosen_variants(data: DataSet, only: str | None) -> dict[str, Variant]:
    """The variants whose name has `only` in it, all without it, and those that they build on.

    Raises:
        ConfigError: there is none.
    """
    names = [name for name in data.variants if only is None or only in name]
    if not names:
        raise ConfigError(f"--only {only!r}: no such variant; known: {', '.join(data.variants)}")
    needed = {*names, *(data.variants[name].pretrained_by for name in names)}
    return {name: variant for name, variant in data.variants.items() if name in needed}


def asked_strategies(variant: Variant, names: Sequence[str]) -> tuple[Strategy, ...]:
    """Those of the variant that are named, all where none is named.

    Raises:
        ConfigError: no strategy has such a name.
    """
    known = {strategy.value: strategy for strategy in Strategy}
    for name in names:
        if name not in known:
            raise ConfigError(f"--strategies {name!r}: unknown; known: {', '.join(known)}")
    return tuple(s for s in variant.strategies if not names or s.value in names)
