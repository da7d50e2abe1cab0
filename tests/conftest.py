"""What every test starts from: one thread, and no trace of a launcher in the environment."""

import os

import pytest
import torch

LAUNCHER_VARIABLES = (
    "GROUP_RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """More would cost time on small tensors, and make sums depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


# With FROSTRANK_NO_SKIPS set, a test that skips itself, but for want of a GPU, fails the run.
_skipped: list[str] = []


def _note(report):
    if report.skipped and not hasattr(report, "wasxfail") and "GPU" not in str(report.longrepr):
        _skipped.append(f"{report.nodeid}: {report.longrepr[-1]}")


def pytest_runtest_logreport(report):
    """Tests that skip themselves."""
    _note(report)


def pytest_collectreport(report):
    """Modules that do."""
    _note(report)


def pytest_sessionfinish(session):
    """In the process that sums up: that of `pytest`, not its workers."""
    if (
        _skipped
        and os.environ.get("FROSTRANK_NO_SKIPS")
        and not hasattr(session.config, "workerinput")
    ):
        print("\nFROSTRANK_NO_SKIPS is set, but these skipped themselves:", *_skipped, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
