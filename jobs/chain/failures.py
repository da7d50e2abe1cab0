"""What a stage fails with: what is the day's own fault, and what another attempt would meet again.

reason, the error that the stage ended with -> the day is rejected, or the stage tried once more
"""

from jobs.chain.stage_job import Job
from pipeline.errors import StageError

__all__ = ["FOR_GOOD", "UNFIT", "StageFailedError"]

UNFIT = ("DataCheckError", "SetAsideError")
"""What a day's data ends with when a threshold stops it"""

FOR_GOOD = (
    *UNFIT,
    *("ConfigError", "DataError", "SchemaError"),
    *("MissingDayError", "HalfWrittenDayError", "CorruptFileError", "NonFiniteLossError"),
)
"""What another attempt would meet again"""


class StageFailedError(StageError):
    """A stage failed in all its attempts; `reason` is the error it ended with."""

    def __init__(self, job: Job, reason: str) -> None:
        super().__init__(f"{job.key}: {reason}")
        self.reason = reason
