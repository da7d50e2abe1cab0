"""Where published folders lie: on a local disk, or in an S3 store through Arrow's own client.

    "s3://bucket/prefix" or a path --location_of--> Location --> bytes, sizes, digests, Parquet

A `Location` joins names like a `Path`; the functions here are all that differs between the two.
What an S3 store is reached by comes from the standard variables, read whenever something is
opened: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL (stores other than Amazon's; those are addressed as
ENDPOINT/bucket/key), AWS_REGION or AWS_DEFAULT_REGION, and credentials as Arrow finds them
(AWS_ACCESS_KEY_ID and so on, the files in ~/.aws, the machine's role). Arrow's default retries are
kept: three attempts a request. Arrow gets paths, never Python file objects, whose reads from its
threads can end the process when the interpreter exits.
"""

import hashlib
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType, S3FileSystem

from pipeline.digests import file_sha256
from pipeline.errors import ConfigError, DataError

__all__ = [
    "Location",
    "S3Path",
    "file_sizes",
    "joined",
    "location_of",
    "open_parquet",
    "read_bytes",
    "read_table",
    "remove_file",
    "sha256_of",
    "store_errors",
    "upload_file",
]

SCHEME = "s3://"
# One request each; large enough that its latency is small beside the transfer.
BLOCK_BYTES = 8 * 2**20
# Arrow's names of what a store answers -> what to do about it.
ADVICE = {
    "NO_SUCH_BUCKET": "there is no such bucket; check its name and AWS_ENDPOINT_URL",
    "NETWORK_CONNECTION": "the store cannot be reached; check AWS_ENDPOINT_URL and the network",
    # Of an object that went away while it was open. Arrow may cut off the answer that says so.
    **dict.fromkeys(
        ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND"), "it is not there any more; upload it again"
    ),
    **dict.fromkeys(
        (
            "ACCESS_DENIED",
            "EXPIRED_TOKEN",
            "INVALID_ACCESS_KEY_ID",
            "INVALID_CLIENT_TOKEN_ID",
            "INVALID_SIGNATURE",
            "MISSING_AUTHENTICATION_TOKEN",
            "SIGNATURE_DOES_NOT_MATCH",
            "UNRECOGNIZED_CLIENT",
        ),
        "access is denied; check the AWS credentials and what they may do",
    ),
}
OTHER_ADVICE = "the store refused; check AWS_ENDPOINT_URL and AWS_REGION, then run again"


@dataclass(frozen=True, slots=True)
class S3Path:
    """`s3://bucket/key`, joined like a Path; making one asks nothing of the store."""

    bucket: str
    key: str = ""

    def __truediv__(self, name: str) -> "S3Path":
        return self.joinpath(name)

    def __str__(self) -> str:
        return f"{SCHEME}{self.arrow_path}"

    def joinpath(self, *names: str) -> "S3Path":
        """The path of `names`, one within the other, under this one."""
        return S3Path(self.bucket, "/".join(part for part in (self.key, *names) if part))

    @property
    def name(self) -> str:
        """The last part."""
        return self.arrow_path.rpartition("/")[2]

    @property
    def arrow_path(self) -> str:
        """As Arrow's S3 file system has it: bucket/key."""
        return f"{self.bucket}/{self.key}" if self.key else self.bucket


Location = Path | S3Path
L = TypeVar("L", bound=Location)


def location_of(place: str | Location) -> Location:
    """What `s3://bucket/prefix` or a local path stands for.

    Raises:
        ConfigError: a URL of another scheme, or without a bucket.
    """
    if not isinstance(place, str):
        return place
    if place.startswith(SCHEME):
        bucket, _, key = place.removeprefix(SCHEME).partition("/")
        if bucket:
            return S3Path(bucket, key.strip("/"))
    elif "://" not in place:
        return Path(place)
    raise ConfigError(f"{place}: expected a local path or {SCHEME}bucket/prefix")


def joined(folder: L, *names: str) -> L:
    """`names`, one within the other, under `folder`."""
    return cast("L", location_of(folder).joinpath(*names))


def read_bytes(path: Location) -> bytes:
    """A whole small file; raises FileNotFoundError, or DataError (see `store_errors`)."""
    if isinstance(path, Path):
        return path.read_bytes()
    with store_errors(path), _store().open_input_file(path.arrow_path) as file:
        return file.read()


def file_sizes(folder: Location) -> dict[str, int] | None:
    """Name -> bytes of the files in a folder; None where there is no such folder.

    A store is asked once for each thousand files, not once for each file.
    """
    if isinstance(folder, Path):
        if not folder.is_dir():
            return None
        return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    try:
        with store_errors(folder):
            found = _store().get_file_info(FileSelector(folder.arrow_path))
    except FileNotFoundError:
        return None
    return {info.base_name: info.size for info in found if info.type == FileType.File}


def sha256_of(path: Location) -> str:
    """Hex digest of a file's bytes, read in blocks; raises as `read_bytes`."""
    if isinstance(path, Path):
        return file_sha256(path)
    digest = hashlib.sha256()
    with store_errors(path), _store().open_input_file(path.arrow_path) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def open_parquet(path: Location) -> pq.ParquetFile:
    """A Parquet file, to be closed; of an S3 object, one read fetches all its columns at once.

    Raises:
        OSError, pa.ArrowInvalid: it is missing, or not Parquet.
        DataError: the store refused, or cannot be reached.
    """
    if isinstance(path, Path):
        return pq.ParquetFile(path)
    with store_errors(path):
        return pq.ParquetFile(path.arrow_path, filesystem=_store(), pre_buffer=True)


def read_table(paths: Sequence[Location], columns: Sequence[str]) -> pa.Table:
    """Some columns of whole files (at least one), one after the other; raises as `open_parquet`."""
    tables: list[pa.Table] = []
    for path in paths:
        with store_errors(path), open_parquet(path) as file:
            tables.append(file.read(columns=list(columns)))
    return pa.concat_tables(tables)


def upload_file(source: Path, target: S3Path) -> None:
    """Copy a local file; the object is made or replaced in one step, once all of it has arrived.

    Interrupted from the keyboard, what was sent so far may become the object: compare sizes. (Not
    by Arrow's `copy_files`: it closes what it wrote without telling whether that worked.)
    """
    with source.open("rb") as file:
        # Read before the object is opened, so that a small one goes up whole or not at all.
        block = file.read(BLOCK_BYTES)
        with store_errors(target), _store().open_output_stream(target.arrow_path) as stream:
            while block:
                stream.write(block)
                block = file.read(BLOCK_BYTES)


def remove_file(path: S3Path) -> None:
    """Remove an object. Arrow leaves an empty one named after the folder, which nothing reads."""
    with store_errors(path):
        _store().delete_file(path.arrow_path)


@contextmanager
def store_errors(path: Location) -> Generator[None]:
    """Turn what the store of `path` answers into a DataError; FileNotFoundError and the rest pass.

    Raises:
        DataError: no such bucket, access denied, no connection, or another refusal of the store.
    """
    try:
        yield
    except OSError as error:
        text = str(error)
        if isinstance(path, Path) or "AWS Error" not in text:
            raise
        advice = next((ADVICE[code] for code in ADVICE if f"AWS Error {code}" in text), None)
        raise DataError(f"{path}: {advice or OTHER_ADVICE} ({text})") from error


def _store() -> Any:
    """The file system that the environment names now."""
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    return _connected(endpoint or None, region or None)


@lru_cache(maxsize=4)
def _connected(endpoint: str | None, region: str | None) -> Any:
    """One file system a store, so that its connections are used again; fit for several threads.

    Small objects go up in one request, without one before that asks for a multipart upload.
    """
    return S3FileSystem(endpoint_override=endpoint, region=region, allow_delayed_open=True)
