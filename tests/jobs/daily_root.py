"""A daily chain's config, and files that stand for its data and models where none are needed."""

import json
from datetime import date, timedelta
from pathlib import Path

import torch
from safetensors.torch import save_file

from embeddings.manifests import TENSOR_NAME, ExportedFile, ExportedTable, ExportManifest
from jobs.chain.published import PublishedRanker, ranker_of
from jobs.checkpoint_files import finish
from jobs.settings import JobSettings
from pipeline.digests import texts_digest
from pipeline.manifests import FileEntry, Manifest
from pipeline.partitions import day_folder
from pipeline.settings import load_settings

__all__ = ["FIRST", "START", "DailyRoot", "export_of", "write_config"]

START = date(2024, 1, 5)
# The first day of the chain; the days before it are history.
FIRST = date(2024, 1, 8)

CONFIG = """
[data]
root = "{folder}/root"

[source]
path = "{folder}/events"
success_marker = "manifest.json"

[[features]]
name = "item_id"
dtype = "int64"
headroom = 0.1

[[features]]
name = "category_id"
dtype = "int64"

[[features]]
name = "brand_id"
dtype = "int64"

[days]
pretraining = ["2024-01-05", "2024-01-08"]
ranking = ["2024-01-06", "2024-01-08"]

[sequences]
actions = ["click"]
min_length = 2
max_length = 20
increments = true

[holdout]
share = 0.3

[checks]
max_rows_change = 0.3
max_action_drift = 0.1

[requests]
candidates = "events"
actions = ["impression"]
history_actions = ["click"]
max_history = 20

[tasks.ctr]
label_actions = ["click"]
same_request = true
window = "1h"

[engine]
threads = 1

[reader]
lanes = 4

[embeddings]
learning_rate = 0.5

[pretraining]
architecture = "L1H32A2"

[pretraining.softmax]
num_negatives = 16

[pretraining.training]
epochs = 4
batch_size = 32
learning_rate = 5e-3
warmup_steps = 2
checkpoint_every_steps = 3

[ranking]
architecture = "L1H32A2"
strategy = "ST&SF"
transfer_tables = ["item_id", "category_id", "brand_id"]

[ranking.training]
epochs = 3
batch_size = 32
learning_rate = 2e-2
warmup_steps = 2
checkpoint_every_steps = 8

[daily]
lease_seconds = 600

[monitoring]
pushgateway = "http://127.0.0.1:9"
textfile = "{folder}/metrics"

[daily.stages.pretrain]
continuing = ["pretraining.training.schedule=constant", "pretraining.training.warmup_steps=0"]

[daily.stages.rank]
continuing = ["ranking.training.schedule=constant", "ranking.training.warmup_steps=0"]

[daily.gates]
min_candidates = 100
max_auc_drop = 0.1
calibration = [0.4, 2.5]
max_calibration_change = 1.0
max_log_loss_rise = 0.3
max_progressive_drop = 0.15
max_norm_ratio = 2.0
max_table_drift = 2.0
"""


def write_config(folder: Path) -> Path:
    """Write config.toml under `folder`; returns its path."""
    config = folder / "config.toml"
    config.write_text(CONFIG.format(folder=folder))
    return config


def export_of(folder: Path, tables: dict[str, torch.Tensor], rows_per_file: int = 2) -> None:
    """Write a sparse export, each table in rectangles of so many rows and half of the columns."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, ExportedTable] = {}
    for name, values in tables.items():
        num_rows, dim = values.shape
        files: list[ExportedFile] = []
        for start in range(0, num_rows, rows_per_file):
            stop = min(start + rows_per_file, num_rows)
            for left, right in ((0, dim // 2), (dim // 2, dim)):
                file = folder / name / f"{start}-{left}"
                file.parent.mkdir(parents=True, exist_ok=True)
                save_file({TENSOR_NAME: values[start:stop, left:right].contiguous()}, file)
                files.append(
                    ExportedFile(
                        name=f"{name}/{file.name}",
                        rows=(start, stop),
                        columns=(left, right),
                        num_bytes=file.stat().st_size,
                        digest="",
                    )
                )
        found[name] = ExportedTable(
            num_rows=num_rows,
            dim=dim,
            dtype="fp32",
            vocabulary_digest="",
            digest=texts_digest([str(values.tolist())]),
            files=tuple(files),
        )
    manifest = ExportManifest(tables=found, source={})
    (folder / "manifest.json").write_text(manifest.model_dump_json())


class DailyRoot:
    """A root under which each folder is as small as it can be."""

    def __init__(self, folder: Path) -> None:
        self.config = write_config(folder)
        self.root = folder / "root"

    def settings(self, *overrides: str) -> JobSettings:
        return load_settings(JobSettings, self.config, overrides)

    def source(self, day: date, content: str = "") -> Path:
        """A day that was brought."""
        folder = self.root.parent / "events" / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "part.parquet").write_text(content)
        return folder

    def data(self, kind: str, day: date, content: str = "", tasks: tuple[str, ...] = ()) -> None:
        """A published folder of a day."""
        folder = day_folder(self.root, kind, day)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "part").write_text(content)
        entry = FileEntry(
            name="part",
            num_rows=1,
            row_group_rows=(1,),
            num_bytes=len(content),
            sha256=texts_digest([content]),
        )
        manifest = Manifest(kind=kind, day=day, final_tasks=tasks, files=(entry,), num_rows=1)
        (folder / "manifest.json").write_text(manifest.model_dump_json())

    def requests(self, day: date, *tasks: str, content: str = "") -> None:
        """Requests of a day, whose labels are final for these tasks."""
        for kind in ("requests", "held_out"):
            self.data(kind, day, content, tasks)

    def run(self, folder: Path, content: str = "") -> Path:
        """A finished run; returns its checkpoint."""
        checkpoint = folder / "checkpoints" / "step-00000003"
        temporary = checkpoint.with_name(".step-00000003.tmp")
        temporary.mkdir(parents=True)
        (temporary / "part.distcp").write_text(content)
        finish(temporary, checkpoint, {"step": 3})
        (folder / "result.json").write_text(json.dumps({"steps": 3}))
        return checkpoint

    def pretraining(self, day: date, content: str = "") -> None:
        """Of a day, with its export."""
        self.run(day_folder(self.root, "pretraining", day), content)
        export_of(day_folder(self.root, "tables", day), {"item_id": torch.ones(3, 4)})

    def ranker(self, day: date, content: str = "", task: str = "ctr") -> PublishedRanker:
        """Of a day, on that day's export; it has learned from requests up to the day before."""
        days = [f'days.{name}=["{day}", "{day}"]' for name in ("pretraining", "ranking")]
        settings = self.settings(*days, f"ranking.task={task}")
        folder = settings.ranking_folder(settings.ranking.strategy)
        self.run(folder, content)
        until = day - timedelta(days=1)
        identity = {"days": {"ranking": [str(START), str(until)]}}
        (folder / "identity.json").write_text(json.dumps(identity))
        transferred = {"export": str(settings.export_folder)}
        result = {"steps": 3, "transferred": transferred}
        (folder / "result.json").write_text(json.dumps(result))
        return ranker_of(settings)
