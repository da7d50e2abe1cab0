# ruff: noqa: INP001 (read by build.py, not a package)
"""What a panel of the dashboard is, and the expressions that panels are made of.

panels --> overview, training, data_tables --> build --> frostrank.json
"""

from dataclasses import dataclass

__all__ = [
    "BY",
    "CHOSEN",
    "Panel",
    "Query",
    "last",
    "of",
    "quantile",
    "rate",
    "training",
]

# Stages that are about no task stay, whichever task is chosen.
CHOSEN = 'task=~"$task|"'
BY = "by (stage, task)"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression; its curves are named after `legend`."""

    expr: str
    legend: str = "{{stage}} {{task}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; `width` is of 24, `limit` is where a value turns red."""

    title: str
    text: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    limit: float | None = None
    states: dict[int, tuple[str, str]] | None = None


def last(metric: str, selector: str = CHOSEN) -> str:
    """A figure of the stages' last runs, once, though it may come by two ways."""
    return f"max {BY} (frostrank_{metric}{{{selector}}})"


def of(stage: str) -> str:
    """A selector of one stage, and of the tasks chosen."""
    return f'stage="{stage}", {CHOSEN}'


def rate(counter: str) -> str:
    """A counter of training, per second, over all ranks."""
    return f"sum {BY} (rate(frostrank_training_{counter}{{{CHOSEN}}}[$__rate_interval]))"


def quantile(share: float) -> str:
    """A quantile of the step time."""
    buckets = rate("step_seconds_bucket").replace(BY, "by (stage, task, le)")
    return f"histogram_quantile({share}, {buckets})"


def training(metric: str) -> tuple[Query, ...]:
    """A gauge of what trains now."""
    return (Query(f"max {BY} (frostrank_training_{metric}{{{CHOSEN}}})"),)
