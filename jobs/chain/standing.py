"""How the chain stands: what the ledger and the published files say, for jobs.status to show.

ledger, published -> Standing -> lines, JSON
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from jobs.chain.published import Published
from jobs.ledger.leases import LeaseHolder
from jobs.ledger.records import DayRecord, Record, Stage

__all__ = ["Standing"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """All that is shown."""

    published: Published | None
    driver: LeaseHolder | None
    """who is at work"""
    days: Sequence[DayRecord]
    records: Sequence[Record]
    """all attempts of those days"""
    now: datetime

    def state_of(self, day: DayRecord) -> str:
        """A day's; "left": whoever ran it is gone."""
        return "left" if day.state == "running" and self.driver is None else day.state

    def is_left(self, record: Record) -> bool:
        """Whether nobody watches over an attempt that may still be at work."""
        return record.is_live and (self.driver is None or record.epoch != self.driver.epoch)

    def latest(self, day: date, stage: Stage | None = None) -> list[Record]:
        """The newest attempt at each task of a day's stages, or of one of them."""
        newest = {record.key: record for record in self.records if record.key.day == day}
        return [record for key, record in newest.items() if stage in (None, key.stage)]

    def rows(self, day: date) -> float | None:
        """Events of a day."""
        return next((r.facts.get("event_rows") for r in self.latest(day, "prepare")), None)

    def aucs(self, day: date) -> dict[str, float | None]:
        """Of each task's candidate, as its gate has measured it."""
        return {r.key.task: r.facts.get("auc") for r in self.latest(day, "gate")}
