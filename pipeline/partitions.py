"""Folders of Parquet that are visible only when whole: one a day.

    ROOT/<kind>/day=YYYY-MM-DD/part-00000-<content>.parquet ... manifest.json

ROOT is a local folder or one in an S3 store. Data files come first, under names that carry a
digest of their content; `manifest.json`, which names them, comes last and atomically. Readers read
manifests, never list files: a folder without a manifest was never published, and files that no
manifest names do not exist for anybody. A rerun replaces the manifest in one step and then removes
what the new one does not name.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.digests import file_sha256
from pipeline.errors import CorruptFileError, DigestError, HalfWrittenDayError, MissingDayError
from pipeline.manifests import MANIFEST_NAME, Contents, FileEntry, Manifest
from pipeline.packing import encodings_of
from pipeline.storage import (
    L,
    Location,
    S3Path,
    file_sizes,
    joined,
    location_of,
    read_bytes,
    remove_file,
    sha256_of,
    upload_file,
)

__all__ = [
    "KINDS",
    "Contents",
    "FileEntry",
    "Manifest",
    "day_folder",
    "days_between",
    "file_paths",
    "find_manifest",
    "publish",
    "read_manifest",
    "remove_folder",
    "remove_unpublished",
    "upload_folder",
    "verify_files",
]

KINDS = (
    "events",
    "sequences",
    "tails",
    "increments",
    "requests",
    "held_out",
    "history",
    "catalogue",
    "vocabulary/*",
    "pending/*",
)
"""Where `prepare` publishes days under its root, as patterns"""

ROW_GROUPS_PER_FILE = 1024


def day_folder(root: L, kind: str, day: date) -> L:
    """ROOT/kind/day=YYYY-MM-DD."""
    return joined(root, kind, f"day={day.isoformat()}")


def days_between(first: date, last: date) -> list[date]:
    """All days from `first` to `last`, both included."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def file_paths(folder: L, manifest: Manifest) -> list[L]:
    """The data files that the manifest names, in its order."""
    return [joined(folder, entry.name) for entry in manifest.files]


def read_manifest(folder: Location) -> Manifest:
    """The manifest of a published folder whose files are all there, each of its recorded size.

    Raises:
        MissingDayError: no such folder.
        HalfWrittenDayError: no manifest, or a file it names is missing or of another size.
        CorruptFileError: the manifest is not one.
        DataError: the store refused, or cannot be reached.
    """
    folder = location_of(folder)
    path = folder / MANIFEST_NAME
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        content = None
    sizes = file_sizes(folder)
    if sizes is None:
        raise MissingDayError(f"{folder}: no such folder; run `prepare` for this day first")
    if content is None:
        raise HalfWrittenDayError(f"{folder}: no {MANIFEST_NAME}, so never whole; prepare it again")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise CorruptFileError(
            f"{path}: not a manifest of this version: {problem}; make the day again"
        ) from None
    for entry in manifest.files:
        num_bytes = sizes.get(entry.name)
        if num_bytes != entry.num_bytes:
            found = "is missing" if num_bytes is None else f"has {num_bytes} bytes"
            raise HalfWrittenDayError(
                f"{folder / entry.name}: {found}, the manifest says {entry.num_bytes} bytes; "
                "prepare the day again"
            )
    return manifest


def find_manifest(folder: Location) -> Manifest | None:
    """Like `read_manifest`, but None where nothing whole is published."""
    try:
        return read_manifest(folder)
    except (MissingDayError, HalfWrittenDayError, CorruptFileError):
        return None


def verify_files(folder: Location, manifest: Manifest) -> None:
    """Read every file and compare its digest.

    Raises:
        DigestError: the bytes of a file, which it names, are not those that were published.
        DataError: the folder's store refused, or cannot be reached.
    """
    for path, entry in zip(file_paths(folder, manifest), manifest.files, strict=True):
        found = sha256_of(path)
        if found != entry.sha256:
            raise DigestError(
                f"{path}: sha256 is {found[:12]}..., the manifest says {entry.sha256[:12]}...; "
                "the file was changed after it was published; prepare the day again"
            )


def publish(
    folder: Location,
    contents: Contents,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    row_group_rows: int = 1024,
) -> Manifest:
    """Write the batches' rows, in their order, and make them visible in one step.

    Row groups have exactly `row_group_rows` rows, the last one of the folder may have fewer: they
    are the unit in which readers shuffle and share out rows. No rows, no files. What is for a
    store is written to a temporary folder and uploaded.
    """
    folder = location_of(folder)
    if isinstance(folder, S3Path):
        with TemporaryDirectory() as written:
            publish(Path(written), contents, schema, batches, row_group_rows)
            return upload_folder(Path(written), folder)
    folder.mkdir(parents=True, exist_ok=True)
    groups = _row_groups(batches, schema, row_group_rows)
    entries: list[FileEntry] = []
    while (first := next(groups, None)) is not None:
        rest = islice(groups, ROW_GROUPS_PER_FILE - 1)
        entries.append(_write_file(folder, len(entries), schema, chain([first], rest)))
    num_rows = sum(entry.num_rows for entry in entries)
    manifest = Manifest(**dict(contents), files=tuple(entries), num_rows=num_rows)
    _write_manifest(folder, manifest)
    _remove_unnamed(folder, manifest)
    return manifest


def _row_groups(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, num_rows: int
) -> Iterator[pa.Table]:
    """Cut the stream into tables of `num_rows` rows, in the schema's columns and types."""
    waiting: list[pa.RecordBatch] = []
    missing = num_rows
    for batch in batches:
        taken = 0
        while taken < batch.num_rows:
            waiting.append(batch.slice(taken, missing))
            taken += waiting[-1].num_rows
            missing -= waiting[-1].num_rows
            if not missing:
                yield pa.Table.from_batches(waiting).select(schema.names).cast(schema)
                waiting, missing = [], num_rows
    if waiting:
        yield pa.Table.from_batches(waiting).select(schema.names).cast(schema)


def _write_file(
    folder: Path, number: int, schema: pa.Schema, groups: Iterable[pa.Table]
) -> FileEntry:
    """Write one Parquet file under a temporary name, then name it after its content."""
    written = folder / f".writing-{number:05d}"
    row_group_rows: list[int] = []
    with pq.ParquetWriter(written, schema, compression="zstd", **encodings_of(schema)) as writer:
        for group in groups:
            writer.write_table(group.combine_chunks(), row_group_size=group.num_rows)
            row_group_rows.append(group.num_rows)
    sha256 = file_sha256(written)
    name = f"part-{number:05d}-{sha256[:12]}.parquet"
    _sync(written)
    num_bytes = written.stat().st_size
    written.replace(folder / name)
    return FileEntry(
        name=name,
        num_rows=sum(row_group_rows),
        row_group_rows=tuple(row_group_rows),
        num_bytes=num_bytes,
        sha256=sha256,
    )


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    written = folder / f".writing-{MANIFEST_NAME}"
    written.write_text(manifest.model_dump_json(indent=1) + "\n")
    _sync(written)
    # The data files' names must be on disk before the manifest that promises them.
    _sync(folder)
    written.replace(folder / MANIFEST_NAME)
    _sync(folder)


def _sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_unnamed(folder: Path, manifest: Manifest) -> None:
    """Remove files of earlier or interrupted builds."""
    named = {MANIFEST_NAME, *(entry.name for entry in manifest.files)}
    for path in folder.iterdir():
        if path.name not in named:
            path.unlink()


def remove_unpublished(root: Path) -> None:
    """Remove what killed runs wrote and never published; no other run may be writing."""
    for kind in KINDS:
        for folder in root.glob(f"{kind}/day=*"):
            if not (folder / MANIFEST_NAME).exists():
                shutil.rmtree(folder)
            elif manifest := find_manifest(folder):
                _remove_unnamed(folder, manifest)


def remove_folder(folder: Path) -> None:
    """Remove a published folder, its manifest first: it is never seen with files missing."""
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    shutil.rmtree(folder)


def upload_folder(source: Path, target: S3Path) -> Manifest:
    """Copy a published folder into a store: its files, then its manifest by one PUT.

    Raises:
        DataError: a local file is missing or changed; the store refused, or cannot be reached.
    """
    manifest = read_manifest(source)
    verify_files(source, manifest)
    there = file_sizes(target) or {}
    for entry in manifest.files:
        # The name carries the content's digest: one of that name and size is the file itself, left
        # by an upload that broke off.
        if there.get(entry.name) != entry.num_bytes:
            upload_file(source / entry.name, target / entry.name)
    upload_file(source / MANIFEST_NAME, target / MANIFEST_NAME)
    for name in there.keys() - {MANIFEST_NAME, *(entry.name for entry in manifest.files)}:
        remove_file(target / name)
    return manifest
