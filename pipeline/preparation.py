"""The state of one run of `prepare`: its settings, what is stale under the root, what was made.

Shared by `prepare` (from events) and `examples` (from ready-made sequences and requests).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pipeline.digests import texts_digest
from pipeline.encoding import catalogue_folder
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
from pipeline.settings import settings_digest
from pipeline.source import SourceSettings
from pipeline.vocabulary import table_sizes, vocabulary_folder

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
    progress: Progress = no_progress
    report: PrepareReport = field(default_factory=PrepareReport)
    row_group_rows: int = ROW_GROUP_ROWS

    @property
    def request_days(self) -> list[date]:
        """Days that get requests: of ranking, validation and test."""
        ranges = (self.days.ranking, self.days.validation, self.days.test)
        return sorted({day for days in ranges for day in days_between(*days)})

    @property
    def vocabularies(self) -> dict[str, str]:
        """Feature -> digest of its published vocabulary."""
        sizes = table_sizes(self.root, self.features)
        return {name: digest for name, (_, digest) in sizes.items()}

    @property
    def catalogue(self) -> Manifest:
        """Manifest of the published catalogue."""
        return read_manifest(catalogue_folder(self.root))

    def stale_days(
        self, kind: str, inputs: Mapping[date, str], config: str, version: str
    ) -> dict[date, Contents]:
        """The days of `inputs` (day -> digest) that were not yet made from just that."""
        columns = _columns_digest(self.features)
        stale: dict[date, Contents] = {}
        for day, digest in inputs.items():
            contents = Contents(
                kind=kind,
                day=day,
                input_digest=digest,
                config_digest=texts_digest([config, columns, str(self.row_group_rows)]),
                code_version=version,
                vocabularies=self.vocabularies,
            )
            published = find_manifest(day_folder(self.root, kind, day))
            if published is None or not published.same_build(contents):
                stale[day] = contents
        return stale

    def stale_vocabularies(self, seen: str, version: str) -> dict[FeatureSettings, Contents]:
        """Features whose vocabulary was not yet made from the events with digest `seen`."""
        stale: dict[FeatureSettings, Contents] = {}
        for feature in self.features:
            contents = Contents(
                kind="vocabulary",
                input_digest=seen,
                config_digest=settings_digest(feature),
                code_version=version,
            )
            published = find_manifest(vocabulary_folder(self.root, feature.name))
            if published is None or not published.same_build(contents):
                stale[feature] = contents
        return stale

    def stale_catalogue(self, seen: str, version: str) -> Contents | None:
        """What to publish as catalogue, or None if that is what is there."""
        contents = Contents(
            kind="catalogue",
            input_digest=texts_digest([seen, *self.vocabularies.values()]),
            config_digest=_columns_digest(self.features),
            code_version=version,
            vocabularies=self.vocabularies,
        )
        published = find_manifest(catalogue_folder(self.root))
        return None if published and published.same_build(contents) else contents

    def collect(self, kind: str, days: Sequence[date], built: Mapping[date, Contents]) -> None:
        """Add the published days of a kind to the report."""
        manifests = {day: read_manifest(day_folder(self.root, kind, day)) for day in days}
        self.report.add(kind, manifests, list(built))

    @staticmethod
    def with_counts(
        stale: Mapping[date, Contents], counts: Mapping[date, dict[str, int]]
    ) -> dict[date, Contents]:
        """The days' contents with their counts; a day without any row has none."""
        return {
            day: contents.model_copy(update={"counts": counts.get(day, {})})
            for day, contents in stale.items()
        }


def _columns_digest(features: Sequence[FeatureSettings]) -> str:
    return texts_digest(f"{feature.name} {feature.role}" for feature in features)
