"""Which version of this program made something: a digest, so that any checkout counts."""

from functools import cache
from pathlib import Path

from pipeline.digests import texts_digest

__all__ = ["program_version"]


@cache
def program_version() -> str:
    """Digest of this program's source."""
    home = Path(__file__).parents[2]
    rooms = ("pipeline", "embeddings", "models", "jobs")
    files = sorted(path for room in rooms for path in (home / room).rglob("*.py"))
    return texts_digest(f"{path.relative_to(home)}\n{path.read_text()}" for path in files)
