"""What an adapter is: the files of a format, and how to read one of them in blocks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.adapters.raw_files import Block
from pipeline.adapters.settings import IngestSettings

__all__ = ["Reading"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How one ingest's files are read; whoever made it has checked that the files are there."""

    settings: IngestSettings
    """with what the format itself says: units, actions"""
    files: tuple[Path, ...]
    read: Callable[[Path], Iterator[Block]]
    columns: tuple[str, ...]
    """of the contract and of features, that come out"""
    required: tuple[str, ...] = ()
    """those in which some row must have a value, for the files are no tables that have columns"""
    item_files: tuple[Path, ...] = ()
    read_items: Callable[[Path], Iterator[Block]] = lambda _: iter(())
    """rows that describe items: `item_id`, and columns to add to the events"""
