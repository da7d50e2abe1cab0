"""What every test starts from: one thread, and no trace of a launcher in the environment."""

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
