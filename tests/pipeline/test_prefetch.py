"""The background thread: order, bound, errors, and that nothing is left of it."""

import subprocess
import sys
import threading
from itertools import count, islice

import pytest

from pipeline.prefetch import prefetched

DEPTHS = [0, 1, 4]


class Source:
    """Counts 0, 1, 2 ... and remembers how far it came and on which thread."""

    def __init__(self, fail_at=None, num_items=None):
        self.num_made = 0
        self.threads = set()
        self.closed = False
        self.made = threading.Semaphore(0)
        # Kept here, so that only whoever closes it, not its last reference, can end it.
        self.items = self._make(fail_at, num_items)

    def _make(self, fail_at, num_items):
        try:
            for number in islice(count(), num_items):
                if number == fail_at:
                    raise ValueError(f"cannot make {number}")
                self.threads.add(threading.current_thread())
                self.num_made += 1
                self.made.release()
                yield number
        finally:
            self.closed = True


@pytest.fixture(autouse=True)
def _no_thread_left(new_threads):
    yield
    assert not new_threads()


@pytest.mark.parametrize("depth", DEPTHS)
def test_all_items_in_order(depth):
    source = Source(num_items=20)
    assert list(prefetched(source.items, depth)) == list(range(20))
    assert source.closed
    assert (threading.current_thread() in source.threads) == (depth == 0)


@pytest.mark.parametrize("depth", DEPTHS)
def test_closing_early_closes_the_source(depth):
    source = Source()
    items = prefetched(source.items, depth)
    assert list(islice(items, 3)) == [0, 1, 2]
    items.close()
    assert source.closed
    assert 3 <= source.num_made <= 3 + depth


def test_works_ahead_before_it_is_asked():
    source = Source()
    items = prefetched(source.items, 1)
    next(items)
    assert source.made.acquire(timeout=10)
    # The consumer has the first and is not asking; only the thread can make the second.
    assert source.made.acquire(timeout=10)
    items.close()


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_error_comes_after_the_items_before_it(depth):
    source = Source(fail_at=2)
    items = prefetched(source.items, depth)
    assert list(islice(items, 2)) == [0, 1]
    with pytest.raises(ValueError, match="cannot make 2"):
        next(items)
    assert source.closed


def test_never_started_starts_no_thread():
    source = Source()
    prefetched(source.items, 4).close()
    assert source.num_made == 0


def test_a_program_may_end_without_closing():
    program = """
from pipeline.prefetch import prefetched
def source():
    try:
        while True:
            yield 1
    finally:
        print("closed")
items = prefetched(source(), 2)
next(items)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("closed\n", "")
