"""What the figures of the strategies say, in tables and in sentences computed from them.

The report and the terminal show the same rows and the same sentences. AUC is compared on the test
days; each strategy is one run with one seed, so the sentences say how much chance there is in it.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jobs.run_records import RunRecord, number
from jobs.strategies import Strategy

__all__ = [
    "auc_sampling_error",
    "baseline_sentence",
    "curve_rows",
    "headline_rows",
    "ordering_sentence",
    "text_table",
]

Row = tuple[str, ...]

NOT_KNOWN = "-"


def headline_rows(runs: Sequence[RunRecord]) -> list[Row]:
    """The main table, its header first: one row a run or baseline."""
    header = (
        "strategy",
        "val AUC",
        "val loss",
        "test AUC",
        "+/-",
        "test loss",
        "calibration",
        "samples/s",
    )
    return [header, *(_headline(run) for run in runs)]


def _headline(run: RunRecord) -> Row:
    return (
        run.name,
        _figure(run.measured("validation", "auc"), ".4f"),
        _figure(run.measured("validation", "log_loss"), ".4f"),
        _figure(run.measured("test", "auc"), ".4f"),
        _figure(run.measured("test", "auc_error"), ".5f"),
        _figure(run.measured("test", "log_loss"), ".4f"),
        _figure(run.measured("test", "calibration"), ".3f"),
        _figure(number(run.result.get("samples_per_s")), ",.0f"),
    )


def curve_rows(runs: Sequence[RunRecord]) -> list[Row]:
    """Where each run's validation AUC was best, where it ended, and training beside it."""
    header = ("strategy", "best validation AUC", "at epoch", "at the end", "training AUC then")
    return [header, *(_curve(run) for run in runs if run.lines("evaluation"))]


def _curve(run: RunRecord) -> Row:
    evaluations = run.lines("evaluation")
    best = max(evaluations, key=lambda line: number(line["auc"]))
    end = evaluations[-1]
    # Over the last half epoch: a single interval between two lines is noisy.
    training = [
        line["auc"]
        for line in run.lines("train")
        if line.get("auc") is not None and line["epoch"] > end["epoch"] - 0.5
    ]
    return (
        run.name,
        _figure(number(best["auc"]), ".4f"),
        _figure(best["epoch"], ".2f"),
        _figure(number(end["auc"]), ".4f"),
        _figure(_mean(training), ".4f"),
    )


def text_table(rows: Sequence[Row]) -> str:
    """The rows as plain text, columns aligned, a line under the header."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


class _Group(NamedTuple):
    """Strategies that the paper puts together, with the test AUC of those that were run."""

    title: str
    belongs: Callable[[Strategy], bool]
    aucs: dict[str, float]

    @property
    def figures(self) -> str:
        """The group and its AUCs, each with its strategy unless that is the group."""
        named = {name: "" if name == self.title else f"{name} " for name in self.aucs}
        return f"{self.title} ({', '.join(f'{named[n]}{a:.4f}' for n, a in self.aucs.items())})"


def ordering_sentence(runs: Sequence[RunRecord]) -> str:
    """Whether the paper's ordering, frozen over not frozen over NT, shows in the test AUC."""
    groups = _groups(runs)
    missing = [group.title for group in groups if not group.aucs]
    if missing:
        return f"The paper's ordering cannot be judged: no test AUC of {' and '.join(missing)}."
    frozen, moving, fresh = groups
    figures = "; ".join(group.figures for group in groups)
    steps = [_compare(frozen, moving), _compare(moving, fresh)]
    if all(step.holds_for_all for step in steps):
        verdict = (
            "The paper's ordering, frozen > not frozen > NT, is visible on this data. "
            f"Test AUC: {figures}."
        )
    else:
        said = "; ".join(step.sentence for step in steps)
        verdict = (
            "The paper's ordering, frozen > not frozen > NT, is not fully visible on this data: "
            f"{said}. Test AUC: {figures}."
        )
    return f"{verdict} {_chance_sentence(runs, min(abs(step.gap) for step in steps))}"


class _Comparison(NamedTuple):
    holds_for_all: bool
    # Between the groups' nearest members where it holds for all, else between their best.
    gap: float
    sentence: str


def _compare(upper: _Group, lower: _Group) -> _Comparison:
    """Whether all, the best only, or not even the best of `upper` is above `lower`."""
    nearest = min(upper.aucs.values()) - max(lower.aucs.values())
    best = max(upper.aucs.values()) - max(lower.aucs.values())
    if nearest > 0:
        said = f"every {upper.title} model is above {lower.title} (by {nearest:.4f} or more)"
        return _Comparison(True, nearest, said)
    if best > 0:
        said = (
            f"the best {upper.title} model is above the best of {lower.title} (by {best:.4f}), "
            "but not every one is"
        )
        return _Comparison(False, best, said)
    return _Comparison(False, best, f"{upper.title} is not above {lower.title} (by {best:.4f})")


def _groups(runs: Sequence[RunRecord]) -> list[_Group]:
    """Frozen, not frozen, NT: with the runs that have a test AUC."""
    groups = [
        _Group("frozen", lambda strategy: strategy.freezes_tables, {}),
        _Group("not frozen", lambda s: s.transfers_tables and not s.freezes_tables, {}),
        _Group("NT", lambda strategy: strategy is Strategy.NT, {}),
    ]
    measured = {run.name: run.measured("test", "auc") for run in runs}
    for strategy in Strategy:
        auc = measured.get(strategy.value, math.nan)
        for group in groups:
            if group.belongs(strategy) and not math.isnan(auc):
                group.aucs[strategy.value] = auc
    return groups


def _chance_sentence(runs: Sequence[RunRecord], smallest_gap: float) -> str:
    error = max(_run_sampling_error(run) for run in runs)
    if math.isnan(error):
        return "Each strategy is one run with one seed."
    judged = "more than" if smallest_gap > 3 * error else "not more than"
    return (
        f"Each strategy is one run with one seed; the standard error of one such AUC is about "
        f"{error:.4f} from the number of samples alone, and the smallest of these gaps, "
        f"{smallest_gap:.4f}, is {judged} three of them."
    )


def _run_sampling_error(run: RunRecord) -> float:
    num_positives = number((run.result.get("test") or {}).get("num_positives"))
    num_samples = number((run.result.get("test") or {}).get("num_samples"))
    return auc_sampling_error(run.measured("test", "auc"), num_positives, num_samples)


def auc_sampling_error(auc: float, num_positives: float, num_samples: float) -> float:
    """Standard error of an AUC of independent samples; NaN without both classes.

    Hanley and McNeil 1982, equation 1. Candidates of one request are not independent, so the true
    error is larger; two models on the same samples differ by less than two such errors suggest.
    """
    num_negatives = num_samples - num_positives
    if not (num_positives > 0 and num_negatives > 0) or math.isnan(auc):
        return math.nan
    both_positives = auc / (2 - auc)
    both_negatives = 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc)
    variance += (num_positives - 1) * (both_positives - auc**2)
    variance += (num_negatives - 1) * (both_negatives - auc**2)
    return math.sqrt(variance / (num_positives * num_negatives))


def baseline_sentence(runs: Sequence[RunRecord], baselines: Sequence[RunRecord]) -> str:
    """How the trained models stand against the best ranking that needs no training."""
    rows = [(run.measured("test", "auc"), run.name) for run in baselines]
    known = [row for row in rows if not math.isnan(row[0])]
    trained = [(run.measured("test", "auc"), run.name) for run in runs]
    trained = [row for row in trained if not math.isnan(row[0])]
    if not known or not trained:
        return "Trained models and baselines cannot be compared: one of them has no test AUC."
    (bar, bar_name), (best, best_name) = max(known), max(trained)
    num_above = sum(auc > bar for auc, _ in trained)
    return (
        f"Without any training, {bar_name} reaches a test AUC of {bar:.4f}; above it: "
        f"{num_above or 'none'} of {len(trained)} trained models. The best of them, {best_name}, "
        f"is at {best:.4f} ({best - bar:+.4f})."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _figure(value: float, form: str) -> str:
    return NOT_KNOWN if math.isnan(value) else format(value, form)
