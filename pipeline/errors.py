"""Every error this project raises for a reason outside its own code, as one tree.

    FrostrankError
    |-- ConfigError              a setting is unknown, mistyped or contradicts another
    |-- DataError                files a user or an earlier stage brought
    |   |-- SchemaError          a column is missing, has the wrong type or breaks the contract
    |   |-- SetAsideError        more rows were set aside than the threshold allows
    |   |-- DataCheckError       a day's figures break a threshold of [checks]
    |   |-- MissingDayError      a day of the asked range is not there
    |   |-- HalfWrittenDayError  a day is there, but not whole
    |   |-- CorruptFileError     a file cannot be read as what it claims to be
    |   |-- DigestError          content differs from what its manifest says
    |   `-- VocabularyError      rows were built with another vocabulary
    |-- ExportError              a sparse export does not fit what it is transferred to
    |-- CheckpointError          no usable checkpoint, or one of another run
    |-- LedgerError              the ledger cannot be used, or refuses a change
    |   |-- LeaseHeldError       another process is at work on the same
    |   `-- LeaseLostError       another process has taken over
    |-- ShortageError            the disk is full, or memory ran out
    |-- NonFiniteLossError       training met NaN or infinity
    |-- PublicationError         what serves cannot be told, or cannot be changed so
    |-- RejectedError            a gate, or a day's own data, keeps it from being published
    |-- StageError               a stage submitted to a scheduler did not succeed
    |   `-- UnansweredError      its scheduler does not answer, so nobody can say how it is
    `-- WaitingError             a day's data, or the day before it, is not there yet

Catch `FrostrankError` to turn a failure into one line and an exit code; the jobs do. Each message
names the file, row, column or setting, and what to do about it.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorruptFileError",
    "DataCheckError",
    "DataError",
    "DigestError",
    "ExportError",
    "FrostrankError",
    "HalfWrittenDayError",
    "LeaseHeldError",
    "LeaseLostError",
    "LedgerError",
    "MissingDayError",
    "NonFiniteLossError",
    "PublicationError",
    "RejectedError",
    "SchemaError",
    "SetAsideError",
    "ShortageError",
    "StageError",
    "UnansweredError",
    "VocabularyError",
    "WaitingError",
]


class FrostrankError(Exception):
    """Base of all errors that a user of the project can act on."""


class ConfigError(FrostrankError):
    """A setting is unknown, mistyped or contradicts another; the message has its dotted path."""


class DataError(FrostrankError):
    """Base of everything wrong with files that were brought or written by an earlier stage."""


class SchemaError(DataError):
    """A column is missing, has the wrong type, or its content breaks the data contract."""


class SetAsideError(DataError):
    """More rows were set aside than `source.max_set_aside_share` allows."""


class DataCheckError(DataError):
    """A day's figures break a threshold of `[checks]`, so the day is not published."""


class MissingDayError(DataError):
    """A day of the asked range does not exist."""


class HalfWrittenDayError(DataError):
    """A day's folder exists but was never published whole."""


class CorruptFileError(DataError):
    """A file cannot be read as what it claims to be (truncated Parquet, say)."""


class DigestError(DataError):
    """Bytes differ from the digest their manifest recorded."""


class VocabularyError(DataError):
    """Rows were built with a vocabulary other than the one in use."""


class ExportError(FrostrankError):
    """A sparse export is missing, or does not match the tables it is transferred to."""


class CheckpointError(FrostrankError):
    """There is no usable checkpoint, or it belongs to a run with other settings."""


class LedgerError(FrostrankError):
    """The ledger cannot be reached or read, or a change does not follow from what it holds."""


class LeaseHeldError(LedgerError):
    """Another process holds the lease; the message says which, since when and until when."""


class LeaseLostError(LedgerError):
    """Another process took the lease over, so this one must submit and publish nothing more."""


class ShortageError(FrostrankError):
    """The disk is full, or memory ran out."""


class NonFiniteLossError(FrostrankError):
    """The loss or the gradient norm became NaN or infinite."""


class PublicationError(FrostrankError):
    """What serves cannot be told or changed."""


class RejectedError(FrostrankError):
    """A gate, or its data, kept a day from being published; what was published before serves on."""


class WaitingError(FrostrankError):
    """A day cannot run yet: its data is not there, or the day before it has not been settled."""


class StageError(FrostrankError):
    """A stage submitted to a scheduler ended in anything but success."""


class UnansweredError(StageError):
    """A scheduler does not answer, so a stage may be at work or not."""
