"""The state of one run of `prepare`: its settings, what is stale under the root, what was made.

Shared by `prepare` (from events) and `examples` (from ready-made sequences and requests).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pipeline.data_checks import NO_CHECKS, DataCheckSettings
from pipeline.digests import texts_digest
from pipeline.events import Cleaning
from pipeline.holdout import NO_HOLDOUT, HoldoutSettings
from pipeline.partitions import (
    Contents,
    Manifest,
    day_folder,
    days_between,
    find_manifest,
    read_manifest,
)
from pipeline.progress import Progress, no_progress
from pipeline.requests import RequestSettings
from pipeline.schema import DaySettings, FeatureSettings
from pipeline.sequences import SequenceSettings
from pipeline.source import SourceSettings
from pipeline.tasks import TaskSettings
from pipeline.vocabulary import table_sizes

__all__ = ["Preparation", "PrepareReport"]

ROW_GROUP_ROWS = 1024


@dataclass
class PrepareReport:
    """What a run found and made, by kind: events, sequences, requests."""

    num_days: dict[str, int] = field(default_factory=dict)
    built: dict[str, list[date]] = field(default_factory=dict)
    """the days made in this run; the others were up to date"""
    num_rows: dict[str, int] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    set_aside: dict[str, dict[str, int]] = field(default_factory=dict)
    table_rows: dict[str, int] = field(default_factory=dict)
    """feature -> rows of its embedding table, row 0 included"""
    not_taken_in: list[date] = field(default_factory=list)
    """closed days whose files are others than those that were cleaned"""
    open_days: dict[str, list[date]] = field(default_factory=dict)
    """task -> days that are not final for it yet"""

    def add(self, kind: str, manifests: Mapping[date, Manifest], built: Sequence[date]) -> None:
        """Sum up the days of a kind."""
        values = list(manifests.values())
        self.num_days[kind] = len(values)
        self.built[kind] = list(built)
        self.num_rows[kind] = sum(manifest.num_rows for manifest in values)
        self.counts[kind] = dict(_total(manifest.counts for manifest in values))
        self.set_aside[kind] = dict(_total(manifest.set_aside for manifest in values))


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Settings of a run, and questions about what is already there."""

    root: Path
    source: SourceSettings
    features: tuple[FeatureSettings, ...]
    days: DaySettings
    sequences: SequenceSettings
    requests: RequestSettings
    tasks: Mapping[str, TaskSettings]
    progress: Progress = no_progress
    report: PrepareReport = field(default_factory=PrepareReport)
    row_group_rows: int = ROW_GROUP_ROWS
    checks: DataCheckSettings = NO_CHECKS
    holdout: HoldoutSettings = NO_HOLDOUT
    keep_states: int = 7
    """states of this many days stay on disk, so that a change to one of them is built from there"""

    @property
    def request_days(self) -> list[date]:
        """Days that get requests: of ranking, validation and test."""
        ranges = {name: days for name, days in self.days.ranges.items() if name != "pretraining"}
        return sorted({day for days in ranges.values() for day in days_between(*days)})

    @property
    def last_training_day(self) -> date:
        """The day until whose end vocabularies and the catalogue grow."""
        return self.days.training[1]

    @property
    def cleaning(self) -> Cleaning:
        """How days of events are cleaned."""
        return Cleaning(
            source=self.source,
            features=self.features,
            checks=self.checks,
            closed_until=self.days.closed_until,
        )

    @property
    def vocabularies(self) -> dict[str, str]:
        """Feature -> digest of its vocabulary by the end of training."""
        sizes = table_sizes(self.root, self.features, self.last_training_day)
        return {name: digest for name, (_, digest) in sizes.items()}

    @property
    def columns_digest(self) -> str:
        """Over everything that decides which rows ids become."""
        return texts_digest(
            feature.model_dump_json(exclude={"headroom"}) for feature in self.features
        )

    def contents(self, kind: str, day: date, inputs: str, config: str, version: str) -> Contents:
        """What a folder of this run is made from."""
        return Contents(
            kind=kind,
            day=day,
            input_digest=inputs,
            config_digest=texts_digest([config, self.columns_digest, str(self.row_group_rows)]),
            code_version=version,
        )

    def stale_days(
        self, kind: str, inputs: Mapping[date, str], config: str, version: str
    ) -> dict[date, Contents]:
        """The days of `inputs` (day -> digest) that were not yet made from just that."""
        stale: dict[date, Contents] = {}
        for day, digest in inputs.items():
            contents = self.contents(kind, day, digest, config, version)
            published = find_manifest(day_folder(self.root, kind, day))
            if published is None or not published.same_build(contents):
                stale[day] = contents
        return stale

    def is_built(self, wanted: Sequence[Contents]) -> bool:
        """Whether vocabularies, catalogue and states were made from just that."""
        own = [feature for feature in self.features if feature.fixed_rows is None]
        names = {
            "vocabulary": [f"vocabulary/{f.name}" for f in own]
            + [f"pending/{f.name}" for f in own if f.min_count > 1]
        }
        for contents in wanted:
            assert contents.day is not None
            for folder in names.get(contents.kind, [contents.kind]):
                published = find_manifest(day_folder(self.root, folder, contents.day))
                if published is None or not published.same_build(contents):
                    return False
        return True

    def collect(self, kind: str, days: Sequence[date], built: Sequence[date]) -> None:
        """Add the published days of a kind to the report."""
        manifests = {day: read_manifest(day_folder(self.root, kind, day)) for day in days}
        self.report.add(kind, manifests, built)
