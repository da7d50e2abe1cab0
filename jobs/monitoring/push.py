"""A stage's figures, handed on when it starts and ends: to a Pushgateway, to a textfile, or both.

    StageFacts --> http://gateway/metrics/job/frostrank/stage/S/task/T     kept by the gateway
               --> FOLDER/frostrank-S-T.prom                               read by a node exporter

Figures that were not measured this time stay as they were: the last success outlives a failure. The
day is in no name, or every day would leave a group behind. Nothing here fails a job, or holds it up
for longer than a few seconds: metrics are about the job, not part of it.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from prometheus_client import pushadd_to_gateway, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from jobs.monitoring.facts import StageFacts, serving_sample
from jobs.monitoring.metrics import METRICS, Sample, Shown, registry_of
from jobs.monitoring.settings import MonitoringSettings

__all__ = ["JOB", "publish_metrics", "publish_serving", "textfile_path"]

JOB = "frostrank"
"""The Pushgateway's label `job`"""

# For all pushes of a stage together.
_PATIENCE_S = 5.0

# Task -> what is told of it: a group of the gateway, or a file.
_Groups = Mapping[str, list[Sample]]


def publish_metrics(settings: MonitoringSettings, stage: str, task: str, facts: StageFacts) -> None:
    """Tell Prometheus of a stage; what cannot be told is one line on the screen."""
    _tell(settings, stage, facts.samples(stage, task))


def publish_serving(settings: MonitoringSettings, day: date) -> None:
    """Tell Prometheus whose models serve, after a rollback."""
    _tell(settings, "publish", [serving_sample(day)])


def _tell(settings: MonitoringSettings, stage: str, samples: Iterable[Sample]) -> None:
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.labels[1]].append(sample)
    if settings.pushgateway is not None:
        _warn(_push(settings.pushgateway, stage, groups), settings.pushgateway)
    if settings.textfile is not None:
        _warn(_write(settings.textfile, stage, groups), str(settings.textfile))


def textfile_path(folder: Path, stage: str, task: str) -> Path:
    """The file of a stage and a task."""
    name = "-".join(part for part in (JOB, stage, task) if part)
    return folder / f"{name}.prom"


def _warn(reason: str | None, where: str) -> None:
    if reason is not None:
        print(f"warning: metrics were not handed to {where}: {reason}; the job goes on", flush=True)


def _push(url: str, stage: str, groups: _Groups) -> str | None:
    """Push, in a thread that is left alone when it takes too long; what went wrong, if anything."""
    told: list[str] = []

    def work() -> None:
        try:
            for task, samples in groups.items():
                pushadd_to_gateway(
                    url,
                    job=JOB,
                    registry=registry_of(_showing(samples)),
                    grouping_key={"stage": stage, "task": task},
                    timeout=_PATIENCE_S,
                )
        except HTTPError as error:
            told.append(f"{error}: {error.read(500).decode(errors='replace').strip()}")
        except (OSError, HTTPException) as error:
            told.append(str(error))

    thread = threading.Thread(target=work, name="push-metrics", daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    if thread.is_alive():
        return f"no answer within {_PATIENCE_S:.0f} s"
    return told[0] if told else None


def _write(folder: Path, stage: str, groups: _Groups) -> str | None:
    for task, samples in groups.items():
        path = textfile_path(folder, stage, task)
        try:
            write_to_textfile(str(path), registry_of(_showing(_merged(path, samples))))
        except OSError as error:
            return str(error)
    return None


def _merged(path: Path, samples: list[Sample]) -> list[Sample]:
    """The samples, and those of the file that they do not replace, as a Pushgateway does it."""
    new = {(sample.metric.name, sample.labels) for sample in samples}
    kept = [old for old in _read(path) if (old.metric.name, old.labels) not in new]
    return [*kept, *samples]


def _read(path: Path) -> list[Sample]:
    """What the file holds; metrics that are none any more are left out."""
    if not path.exists():
        return []
    try:
        families = list(text_string_to_metric_families(path.read_text()))
    except ValueError as error:
        print(f"warning: {path}: not a file of metrics ({error}); replacing it", flush=True)
        return []
    return [
        Sample(METRICS[old.name], (old.labels["stage"], old.labels["task"]), old.value)
        for family in families
        for old in family.samples
        if old.name in METRICS and old.labels.keys() == {"stage", "task"}
    ]


def _showing(samples: Iterable[Sample]) -> Shown:
    shown = Shown()
    shown.show(samples)
    return shown
