"""What tests of the daily chain start from."""

import signal

import pytest

from tests.jobs.daily_root import DailyRoot


@pytest.fixture(autouse=True)
def _same_signals():
    """Commands take signals for themselves; what the tests were started with comes back."""
    # A shell that starts the tests in the background may have SIGINT ignored.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)


@pytest.fixture
def chain(tmp_path):
    """A chain of days, none of which is there yet."""
    return DailyRoot(tmp_path)
