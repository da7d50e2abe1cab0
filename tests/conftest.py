"""What every test starts from: one thread, no trace of a launcher in the environment, no deadline.

And which worker of pytest-xdist runs which modules.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# How long an example takes says nothing of what is tested; on a busy machine it may be anything.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

LAUNCHER_VARIABLES = (
    "GROUP_RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
)


# Modules that go to one worker, as they share a fixture that takes a minute to make.
TOGETHER = {
    f"tests/integration/test_{module}.py": fixture
    for fixture, modules in {
        "chain": ("bad_input", "chain", "processes"),
        "ready": ("daily", "daily_bad_days", "daily_drivers"),
    }.items()
    for module in modules
}
MOST_WORKERS = 4


def pytest_xdist_auto_num_workers():
    """One more than there are cores: many tests wait, for a process or a poll."""
    return min(len(os.sched_getaffinity(0)) + 1, MOST_WORKERS)


class _ByModule(LoadScopeScheduling):
    """Each module's tests by one worker, and those of modules that share a fixture."""

    def _split_scope(self, nodeid):
        module = nodeid.partition("::")[0]
        return TOGETHER.get(module, module)


def pytest_xdist_make_scheduler(config, log):
    """For `--dist loadscope`."""
    return _ByModule(config, log) if config.getvalue("dist") == "loadscope" else None


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
