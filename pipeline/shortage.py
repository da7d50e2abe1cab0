"""What runs out under a job, disk or memory, told as an error that a user can act on.

Every verb runs within `shortages_told`; libraries say it in many ways, so it is found here once.
"""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import FrostrankError, ShortageError

__all__ = ["shortages_told"]

# By the system, by a quota, and by DuckDB, which never takes all that is free.
FULL_DISK = ("No space left on device", "Disk quota exceeded", "max_temp_directory_size")
# By DuckDB and by Java.
NO_MEMORY = ("Out of Memory Error", "OutOfMemoryError")


@contextmanager
def shortages_told(root: Path) -> Generator[None]:
    """Raise ShortageError in place of whatever says that disk or memory ran out.

    `root` is where the job writes.
    """
    try:
        yield
    except FrostrankError:
        raise
    except Exception as error:
        text = str(error)
        line = text.partition("\n")[0]
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or any(mark in text for mark in FULL_DISK):
            raise ShortageError(
                f"{root}: no space left on its disk ({line}); what was published is whole; make "
                "space, then run the same command again"
            ) from error
        if isinstance(error, MemoryError) or any(mark in text for mark in NO_MEMORY):
            raise ShortageError(
                f"memory ran out ({line}); what was published is whole; raise engine.memory_limit "
                "(for Spark: spark.driver.memory, under engine.spark), or lower engine.threads, "
                "then run the same command again"
            ) from error
        raise
