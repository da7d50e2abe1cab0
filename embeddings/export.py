"""Writes tables as a sparse export that any world size and any sharding can read back.

    FOLDER/manifest.json                                             last, atomically
    FOLDER/build-<token>/<table>/rows-<r0>-<r1>-columns-<c0>-<c1>.safetensors

Every rank writes the rectangles in its own memory, a bounded number of rows at a time; no process
ever holds a whole table that it did not hold before. A folder without manifest is no export. A
second export into the same folder replaces the manifest atomically and then removes the files
that no manifest names. One that fails removes its own; `remove_unpublished` removes what one that
was killed left. `embeddings.transfer` reads exports.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from embeddings.digests import rectangle_digest, total_digest
from embeddings.manifests import MANIFEST, TENSOR_NAME, ExportedFile, ExportedTable, ExportManifest
from embeddings.settings import EmbeddingSettings, TableSpec
from embeddings.shards import Shard, local_shards
from embeddings.tables import EmbeddingTables, tables_of

__all__ = ["export_tables", "remove_unpublished"]


def export_tables(model: nn.Module, folder: Path, source: Mapping[str, str]) -> ExportManifest:
    """Write every table of `model` under `folder`, which all ranks must see.

    A collective: all ranks call it and return the same manifest. What fails while files are written
    is raised on all of them, once the files are removed.

    Args:
        model: sharded or not.
        folder: the export's own folder, where no other export is at work; made if need be.
        source: free values that the manifest keeps (checkpoint, config digest, code version, day).
    """
    build = _shared(f"build-{secrets.token_hex(8)}")
    try:
        everyone = _done_by_all(lambda: _write_tables(model, folder, build))
        manifest = _manifest(tables_of(model), everyone, source)
        _done_by_all(lambda: _publish(folder, build, manifest) if _rank() == 0 else None)
    except BaseException:
        if _rank() == 0:
            remove_unpublished(folder)
        raise
    return manifest


def remove_unpublished(folder: Path) -> None:
    """Remove files that the folder's manifest does not name: older ones, and half-written ones.

    For one process, while no export is at work there.
    """
    path = folder / MANIFEST
    # As text, so that a manifest which cannot be read still keeps the files it names.
    named = path.read_text(errors="replace") if path.exists() else ""
    for build in folder.glob("build-*"):
        if build.name not in named:
            # A rank that outlived its killed export may add files meanwhile: left to the next.
            shutil.rmtree(build, ignore_errors=True)
    for left in folder.glob(f"{MANIFEST}.build-*"):
        left.unlink(missing_ok=True)


def _write_tables(model: nn.Module, folder: Path, build: str) -> dict[str, list[ExportedFile]]:
    """This rank's files, by table."""
    rows_per_file = tables_of(model).settings.export_rows_per_file
    return {
        name: [_write(folder, Path(build) / name, p) for p in _pieces(shards, rows_per_file)]
        for name, shards in local_shards(model).items()
    }


def _manifest(
    tables: EmbeddingTables,
    everyone: Sequence[Mapping[str, list[ExportedFile]]],
    source: Mapping[str, str],
) -> ExportManifest:
    return ExportManifest(
        tables={
            name: _table(spec, tables.settings, [f for part in everyone for f in part[name]])
            for name, spec in tables.specs.items()
        },
        source=dict(source),
    )


def _pieces(shards: Sequence[Shard], rows_per_file: int) -> Iterator[Shard]:
    """What this rank writes: its rectangles, cut to at most `rows_per_file` rows.

    Of a table that every rank holds, each rank writes every world_size-th piece.
    """
    for shard in shards:
        starts = range(shard.rows[0], shard.rows[1], rows_per_file)
        for index, start in enumerate(starts):
            if shard.replicated and index % _world_size() != _rank():
                continue
            stop = min(start + rows_per_file, shard.rows[1])
            values = shard.tensor[start - shard.rows[0] : stop - shard.rows[0]]
            yield Shard((start, stop), shard.columns, values)


def _write(folder: Path, under: Path, piece: Shard) -> ExportedFile:
    (r0, r1), (c0, c1) = piece.rows, piece.columns
    name = under / f"rows-{r0}-{r1}-columns-{c0}-{c1}.safetensors"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({TENSOR_NAME: piece.tensor.cpu().contiguous()}, path)
    _flush(path)
    return ExportedFile(
        name=name.as_posix(),
        rows=piece.rows,
        columns=piece.columns,
        num_bytes=path.stat().st_size,
        digest=rectangle_digest(piece.tensor, r0, c0),
    )


def _table(
    spec: TableSpec, settings: EmbeddingSettings, written: Sequence[ExportedFile]
) -> ExportedTable:
    files = sorted(written, key=lambda file: (file.rows, file.columns))
    return ExportedTable(
        num_rows=spec.num_rows,
        dim=spec.dim,
        dtype=settings.dtype,
        vocabulary_digest=spec.vocabulary_digest,
        digest=total_digest(file.digest for file in files),
        files=tuple(files),
    )


def _publish(folder: Path, build: str, manifest: ExportManifest) -> None:
    temporary = folder / f"{MANIFEST}.{build}"
    temporary.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
    _flush(temporary)
    temporary.replace(folder / MANIFEST)
    _flush(folder)
    remove_unpublished(folder)


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _shared(value: str) -> str:
    """Rank 0's value, on all ranks."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def _done_by_all(action: Callable[[], Any]) -> list[Any]:
    """What `action` returned, by rank, on all ranks; the first rank's failure is raised on all."""
    result, failure = None, None
    try:
        result = action()
    except (OSError, SafetensorError) as error:
        failure = error
    outcomes: list[Any] = [(result, failure)]
    if dist.is_initialized():
        outcomes = [None] * dist.get_world_size()
        dist.all_gather_object(outcomes, (result, failure))
    for _, failed in outcomes:
        if failed is not None:
            raise failed
    return [value for value, _ in outcomes]


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
