"""Runs an iterator in a background thread, a bounded number of items ahead of its consumer."""

import atexit
import queue
import threading
from collections.abc import Generator
from typing import Generic, NamedTuple, TypeVar

__all__ = ["prefetched"]

T = TypeVar("T")


class _End(NamedTuple):
    """The last thing the thread sends: why there are no more items."""

    error: BaseException | None


def prefetched(source: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The items of `source`, made up to `depth` ahead; depth 0 makes each when it is asked for.

    An exception of the source is raised here, after the items before it. Closing this generator
    closes the source and ends the thread; so does the end of the program.
    """
    if depth == 0:
        yield from source
        return
    worker = _Worker(source, depth)
    # A daemon thread still inside Arrow when the interpreter goes away can abort the process, so
    # a generator that nobody closed is closed at exit.
    atexit.register(worker.close)
    try:
        yield from worker.items()
    finally:
        worker.close()
        atexit.unregister(worker.close)


class _Worker(Generic[T]):
    """The thread, the way for items out of it, and the way to stop it."""

    def __init__(self, source: Generator[T, None, None], depth: int) -> None:
        self._source = source
        self._items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        # One permit for each item the thread may still make: nothing ever blocks on a full queue.
        self._permits = threading.Semaphore(depth)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def items(self) -> Generator[T, None, None]:
        while not isinstance(item := self._items.get(), _End):
            self._permits.release()
            yield item
        if item.error is not None:
            raise item.error

    def close(self) -> None:
        self._stopped = True
        self._permits.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._make_items()
        except BaseException as error:  # noqa: BLE001 (all of them belong to the consumer)
            self._items.put(_End(error))
        else:
            self._items.put(_End(None))

    def _make_items(self) -> None:
        try:
            while True:
                self._permits.acquire()
                if self._stopped:
                    return
                self._items.put(next(self._source))
        except StopIteration:
            return
        finally:
            self._source.close()
