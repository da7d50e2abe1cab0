"""Every metric that Prometheus gets from this project: the one module that names them.

    jobs.monitoring.hook   while a model trains   --.
                                                    |--> Sample --> Shown, of a registry --> out
    jobs.monitoring.push   when a stage has ended --'

Names are `frostrank_` and base units; labels are stage, task and rank and never anything that grows
by the day: which day a figure is of is a value, `frostrank_data_day_timestamp_seconds`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry

from jobs.ledger.records import Stage

__all__ = [
    "GATES",
    "METRICS",
    "RUN_STATES",
    "STAGES",
    "STAGE_METRICS",
    "STEP_BUCKETS_S",
    "TRAINING_METRICS",
    "Histogram",
    "Metric",
    "Sample",
    "Shown",
    "registry_of",
]

PREFIX = "frostrank_"

STAGES = get_args(Stage)
"""Values of the label `stage`"""

RUN_STATES: Mapping[str, int] = {"running": 1, "succeeded": 2, "failed": 3, "rejected": 4}
"""What `frostrank_run_state` says; rejected is what a gate does, or its data"""

GATES: Mapping[str, str] = {
    "finite": "no NaN or infinity in its figures, nor in any row of its tables",
    "chance": "AUC above that of guessing",
    "auc": "AUC against the published model's on the same requests",
    "calibration": "predicted over true positives on those requests, and beside the published",
    "log_loss": "log loss against the published model's on those requests",
    "progressive": "AUC of the ranker that served on days now final, against earlier days",
    "table_norm": "norms of the tables' rows against those of the published export",
    "table_drift": "how far the tables' rows moved since the published export",
}
"""What a candidate must pass to be published; a metric each, as labels do not say which gate"""

STEP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: its name with prefix and unit, and what it means."""

    name: str
    text: str
    kind: Literal["gauge", "counter", "histogram"] = "gauge"
    by_rank: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its labels."""
        return ("stage", "task", "rank") if self.by_rank else ("stage", "task")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of the buckets that end at `STEP_BUCKETS_S`, one more for the rest, and their sum."""

    counts: tuple[float, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One value; `labels` are in the order of the metric's."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Histogram


def _named(metrics: Mapping[str, str | Metric]) -> dict[str, Metric]:
    """Gauges for plain texts; every key is the name without `frostrank_`."""
    return {
        key: Metric(name=PREFIX + key, text=value) if isinstance(value, str) else value
        for key, value in metrics.items()
    }


def _counter(key: str, text: str, *, by_rank: bool = False) -> dict[str, Metric]:
    return {key: Metric(name=PREFIX + key, text=text, kind="counter", by_rank=by_rank)}


TRAINING_METRICS: Mapping[str, Metric] = _named(
    {
        "training_step_seconds": Metric(
            name=PREFIX + "training_step_seconds",
            text="From asking for a batch to the end of its step; one observation a rank and step.",
            kind="histogram",
        ),
        **_counter("training_steps_total", "Steps done since this process started."),
        **_counter("training_samples_total", "Samples that counted, over all ranks."),
        **_counter("training_tokens_total", "Events of histories and candidates, over all ranks."),
        **_counter(
            "training_reader_wait_seconds_total",
            "Part of the steps' time in which a rank waited for its batch.",
            by_rank=True,
        ),
        **_counter("training_checkpoints_total", "Checkpoints written by this process."),
        **_counter("training_checkpoint_seconds_total", "Time that training stood for them."),
        "training_checkpoint_bytes": "Size of the newest checkpoint.",
        "training_ranks": "Processes that train together.",
        "training_done_ratio": "Share of the run's steps that are behind.",
        "training_last_step_timestamp_seconds": "When the step was done that these figures are of.",
        "training_loss": "Mean loss of the steps since the last figures, in nats.",
        "training_auc": "AUC of those steps' batches, each scored before it was learned from.",
        "training_learning_rate": "Learning rate of the dense parameters.",
        "training_gradient_norm": "Norm of the dense gradient before it is clipped.",
        "training_validation_auc": "AUC of the newest validation within the run.",
        "training_validation_log_loss": "Log loss of the newest validation, in nats.",
        "training_validation_calibration_ratio": "Predicted over true positives in the same.",
    }
)
"""Served while a model trains"""

STAGE_METRICS: Mapping[str, Metric] = _named(
    {
        "run_state": "Newest run: 1 running, 2 succeeded, 3 failed, 4 day rejected.",
        "run_attempts": "Attempts that its day took so far.",
        "run_start_timestamp_seconds": "When it started.",
        "run_end_timestamp_seconds": "When the newest run that ended did.",
        "run_duration_seconds": "How long the newest run that ended took.",
        "run_day_timestamp_seconds": "Start of the day that the newest run is about.",
        "last_success_timestamp_seconds": "When a run last succeeded.",
        "data_day_timestamp_seconds": "Start of the day of the newest run that succeeded.",
        "serving_day_timestamp_seconds": "Start of the day whose models serve; a rollback sets it.",
        "event_rows": "Events of the day, without those set aside.",
        "set_aside_rows": "Events of the day that were set aside.",
        "request_rows": "Requests of the day.",
        "candidate_rows": "Candidates of those requests.",
        "new_item_ratio": "Share of candidates whose item was not known when the day began.",
        "label_ratio": "Share of a task's labels that are positive, on the newest day with any.",
        "run_steps": "Steps of training.",
        "run_samples": "Samples trained on.",
        "run_training_seconds": "Time within those steps.",
        "checkpoint_bytes": "Size of the last checkpoint.",
        "evaluated_rows": "Candidates that the model was evaluated on.",
        "auc": "AUC of the model evaluated.",
        "log_loss": "Its log loss in nats.",
        "normalized_entropy": "Its log loss over that of always predicting the share of positives.",
        "calibration_ratio": "Its sum of predicted probabilities over the number of positives.",
        "new_item_auc": "Its AUC on items that were not in the vocabulary judging.new_item_days "
        "(7) before the first day scored; not measured where all are such.",
        "published_auc": "AUC of the published model on the same requests.",
        "published_log_loss": "Log loss of the published model on the same requests, in nats.",
        "published_calibration_ratio": "Calibration of the published model on the same requests.",
        "table_rows": "Rows of the embedding tables, with those that are free.",
        "table_known_rows": "Rows that stand for a value.",
        "table_new_rows": "Rows that came to stand for a value since the run it goes on from.",
        "table_bytes": "Bytes of the embedding tables.",
        "table_norm": "Mean norm of a table's rows; the largest of all tables.",
        "table_drift_ratio": "Mean change of a row since the published export, over that norm.",
        "export_tables": "Tables of the export.",
        "export_bytes": "Bytes of the export's files.",
        **{
            f"gate_{gate}_passed": f"1 if the candidate passed this gate, 0 if not: {what}."
            for gate, what in GATES.items()
        },
    }
)
"""Pushed or written when a stage starts and ends"""

METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in (*TRAINING_METRICS.values(), *STAGE_METRICS.values())
}
"""All of them, by name"""


class Shown(Collector):
    """The samples that a registry shows, replaced as a whole: a scrape sees one moment."""

    def __init__(self) -> None:
        self._samples: Sequence[Sample] = ()

    def show(self, samples: Iterable[Sample]) -> None:
        """Show these from now on."""
        self._samples = tuple(samples)

    def collect(self) -> Iterator[Family]:
        """The samples by metric, as prometheus_client asks for them."""
        families: dict[str, Family] = {}
        for sample in self._samples:
            name = sample.metric.name
            if name not in families:
                families[name] = _family(sample.metric)
            _add(families[name], sample)
        yield from families.values()


def registry_of(shown: Shown) -> CollectorRegistry:
    """A registry of its own: two runs in one process share nothing."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(shown)
    return registry


def _family(metric: Metric) -> Family:
    kinds = {
        "gauge": GaugeMetricFamily,
        "counter": CounterMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    return kinds[metric.kind](metric.name, metric.text, labels=metric.labels)


def _add(family: Family, sample: Sample) -> None:
    if isinstance(sample.value, Histogram):
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric(sample.labels, _cumulative(sample.value), sample.value.sum)
    else:
        assert isinstance(family, GaugeMetricFamily | CounterMetricFamily)
        family.add_metric(sample.labels, sample.value)


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus counts what is up to a bucket's end, not what is in it."""
    ends = [*map(str, STEP_BUCKETS_S), "+Inf"]
    total, buckets = 0.0, list[tuple[str, float]]()
    for end, count in zip(ends, histogram.counts, strict=True):
        total += count
        buckets.append((end, total))
    return buckets
