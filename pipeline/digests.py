"""Digests that say whether something changed: of files, of texts, of the code that builds a day.

A published day records three of them (its inputs, its settings, its code); a rerun that finds all
three unchanged has nothing to do.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["code_version", "file_sha256", "texts_digest"]


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def texts_digest(texts: Iterable[str]) -> str:
    """Sixteen hex digits over the texts in their order; their boundaries count."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def code_version(*modules: str) -> str:
    """Sixteen hex digits over the source of those modules of this room that decide a result."""
    return texts_digest(Path(__file__).with_name(f"{name}.py").read_text() for name in modules)
