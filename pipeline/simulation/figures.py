"""What is known of a simulated log: its counts, and the AUC of the truth and of cheap rankings.

The oracle is the probability that a label was drawn with. Labels are drawn independently given
these, so no ranking has a higher AUC in expectation, whatever it knows.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Literal

import numpy as np

from pipeline.settings import Settings
from pipeline.simulation.areas import Area, WithinArea
from pipeline.simulation.baselines import Baselines
from pipeline.simulation.catalogue import Catalogue
from pipeline.simulation.draws import Floats, Ints
from pipeline.simulation.impressions import Impressions
from pipeline.simulation.marketplace import SimulationSettings
from pipeline.simulation.traffic import DAY_US

__all__ = ["NO_POSITION", "ORACLE", "Figures", "SpanFigures", "Summary", "TaskFigures"]

ORACLE = "oracle"
NO_POSITION = "oracle without position"
QUANTILES = {"10%": 0.1, "median": 0.5, "90%": 0.9, "99%": 0.99}


class SpanFigures(Settings):
    """One task over some days; None where there were no two classes to tell apart."""

    first_day: date
    last_day: date
    num_samples: int
    num_positives: int
    expected_positives: float
    """sum of the probabilities"""
    oracle_auc: float | None
    auc: dict[str, float | None]
    """of the oracle and of the baselines, over all samples"""
    auc_within_request: dict[str, float | None]
    """of pairs of one request"""


class TaskFigures(Settings):
    """One task; None where the log ends before the first window does."""

    candidates: Literal["impressions", "clicks"]
    window_days: int | None
    all_days: SpanFigures | None
    last_days: SpanFigures | None


class Summary(Settings):
    """`truth/summary.json`."""

    simulated: Literal[True] = True
    settings: SimulationSettings
    counts: dict[str, int]
    clicks_per_item: dict[str, float]
    clicks_per_user: dict[str, float]
    tasks: dict[str, TaskFigures]


class _Span:
    """One task over some days, while they are simulated."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self._num_samples = self._num_positives = 0
        self._expected = 0.0
        self._areas: dict[str, Area] = {}
        self._within: dict[str, WithinArea] = {}

    def update(
        self,
        day: int,
        scores: Mapping[str, Floats],
        positive_M: np.ndarray,
        request_M: Ints | None,
    ) -> None:
        """Take in samples of a day; `request_M` only where requests have several of them."""
        if not self.first <= day <= self.last:
            return
        self._num_samples += len(positive_M)
        self._num_positives += int(positive_M.sum())
        self._expected += float(scores[ORACLE].sum(dtype=np.float64))
        for name, score_M in scores.items():
            self._areas.setdefault(name, Area()).update(score_M, positive_M)
            if request_M is not None:
                within = self._within.setdefault(name, WithinArea())
                within.update(score_M, positive_M, request_M)

    def result(self, start: date) -> SpanFigures | None:
        """The figures, None if no day was in the span."""
        if not self._areas:
            return None
        auc = {name: area.result() for name, area in self._areas.items()}
        return SpanFigures(
            first_day=start + timedelta(days=self.first),
            last_day=start + timedelta(days=self.last),
            num_samples=self._num_samples,
            num_positives=self._num_positives,
            expected_positives=self._expected,
            oracle_auc=auc[ORACLE],
            auc=auc,
            auc_within_request={name: area.result() for name, area in self._within.items()},
        )


class _Task:
    """One task, over all days whose windows end within the log and over the last of them."""

    def __init__(self, settings: SimulationSettings, window_days: int | None) -> None:
        last = settings.days - 1 - (window_days or 0)
        self._start, self._window_days = settings.first_day, window_days
        self._spans = [_Span(0, last), _Span(max(0, last - settings.last_days + 1), last)]

    def update(
        self,
        day: int,
        scores: Mapping[str, Floats],
        positive_M: np.ndarray,
        request_M: Ints | None = None,
    ) -> None:
        for span in self._spans:
            span.update(day, scores, positive_M, request_M)

    def result(self) -> TaskFigures:
        all_days, last_days = (span.result(self._start) for span in self._spans)
        return TaskFigures(
            candidates="clicks" if self._window_days else "impressions",
            window_days=self._window_days,
            all_days=all_days,
            last_days=last_days,
        )


class Figures:
    """Takes in the marketplace's blocks in their order."""

    def __init__(self, settings: SimulationSettings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._launched = catalogue.launch_day
        self._baselines = Baselines(catalogue, settings.users, settings.ranker.slots)
        self._windows = {
            "cart": settings.conversions.cart_window_days,
            "cvr": settings.conversions.purchase_window_days,
        }
        self._tasks = {
            task: _Task(settings, self._windows.get(task)) for task in ("ctr", "cart", "cvr")
        }

    def update(self, shown: Impressions) -> None:
        """Take in a block."""
        scores = self._baselines.scores(shown)
        truth = {ORACLE: shown.p_click, NO_POSITION: shown.p_click / shown.seen}
        self._tasks["ctr"].update(shown.day, truth | scores, shown.clicked, shown.request)
        of_clicks = {name: score[shown.clicked] for name, score in scores.items()}
        followed = shown.conversions
        for task, probability, delay_us in (
            ("cart", followed.p_cart, followed.cart_delay_us),
            ("cvr", followed.p_purchase, followed.purchase_delay_us),
        ):
            positive = delay_us <= self._windows[task] * DAY_US
            self._tasks[task].update(shown.day, {ORACLE: probability} | of_clicks, positive)
        self._baselines.count(shown)

    def end_day(self) -> None:
        """All blocks of a day were taken in."""
        self._baselines.end_day()

    def summary(self, counts: dict[str, int]) -> Summary:
        """The figures of all that was taken in; `counts` are those of the log."""
        num_late = int((self._launched > 0).sum())
        return Summary(
            settings=self._settings,
            counts=counts | {"items launched after the first day": num_late},
            clicks_per_item=_spread(self._baselines.clicks_of_items),
            clicks_per_user=_spread(self._baselines.clicks_of_users),
            tasks={name: task.result() for name, task in self._tasks.items()},
        )


def _spread(values: Ints) -> dict[str, float]:
    quantiles = {name: float(np.quantile(values, at)) for name, at in QUANTILES.items()}
    return {"mean": float(values.mean()), **quantiles, "share of 0": float((values == 0).mean())}
