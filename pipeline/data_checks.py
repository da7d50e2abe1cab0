"""Thresholds on a day's figures, `[checks]` of the config, and which of them a day breaks.

DayProfile, Comparison, counts of requests -> Violations -> `data_report` stops the day
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.data_drift import Comparison
from pipeline.data_profile import DayProfile
from pipeline.errors import ConfigError
from pipeline.schema import FeatureSettings
from pipeline.settings import Settings

__all__ = [
    "NO_CHECKS",
    "DataCheckSettings",
    "Violation",
    "check_names",
    "events_violations",
    "requests_violations",
]

Share = Annotated[float, Field(ge=0, le=1)]


class DataCheckSettings(Settings):
    """What a day must fulfil to be published; checked when it is made. Unset: not checked."""

    # Events that a day keeps at least; a day that `source.missing_days` allows to miss is exempt.
    min_rows: int = Field(default=0, ge=0)
    # Feature -> share of events in which it may be null.
    max_null_share: dict[str, Share] = Field(default={})
    # By how much of the earlier day's events the number may differ, up or down: 0.5 is by half.
    max_rows_change: float | None = Field(default=None, ge=0)
    # Jensen-Shannon divergence of actions from the earlier day's, 0 to 1.
    max_action_drift: Share | None = None
    # The same of features' values: one bound for all features, or feature -> bound.
    max_value_drift: Share | dict[str, Share] | None = None
    # The actions that are expected; empty: any.
    actions: tuple[str, ...] = ()
    # Share of events that may have others than those.
    max_unknown_action_share: Share = 0.0
    # Share of requests' candidates that were not known when the day began.
    max_new_item_share: Share | None = None
    # Task -> lowest and highest share of positives among the labels that apply.
    label_rate: dict[str, tuple[Share, Share]] = Field(default={})

    @model_validator(mode="after")
    def _in_order(self) -> "DataCheckSettings":
        for task, (low, high) in self.label_rate.items():
            if low > high:
                raise ValueError(f"checks.label_rate.{task}: {low} is above {high}; swap them")
        return self

    def value_drift_bounds(self, features: Sequence[str]) -> dict[str, float]:
        """Feature -> the drift it may have, for those that are checked."""
        bounds = self.max_value_drift
        if bounds is None or isinstance(bounds, dict):
            return dict(bounds or {})
        return dict.fromkeys(features, bounds)


NO_CHECKS = DataCheckSettings()


class Violation(Settings):
    """One threshold that a day breaks."""

    check: str
    """the setting, with its dotted path"""
    figure: float
    threshold: float
    text: str
    """what is wrong, in words that name figure, threshold and setting"""


def check_names(checks: DataCheckSettings, features: Sequence[FeatureSettings]) -> None:
    """Raise ConfigError where a check names a feature that is not declared."""
    known = [feature.name for feature in features]
    bounds = {
        "max_null_share": checks.max_null_share,
        "max_value_drift": checks.value_drift_bounds(known),
    }
    for setting, named in bounds.items():
        for name in named:
            if name not in known:
                raise ConfigError(
                    f"checks.{setting}.{name}: no such feature; known: {', '.join(known)}"
                )


def events_violations(
    profile: DayProfile, earlier: Comparison | None, checks: DataCheckSettings
) -> tuple[Violation, ...]:
    """The thresholds that a day's events break."""
    found = list(_of_one_day(profile, checks))
    if earlier is not None:
        found += _of_two_days(earlier, checks)
    return tuple(found)


def _of_one_day(profile: DayProfile, checks: DataCheckSettings) -> Iterator[Violation]:
    if profile.rows < checks.min_rows:
        yield _violation("min_rows", profile.rows, checks.min_rows, "events kept", above=False)
    if not profile.rows:
        return
    for name, bound in checks.max_null_share.items():
        share = profile.features[name].nulls / profile.rows
        if share > bound:
            what = f"of the events have no {name}"
            yield _violation(f"max_null_share.{name}", share, bound, what)
    unknown = profile.unknown_action_rows / profile.rows
    if checks.actions and unknown > checks.max_unknown_action_share:
        others = [name for name in profile.actions.top if name not in checks.actions]
        what = f"of the events have actions that checks.actions does not name ({_some(others)})"
        yield _violation("max_unknown_action_share", unknown, checks.max_unknown_action_share, what)


def _of_two_days(earlier: Comparison, checks: DataCheckSettings) -> Iterator[Violation]:
    since = f"from day {earlier.day}"
    bound = checks.max_rows_change
    if bound is not None and abs(earlier.rows_change) > bound:
        direction = "more" if earlier.rows_change > 0 else "fewer"
        what = f"change in the number of events {since} ({direction})"
        yield _violation("max_rows_change", abs(earlier.rows_change), bound, what)
    bound, drift = checks.max_action_drift, earlier.action_drift
    if bound is not None and drift is not None and drift > bound:
        yield _violation("max_action_drift", drift, bound, f"drift of the action mix {since}")
    one_for_all = not isinstance(checks.max_value_drift, dict)
    for name, bound in checks.value_drift_bounds([*earlier.value_drift]).items():
        drift = earlier.value_drift.get(name, 0.0)
        if drift > bound:
            setting = "max_value_drift" if one_for_all else f"max_value_drift.{name}"
            yield _violation(setting, drift, bound, f"drift of the values of {name} {since}")


def requests_violations(
    label_rates: Mapping[str, float | None],
    new_item_share: float | None,
    checks: DataCheckSettings,
) -> tuple[Violation, ...]:
    """The thresholds that a day's requests break.

    Where no label of a task applies its rate is null, which is as good as none being positive.

    Raises:
        ConfigError: a check names a task that there is not.
    """
    found: list[Violation] = []
    for task, (low, high) in checks.label_rate.items():
        if task not in label_rates:
            known = ", ".join(label_rates)
            raise ConfigError(f"checks.label_rate.{task}: no such task; known: {known}")
        rate = label_rates[task] or 0.0
        if not low <= rate <= high:
            what = f"of the labels of {task} are positive"
            bound = low if rate < low else high
            found.append(_violation(f"label_rate.{task}", rate, bound, what, above=rate > high))
    bound = checks.max_new_item_share
    if bound is not None and new_item_share is not None and new_item_share > bound:
        what = "of the candidates are items that were not known when the day began"
        found.append(_violation("max_new_item_share", new_item_share, bound, what))
    return tuple(found)


def _violation(
    name: str, figure: float, threshold: float, what: str, *, above: bool = True
) -> Violation:
    side = "more" if above else "less"
    text = f"{figure:.6g} {what}, {side} than checks.{name} = {threshold:.6g} allows"
    return Violation(check=f"checks.{name}", figure=figure, threshold=threshold, text=text)


def _some(names: Sequence[str], shown: int = 5) -> str:
    more = ["..."] if len(names) > shown else []
    return ", ".join([*(repr(name) for name in names[:shown]), *more])
