"""A real S3 server on a free port of this machine, for tests: `pytest_plugins = ["tests.s3"]`.

moto's server speaks the protocol over HTTP, so Arrow's own client is what is tested.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from moto import settings as server_settings
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from pyarrow.fs import FileSelector, FileType, S3FileSystem
from werkzeug.serving import make_server

from pipeline.storage import S3Path

BUCKET = "days"


class Store:
    """What the server holds, looked at past the code under test."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.requests: list[str] = []
        """method and key of each request, in their order"""
        self.delay_s = 0.0
        """simulated latency of each request"""
        self._files = S3FileSystem(
            access_key="key",
            secret_key="secret",
            region="us-east-1",
            endpoint_override=endpoint,
            allow_bucket_creation=True,
        )

    def create_bucket(self) -> None:
        self._files.create_dir(BUCKET)

    def folder(self, name: str) -> S3Path:
        return S3Path(BUCKET, name)

    def keys(self, folder: S3Path) -> dict[str, int]:
        """Key under the folder -> bytes of all objects in it."""
        selector = FileSelector(folder.arrow_path, recursive=True, allow_not_found=True)
        found = [f for f in self._files.get_file_info(selector) if f.type == FileType.File]
        return {info.path.removeprefix(f"{folder.arrow_path}/"): info.size for info in found}

    def read(self, path: S3Path) -> bytes:
        with self._files.open_input_file(path.arrow_path) as file:
            return file.read()

    def write(self, path: S3Path, content: bytes) -> None:
        with self._files.open_output_stream(path.arrow_path) as stream:
            stream.write(content)

    def remove(self, path: S3Path) -> None:
        self._files.delete_file(path.arrow_path)

    def copy(self, folder: Path, target: S3Path) -> S3Path:
        """Every file under a local folder, as it is."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write(target.joinpath(*path.relative_to(folder).parts), path.read_bytes())
        return target

    def deny(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let nobody in, to the end of the test."""
        monkeypatch.setattr(server_settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)


class _QuietHandler(MotoRequestHandler):
    def log(self, *arguments) -> None:
        """The tests print enough."""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Store]:
    """One server for all tests; each keeps to folders of its own."""
    answer = DomainDispatcherApplication(create_backend_app)

    def application(environ, start_response):
        store.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        time.sleep(store.delay_s)
        return answer(environ, start_response)

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_QuietHandler)
    store = Store(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        store.create_bucket()
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def s3(s3_server, monkeypatch) -> Store:
    """The server, as the environment's store."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    return s3_server


@pytest.fixture
def s3_folder(s3, tmp_path) -> S3Path:
    """A folder that is this test's own, without anything in it."""
    return s3.folder("/".join(tmp_path.parts[-2:]))
