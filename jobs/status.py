"""How the daily chain stands: a line a day, then every stage of the latest days.

    python -m jobs.status --config FILE [--days 7] [--day 2024-01-31] [--json]

Reads the ledger and what is published; changes nothing, and may be asked while a day is running.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import get_args

from jobs.chain.driver import day_of, ended_by, ledger_of, settings_of
from jobs.chain.published import Published, published_now
from jobs.command import parser_of
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import DayRecord, Record, Stage
from jobs.settings import JobSettings

__all__ = ["main", "status_lines"]

_ORDER = get_args(Stage)
_MARKS = {
    "submitted": "running",
    "running": "running",
    "succeeded": "ok",
    "failed": "FAILED",
    "cancelled": "stopped",
    "rejected": "REJECTED",
    "lost": "lost",
}
# Which of a stage's figures tell an engineer most.
_FIGURES = {
    "event_rows": "{:,.0f} events",
    "set_aside_rows": "{:,.0f} set aside",
    "run_samples": "{:,.0f} samples",
    "auc": "AUC {:.4f}",
    "published_auc": "published {:.4f}",
    "new_item_auc": "new items {:.4f}",
    "calibration_ratio": "calibration {:.3f}",
    "table_rows": "{:,.0f} rows",
    "rankers": "{:.0f} rankers",
}


def main() -> None:
    """Entry point of the command."""
    parser = parser_of(__doc__)
    parser.add_argument("--days", type=int, default=7, help="how many days; default: 7")
    parser.add_argument("--day", type=day_of, help="the last of them; default: the latest there is")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    arguments = parser.parse_args()
    ended_by(lambda: _show(arguments))


def _show(arguments: argparse.Namespace) -> None:
    settings = settings_of(arguments)
    ledger, published = ledger_of(settings), published_now(settings.data.root)
    last = arguments.day or _latest(ledger, settings)
    first = last - timedelta(days=arguments.days - 1)
    days, records = ledger.days(first, last), ledger.records(first, last)
    if arguments.json:
        text = json.dumps(_as_json(days, records, published), indent=2, default=str)
    else:
        text = "\n".join(status_lines(days, records, published, datetime.now(UTC)))
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # A reader such as head has seen enough; at its exit Python would write the rest once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def status_lines(
    days: Sequence[DayRecord],
    records: Sequence[Record],
    published: Published | None,
    now: datetime,
) -> Iterator[str]:
    """What is printed."""
    if published is None:
        yield "serving: nothing yet"
    else:
        hours = (now - published.at).total_seconds() / 3600
        yield (
            f"serving: models of {published.day}, for {hours:.1f} h "
            f"({published.at:%Y-%m-%d %H:%M} UTC)"
        )
    if not days:
        yield "no day has been run yet"
        return
    latest = {record.key: record for record in records}
    yield ""
    yield from _grid(days, list(latest.values()), now)
    yield ""
    for day in days[:-1]:
        if day.note and day.state in ("failed", "rejected", "waiting"):
            yield f"{day.day}: {_state(day)}: {_first_line(day.note)}"
    yield from _details(days[-1], [r for r in latest.values() if r.key.day == days[-1].day], now)


def _grid(days: Sequence[DayRecord], records: Sequence[Record], now: datetime) -> Iterator[str]:
    """A line a day: its state, and how each stage's latest attempt ended; #2: the second."""
    rows = [["day", "state", *_ORDER]]
    for day in days:
        of_day = [record for record in records if record.key.day == day.day]
        cells = [_cell([r for r in of_day if r.key.stage == stage], now) for stage in _ORDER]
        rows.append([str(day.day), _state(day), *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _state(day: DayRecord) -> str:
    return day.state.upper() if day.state in ("failed", "rejected") else day.state


def _cell(records: Sequence[Record], now: datetime) -> str:
    """Of all tasks together: the worst state, the seconds of all, and which attempt that was."""
    if not records:
        return "-"
    order = ("failed", "rejected", "lost", "cancelled", "running", "submitted", "succeeded")
    worst = min((record.state for record in records), key=order.index)
    attempts = max(record.attempt for record in records)
    return f"{_MARKS[worst]} {_seconds(records, now)}{f' #{attempts}' if attempts > 1 else ''}"


def _seconds(records: Sequence[Record], now: datetime) -> str:
    total = sum(((r.ended or now) - r.started).total_seconds() for r in records)
    return f"{total:.0f}s" if total < 600 else f"{total / 60:.0f}m"


def _details(day: DayRecord, records: Sequence[Record], now: datetime) -> Iterator[str]:
    """Every stage of a day, with what it measured or what it failed with."""
    yield f"{day.day}: {_state(day)} since {day.at:%Y-%m-%d %H:%M} UTC"
    if day.note:
        yield f"  {day.note}"
    for record in sorted(records, key=lambda r: (_ORDER.index(r.key.stage), r.key.task)):
        name = f"{record.key.stage}{f' ({record.key.task})' if record.key.task else ''}"
        figures = [text.format(record.facts[n]) for n, text in _FIGURES.items() if _has(record, n)]
        what = _first_line(record.error) or ", ".join(figures + _judged_on(record))
        attempt = f"attempt {record.attempt}" if record.attempt > 1 else ""
        seconds = _seconds([record], now)
        yield f"  {name:<14} {_MARKS[record.state]:<9} {seconds:>6}  {attempt:<10} {what}".rstrip()


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _judged_on(record: Record) -> list[str]:
    """Of which days the requests were that a model was judged on."""
    days = [n.removeprefix("held_out ") for n in record.inputs if n.startswith("held_out ")]
    return [f"on {' '.join(days)}"] if days else []


def _has(record: Record, name: str) -> bool:
    return record.facts.get(name) is not None


def _latest(ledger: Ledger, settings: JobSettings) -> date:
    """The latest day that anything is recorded of."""
    first = settings.days.pretraining[1]
    days = ledger.days(first, datetime.now(UTC).date())
    return days[-1].day if days else first


def _as_json(
    days: Sequence[DayRecord], records: Sequence[Record], published: Published | None
) -> dict[str, object]:
    return {
        "published": published.model_dump(mode="json") if published else None,
        "days": [
            {"day": day.day, "state": day.state, "note": day.note, "at": day.at} for day in days
        ],
        "stages": [record.columns | {"facts": dict(record.facts)} for record in records],
    }


if __name__ == "__main__":
    main()
