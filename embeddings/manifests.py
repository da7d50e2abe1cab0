"""What a sparse export says of itself, for who reads it without TorchRec: `embeddings.export`."""

import json
from pathlib import Path

from pydantic import ValidationError

from pipeline.digests import texts_digest
from pipeline.errors import ExportError
from pipeline.settings import Settings

__all__ = [
    "MANIFEST",
    "TENSOR_NAME",
    "ExportManifest",
    "ExportedFile",
    "ExportedTable",
    "read_export",
]

TENSOR_NAME = "rows"
"""What the one tensor in each file is called"""

MANIFEST = "manifest.json"


class ExportedFile(Settings):
    """One rectangle of a table."""

    name: str
    """path under the export's folder"""
    rows: tuple[int, int]
    columns: tuple[int, int]
    num_bytes: int
    digest: str


class ExportedTable(Settings):
    """One table: what a transfer compares, and its files, whose rectangles tile it."""

    num_rows: int
    dim: int
    dtype: str
    vocabulary_digest: str
    digest: str
    files: tuple[ExportedFile, ...]


class ExportManifest(Settings):
    """A whole export: table name -> table, and where it came from."""

    tables: dict[str, ExportedTable]
    # Free: checkpoint, config digest, code version, day.
    source: dict[str, str]

    @property
    def content_digest(self) -> str:
        """Over every table's rows and what digests the source has: not over how files are named."""
        tables = {name: [table.digest, table.num_rows] for name, table in self.tables.items()}
        others = {name: text for name, text in self.source.items() if name.endswith("sha256")}
        return texts_digest([json.dumps([tables, others], sort_keys=True)])


def read_export(folder: Path) -> ExportManifest:
    """The manifest of a whole export.

    Raises:
        ExportError: nothing there, not written to its end, or a file missing or of another size.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such export; run the export stage first")
    path = folder / MANIFEST
    if not path.exists():
        raise ExportError(
            f"{folder}: half-written export (it has no {MANIFEST}); rerun the export stage"
        )
    try:
        manifest = ExportManifest.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise ExportError(
            f"{path}: not an export's manifest; rerun the export stage: {error}"
        ) from None
    for table in manifest.tables.values():
        for file in table.files:
            _check_size(folder / file.name, file.num_bytes)
    return manifest


def _check_size(path: Path, num_bytes: int) -> None:
    if not path.exists():
        raise ExportError(f"{path}: missing from the export; rerun the export stage")
    found = path.stat().st_size
    if found != num_bytes:
        raise ExportError(
            f"{path}: {found} bytes, but its manifest says {num_bytes}; rerun the export stage"
        )
