"""What `benchmarks.quality` found: AUC by variant, strategy and seed, and the tables it prints.

Spread is the standard deviation over seeds. A gap is against the same strategy and seed of the
base, so that what a seed does to both cancels out.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from jobs.strategies import Strategy

__all__ = ["Found", "by_epoch_table", "summary", "validated_table"]

Found = Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]
"""variant -> strategy -> seed -> {"auc": test AUC, "by_epoch": AUC after each epoch}"""


def summary(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation; None of a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def gaps(found: Found, base: str, variant: str, strategy: str) -> list[float]:
    """The variant's AUC less the base's, seed by seed, where both are there."""
    mine = found[variant][strategy]
    theirs = found.get(base, {}).get(strategy, {})
    return [mine[seed]["auc"] - theirs[seed]["auc"] for seed in mine if seed in theirs]


def validated_table(found: Found, base: str) -> str:
    """Test AUC at the best validation: a line a variant, then a line with its gap to the base."""
    names = [strategy.value for strategy in Strategy]
    lines = [f"{'':28}" + "".join(f"{name:>18}" for name in names) + "  seeds"]
    for variant, strategies in found.items():
        cells = {name: _aucs(strategies.get(name, {})) for name in names}
        num_seeds = max(len(values) for values in cells.values())
        line = "".join(f"{_cell(cells[name], signed=False):>18}" for name in names)
        lines.append(f"{variant:28}{line}{num_seeds:>7}")
        if variant == base:
            continue
        apart = [gaps(found, base, variant, n) if n in strategies else [] for n in names]
        if any(apart):
            line = "".join(f"{_cell(values, signed=True):>18}" for values in apart)
            lines.append(f"{'  against ' + base:28}{line}")
    return "\n".join(line.rstrip() for line in lines)


def by_epoch_table(found: Found) -> str:
    """Test AUC of the best epoch and of the last one, and the mean after each epoch."""
    lines = [f"{'':44}{'best of epochs':>18}{'last epoch':>18}  seeds  mean by epoch"]
    for variant, strategies in found.items():
        for strategy, seeds in strategies.items():
            curves = [run["by_epoch"] for run in seeds.values()]
            best = _cell([max(curve) for curve in curves], signed=False)
            last = _cell([curve[-1] for curve in curves], signed=False)
            means = " ".join(f"{fmean(epoch):.3f}" for epoch in zip(*curves, strict=True))
            title = f"{variant}, {strategy}"
            lines.append(f"{title:44}{best:>18}{last:>18}{len(curves):>7}  {means}")
    return "\n".join(line.rstrip() for line in lines)


def _aucs(seeds: Mapping[int, Mapping[str, Any]]) -> list[float]:
    return [run["auc"] for run in seeds.values()]


def _cell(values: Sequence[float], *, signed: bool) -> str:
    """Mean and spread as text; nothing of no values."""
    if not values:
        return "-"
    mean, spread = summary(values)
    text = f"{mean:+.4f}" if signed else f"{mean:.4f}"
    return f"{text} {spread:.4f}" if spread is not None else text
