"""The account of a day's rows: what came in, what was set aside, why, and from which file.

Kept for events by `events`, for ready-made sequences and requests by `examples`; it ends in the
day's manifest, or in a SetAsideError.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from ibis.expr.types import Table

from pipeline.engine import Engine
from pipeline.errors import SetAsideError
from pipeline.partitions import Contents
from pipeline.source import SourceSettings

__all__ = ["Account", "add_reasons"]


@dataclass
class Account:
    """Rows of one day while they are checked."""

    num_rows: int = 0
    by_file: dict[str, Counter[str]] = field(default_factory=dict)
    """file label -> reason -> rows"""
    details: dict[str, str] = field(default_factory=dict)
    """file label -> what is wrong with the file as a whole"""

    def add(self, file: str, reason: str, num_rows: int) -> None:
        """Set rows aside."""
        self.by_file.setdefault(file, Counter())[reason] += num_rows

    @property
    def by_reason(self) -> Counter[str]:
        """Rows set aside, by reason."""
        return sum(self.by_file.values(), Counter())

    def bad_rows(self, source: SourceSettings) -> Counter[str]:
        """Rows set aside, by reason, without those that the user asked to set aside."""
        return Counter({r: n for r, n in self.by_reason.items() if r not in source.set_aside})

    def check_share(self, source: SourceSettings, day: date) -> None:
        """Raise SetAsideError if more rows are bad than the user accepts."""
        bad = self.bad_rows(source)
        if bad.total() <= source.max_set_aside_share * self.num_rows:
            return
        reason, of_reason = bad.most_common(1)[0]
        file = max(self.by_file, key=lambda name: self.by_file[name][reason])
        detail = f" ({self.details[file]})" if file in self.details else ""
        raise SetAsideError(
            f"day {day}: {bad.total()} of {self.num_rows} rows set aside, more than "
            f"source.max_set_aside_share = {source.max_set_aside_share} allows; {of_reason} for "
            f"{reason}, {self.by_file[file][reason]} of these in {file}{detail}; all reasons: "
            + ", ".join(f"{name} {number}" for name, number in sorted(bad.items()))
            + ". Mend the files or [source] (columns, set_aside), or raise the share"
        )

    def written_into(self, contents: Contents, counts: Mapping[str, int]) -> Contents:
        """`contents` with this account and further counts."""
        return contents.model_copy(
            update={
                "counts": {"rows_in": self.num_rows, **counts},
                "set_aside": dict(sorted(self.by_reason.items())),
                "set_aside_files": {
                    file: dict(sorted(reasons.items()))
                    for file, reasons in sorted(self.by_file.items())
                },
            }
        )


def add_reasons(engine: Engine, rows: Table, accounts: Mapping[date, Account]) -> None:
    """Count rows (day, file, reason; reason is null for good ones) into their days' accounts."""
    aside = rows.filter(rows.reason.notnull()).group_by("day", "file", "reason")
    for row in engine.rows_of(aside.agg(num_rows=lambda t: t.count())):
        accounts[row["day"]].add(row["file"], row["reason"], row["num_rows"])
