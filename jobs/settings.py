"""A job's whole config: the sections that each room declares beside its parts, joined.

`deploy/configs/` has examples. Every job reads the same file and takes the sections it needs.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from embeddings.settings import EmbeddingSettings, TableSpec
from jobs.chain.settings import DailySettings
from jobs.monitoring.settings import MonitoringSettings
from jobs.sections import (
    DataSettings,
    EvaluationSettings,
    JudgingSettings,
    PretrainingSettings,
    RankingSettings,
    ReadingSettings,
)
from jobs.strategies import Strategy
from models.architecture import Architecture
from pipeline.adapters.settings import IngestSettings
from pipeline.data_checks import DataCheckSettings
from pipeline.engine import DUCKDB, EngineSettings
from pipeline.holdout import NO_HOLDOUT, HoldoutSettings
from pipeline.partitions import day_folder
from pipeline.preparation import Preparation
from pipeline.requests import RequestSettings, check_candidates
from pipeline.schema import (
    DaySettings,
    FeatureSettings,
    check_features,
    context_features,
    item_features,
)
from pipeline.sequences import SequenceSettings
from pipeline.settings import Settings
from pipeline.source import SourceSettings, check_source
from pipeline.storage import Location, location_of
from pipeline.tasks import TaskSettings, check_tasks
from pipeline.vocabulary import table_capacity, table_sizes, vocabulary_lineage

__all__ = ["JobSettings"]


class JobSettings(Settings):
    """The whole config file."""

    data: DataSettings
    source: SourceSettings
    ingest: IngestSettings | None = None
    features: tuple[FeatureSettings, ...]
    days: DaySettings
    sequences: SequenceSettings = SequenceSettings()
    requests: RequestSettings
    holdout: HoldoutSettings = NO_HOLDOUT
    tasks: dict[str, TaskSettings] = Field(min_length=1)
    checks: DataCheckSettings = DataCheckSettings()
    engine: EngineSettings = DUCKDB
    reader: ReadingSettings = ReadingSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    pretraining: PretrainingSettings
    ranking: RankingSettings
    evaluation: EvaluationSettings = EvaluationSettings()
    judging: JudgingSettings = JudgingSettings()
    daily: DailySettings = DailySettings()
    monitoring: MonitoringSettings = MonitoringSettings()

    @model_validator(mode="after")
    def _consistent(self) -> "JobSettings":
        check_features(self.features)
        check_source(self.source, self.features)
        check_tasks(self.tasks, self.requests)
        check_candidates(self.requests, self.features)
        if self.ranking.task not in self.tasks and (self.ranking.task or len(self.tasks) > 1):
            raise ValueError(
                f"ranking.task: {self.ranking.task!r} is none of [tasks]: {', '.join(self.tasks)}"
            )
        names = [feature.name for feature in self.features]
        items = item_features(self.features)
        for where, batch_size in (
            ("pretraining.training.batch_size", self.pretraining.training.batch_size),
            ("ranking.training.batch_size", self.ranking.training.batch_size),
            ("evaluation.batch_size", self.evaluation.batch_size),
        ):
            if batch_size % self.reader.lanes:
                raise ValueError(
                    f"{where}: {batch_size} rows cannot be shared equally by reader.lanes = "
                    f"{self.reader.lanes}; make it a multiple"
                )
        for where, known, used in (
            ("ranking.transfer_tables", items, self.ranking.transfer_tables),
            ("evaluation.category_features", items, self.evaluation.category_features),
            ("embeddings.sharding", names, self.embeddings.sharding),
        ):
            if unknown := [name for name in used if name not in known]:
                raise ValueError(
                    f"{where}: no such feature: {', '.join(unknown)}; known: {', '.join(known)}"
                )
        if self.ranking.strategy.transfers_tables and not self.ranking.transfer_tables:
            raise ValueError(
                f"ranking.transfer_tables: strategy {self.ranking.strategy.value} takes tables "
                f"from pretraining; name them, usually all: {', '.join(items)}"
            )
        return self

    @property
    def item_features(self) -> list[str]:
        """Names of the features that describe items, item_id first."""
        return item_features(self.features)

    @property
    def context_features(self) -> list[str]:
        """Names of the features that describe requests."""
        return context_features(self.features)

    @property
    def task(self) -> str:
        """The task that ranking is about."""
        return self.ranking.task or next(iter(self.tasks))

    @property
    def preparation(self) -> Preparation:
        """What `prepare` needs of all this."""
        return Preparation(
            root=self.data.root,
            source=self.source,
            features=self.features,
            days=self.days,
            sequences=self.sequences,
            requests=self.requests,
            tasks=self.tasks,
            checks=self.checks,
            holdout=self.holdout,
            keep_states=self.data.keep_states,
        )

    @property
    def pretraining_folder(self) -> Path:
        """Where pretraining up to its last day is kept."""
        return day_folder(self.data.root, "pretraining", self.days.pretraining[1])

    @property
    def examples_root(self) -> Location:
        """Where training reads what prepare published."""
        return location_of(self.data.examples) if self.data.examples else self.data.root

    @property
    def has_tails(self) -> bool:
        """Whether pretraining also reads what was open after its last day.

        Who brings sequences brings them whole.
        """
        return self.source.kind == "events"

    @property
    def export_folder(self) -> Path:
        """The sparse export of that pretraining."""
        return day_folder(self.data.root, "tables", self.days.pretraining[1])

    @property
    def evaluation_folder(self) -> Path:
        """Where the comparison of ranking models is kept."""
        task_root = self.data.root / "evaluation" / self.task
        return day_folder(task_root.parent, task_root.name, self.days.training[1])

    def ranking_folder(self, strategy: Strategy) -> Path:
        """Where ranking is kept, a folder a strategy and last day of training data."""
        task_root = self.data.root / "ranking" / self.task
        return day_folder(task_root, strategy.folder_name, self.days.training[1])

    def table_specs(self, names: Sequence[str], architecture: Architecture) -> list[TableSpec]:
        """Tables of `names`, as wide as the model and as long as the vocabularies built so far."""
        features = [feature for feature in self.features if feature.name in names]
        sizes = table_sizes(self.examples_root, features, self.days.training[1])
        return [
            TableSpec(
                name=feature.name,
                num_rows=table_capacity(sizes[feature.name][0], feature.headroom),
                dim=architecture.width,
                vocabulary_digest=sizes[feature.name][1],
                num_known_rows=sizes[feature.name][0],
            )
            for feature in features
        ]

    def vocabulary_lineages(self, specs: Sequence[TableSpec]) -> dict[str, frozenset[str]]:
        """Table -> digests of the vocabularies that its rows hold for: today's and earlier ones."""
        features = {feature.name: feature for feature in self.features}
        return {
            spec.name: vocabulary_lineage(
                self.examples_root, features[spec.name], self.days.training[1]
            )
            for spec in specs
        }

    def embeddings_of(self, specs: Sequence[TableSpec]) -> EmbeddingSettings:
        """`[embeddings]` without the shardings of tables that a job does not have."""
        names = {spec.name for spec in specs}
        sharding = {name: kind for name, kind in self.embeddings.sharding.items() if name in names}
        return self.embeddings.model_copy(update={"sharding": sharding})
