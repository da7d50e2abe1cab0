"""Fills a model's tables from a sparse export, exactly or not at all.

Follows `embeddings.sharding.shard`. Tables are matched by name, and rows, width, type and
vocabulary must be equal; nothing is guessed. Every rank maps the files and copies only what its
own rectangles need, whatever the sharding of either side, and the digest of what was loaded is
compared with the manifest. `embeddings.freezing` checks what must then not change.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from embeddings.digests import content_digests, rectangle_digest
from embeddings.manifests import (
    TENSOR_NAME,
    ExportedFile,
    ExportedTable,
    ExportManifest,
    read_export,
)
from embeddings.shards import Shard, local_shards
from embeddings.tables import EmbeddingTables, tables_of
from pipeline.errors import DigestError, ExportError

__all__ = ["transfer"]


def transfer(model: nn.Module, folder: Path, names: Sequence[str]) -> ExportManifest:
    """Load the tables `names` from the export in `folder`; optimizer state is not touched.

    A collective: all ranks call it. Every table that both sides have must be among `names`.

    Raises:
        ExportError: the export is not whole, or a table is missing, extra, or differs in rows,
            width, type or vocabulary; nothing was loaded.
        DigestError: what was loaded is not what was exported; names the table and the bad file.
    """
    manifest = read_export(folder)
    tables = tables_of(model)
    _check_names(manifest, tables, names, folder)
    for name in names:
        _check_same(manifest.tables[name], tables, name, folder)
    found = local_shards(model)
    for name in names:
        for shard in found[name]:
            _fill(shard, manifest.tables[name].files, folder)
    loaded = content_digests(model, names)
    for name in names:
        if loaded[name] != manifest.tables[name].digest:
            _blame(name, manifest.tables[name], loaded[name], folder)
    return manifest


def _check_names(
    manifest: ExportManifest,
    tables: EmbeddingTables,
    names: Sequence[str],
    folder: Path,
) -> None:
    exported, known = sorted(manifest.tables), sorted(tables.specs)
    for name in names:
        if name not in tables.specs:
            raise ExportError(
                f"{folder}: table {name} is to be transferred, but the model has only "
                f"{', '.join(known)}; declare the feature or do not name it"
            )
        if name not in manifest.tables:
            raise ExportError(
                f"{folder}: the export has no table {name}, only {', '.join(exported)}; pretrain "
                "and export with this feature, or do not name it"
            )
    for name in exported:
        if name in tables.specs and name not in names:
            raise ExportError(
                f"{folder}: table {name} is in the export and in the model, but not named; name "
                "it too (ranking.transfer_tables)"
            )


def _check_same(exported: ExportedTable, tables: EmbeddingTables, name: str, folder: Path) -> None:
    spec = tables.specs[name]
    for what, theirs, ours in (
        ("rows", exported.num_rows, spec.num_rows),
        ("width", exported.dim, spec.dim),
        ("type", exported.dtype, tables.settings.dtype),
        ("vocabulary", exported.vocabulary_digest, spec.vocabulary_digest),
    ):
        if theirs != ours:
            raise ExportError(
                f"{folder}: table {name}: {what} {theirs} in the export, {ours} in the model; "
                f"{_REMEDY[what]}"
            )


_REMEDY = {
    "rows": "pretrain and export again with the vocabulary in use",
    "width": "give both models the same width",
    "type": "set embeddings.dtype to the export's",
    "vocabulary": "pretrain and export again with the vocabulary in use",
}


def _fill(shard: Shard, files: Sequence[ExportedFile], folder: Path) -> None:
    for file in files:
        rows = max(shard.rows[0], file.rows[0]), min(shard.rows[1], file.rows[1])
        columns = max(shard.columns[0], file.columns[0]), min(shard.columns[1], file.columns[1])
        if rows[0] >= rows[1] or columns[0] >= columns[1]:
            continue
        source = _read(folder / file.name, _within(file, rows, columns))
        here = _within(shard, rows, columns)
        shard.tensor[here].copy_(source)


def _within(
    rectangle: Shard | ExportedFile, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[slice, slice]:
    """Table coordinates to slices of a rectangle's own tensor."""
    first_row, first_column = rectangle.rows[0], rectangle.columns[0]
    return (
        slice(rows[0] - first_row, rows[1] - first_row),
        slice(columns[0] - first_column, columns[1] - first_column),
    )


def _read(path: Path, part: tuple[slice, slice]) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_slice(TENSOR_NAME)[part]
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); rerun the export stage") from None


def _blame(name: str, table: ExportedTable, loaded: str, folder: Path) -> None:
    """Raise DigestError with the first file whose content is not what the manifest says."""
    bad = next(_bad_files(table.files, folder), None)
    what = f"{folder / bad.name} is corrupt" if bad else "no single file is corrupt"
    raise DigestError(
        f"table {name}: digest {loaded} after loading, {table.digest} in {folder}'s manifest; "
        f"{what}; rerun the export stage"
    )


def _bad_files(files: Sequence[ExportedFile], folder: Path) -> Iterator[ExportedFile]:
    for file in files:
        values = _read(folder / file.name, (slice(None), slice(None)))
        if rectangle_digest(values, file.rows[0], file.columns[0]) != file.digest:
            yield file
