"""What a published folder says of itself: its files, its counts, and what it was made from.

`pipeline.partitions` writes a manifest last of all files and reads it before any of them.
"""

from datetime import date

from pydantic import Field

from pipeline.digests import texts_digest
from pipeline.settings import Settings

__all__ = ["MANIFEST_NAME", "Contents", "FileEntry", "Manifest"]

MANIFEST_NAME = "manifest.json"


class FileEntry(Settings):
    """One data file of a published folder."""

    name: str
    num_rows: int
    row_group_rows: tuple[int, ...]
    num_bytes: int
    sha256: str


class Contents(Settings):
    """What a folder holds and what it was made from: a manifest without its files."""

    kind: str
    day: date | None = None
    counts: dict[str, int] = Field(default={})
    # Rows of the source that are not in here: reason -> rows, and file -> reason -> rows.
    set_aside: dict[str, int] = Field(default={})
    set_aside_files: dict[str, dict[str, int]] = Field(default={})
    input_digest: str = ""
    config_digest: str = ""
    code_version: str = ""
    # Feature -> digest of the vocabulary its rows refer to.
    vocabularies: dict[str, str] = Field(default={})
    # Of requests: tasks whose labels cannot change any more; those of others are null.
    final_tasks: tuple[str, ...] = ()
    # Of a vocabulary: day -> digest, of all days that added values to it.
    lineage: dict[str, str] = Field(default={})


class Manifest(Contents):
    """Everything a reader may believe about a published folder."""

    files: tuple[FileEntry, ...]
    num_rows: int

    @property
    def content_digest(self) -> str:
        """Sixteen hex digits that change when any byte of the data does."""
        return texts_digest(entry.sha256 for entry in self.files)

    def same_build(self, contents: Contents) -> bool:
        """Whether inputs, settings and code are those of `contents`: nothing to do again."""
        names = ("kind", "day", "input_digest", "config_digest", "code_version")
        return all(getattr(self, name) == getattr(contents, name) for name in names)
