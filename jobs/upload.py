"""Copies what training reads from the data root into an S3 store, as far as it is not there.

    python -m jobs.upload --config FILE --to s3://bucket/prefix [--set a.b=value ...]

The published folders of vocabularies, catalogue, sequences and requests, of all days: in each the
files first, then its manifest, so that a reader sees a folder whole or not at all. A folder whose
manifest is there already is left alone; an upload that broke off goes on where it stopped. How the
store is reached comes from the environment: see `pipeline.storage`.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from jobs.settings import JobSettings
from pipeline.errors import ConfigError, DataError, FrostrankError
from pipeline.manifests import MANIFEST_NAME
from pipeline.partitions import find_manifest, read_manifest, upload_folder
from pipeline.settings import load_settings
from pipeline.storage import S3Path, location_of

__all__ = ["UploadReport", "main", "upload"]

KINDS = (
    "vocabulary",
    "catalogue",
    "sequences",
    "increments",
    "tails",
    "requests",
    "held_out",
)
# Folders on their way at a time: of small ones, most of the time is waiting for the store.
THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadReport:
    """What became of the folders of one kind."""

    num_uploaded: int
    num_there: int
    """folders that the store had already, as they are here"""
    num_bytes: int
    """of the uploaded folders' files"""
    unpublished: tuple[Path, ...]
    """folders without a manifest: never whole here, so not uploaded"""


def main() -> None:
    """Entry point; exit 0, 1 (it failed) or 2 (settings are wrong)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="TOML file")
    parser.add_argument("--to", required=True, metavar="s3://bucket/prefix", help="where to")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", dest="overrides")
    arguments = parser.parse_args()
    try:
        settings = load_settings(JobSettings, arguments.config, arguments.overrides)
        target = location_of(arguments.to)
        if not isinstance(target, S3Path):
            raise ConfigError(f"--to {target}: expected s3://bucket/prefix")
        for kind, report in upload(settings.data.root, target).items():
            for line in _lines(kind, report):
                print(line)
    except FrostrankError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        print("interrupted; what was published is whole; run it again to go on", file=sys.stderr)
        sys.exit(130)


def _lines(kind: str, report: UploadReport) -> Iterator[str]:
    yield (
        f"{kind}: {report.num_uploaded} folders uploaded ({report.num_bytes:,} bytes), "
        f"{report.num_there} there already"
    )
    for folder in report.unpublished:
        yield f"  left out, never whole: {folder}"


def upload(root: Path, target: S3Path) -> dict[str, UploadReport]:
    """Bring everything under `target` up to date with `root`; kind -> what was done.

    Raises:
        DataError: there is nothing to upload, a folder's files are not those that its manifest
            names, or the store refused or cannot be reached.
    """
    reports = {kind: _upload_kind(root, kind, target) for kind in KINDS}
    if not any(report.num_uploaded + report.num_there for report in reports.values()):
        raise DataError(f"{root}: nothing is published here; run `prepare` first")
    return reports


def _upload_kind(root: Path, kind: str, target: S3Path) -> UploadReport:
    folders = sorted(path for path in (root / kind).rglob("day=*") if path.is_dir())
    published = [folder for folder in folders if (folder / MANIFEST_NAME).is_file()]
    threads = ThreadPoolExecutor(THREADS)
    try:
        sizes = threads.map(lambda f: _upload(f, target.joinpath(*_parts(f, root))), published)
        bar = tqdm(sizes, kind, total=len(published), disable=not sys.stderr.isatty())
        num_bytes = [size for size in bar if size is not None]
    finally:
        # Where one fails, those that have not begun need not.
        threads.shutdown(cancel_futures=True)
    return UploadReport(
        num_uploaded=len(num_bytes),
        num_there=len(published) - len(num_bytes),
        num_bytes=sum(num_bytes),
        unpublished=tuple(f for f in folders if f.is_dir() and f not in published),
    )


def _parts(folder: Path, root: Path) -> tuple[str, ...]:
    return folder.relative_to(root).parts


def _upload(source: Path, target: S3Path) -> int | None:
    """Bytes of the folder's files if it had to be uploaded."""
    if find_manifest(target) == read_manifest(source):
        return None
    return sum(entry.num_bytes for entry in upload_folder(source, target).files)


if __name__ == "__main__":
    main()
