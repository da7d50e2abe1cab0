"""How the daily chain stands: a line a day, then every stage of the latest days.

    python -m jobs.status --config FILE [--days 7] [--day 2024-01-31] [--json]

Reads the ledger and what is published; changes nothing, and may be asked while a day is running.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

from jobs.chain.driver import day_of, ended_by, ledger_url, settings_of
from jobs.chain.published import published_now
from jobs.chain.standing import Standing
from jobs.command import parser_of, printed
from jobs.ledger.ledger import Ledger, look_at_ledger
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

    def show() -> None:
        settings = settings_of(arguments)
        with look_at_ledger(ledger_url(settings)) as ledger:
            _show(arguments, settings, ledger)

    ended_by(show)


def _show(arguments: argparse.Namespace, settings: JobSettings, ledger: Ledger) -> None:
    published = published_now(settings.data.root)
    last = arguments.day or _latest(ledger, settings)
    first = last - timedelta(days=arguments.days - 1)
    standing = Standing(
        published=published,
        # Asked first: what a driver begins after this is seen as its own.
        driver=ledger.holder("daily"),
        days=ledger.days(first, last),
        records=ledger.records(first, last),
        now=datetime.now(UTC),
    )
    if arguments.json:
        printed([json.dumps(_as_json(standing), indent=2, default=str)])
    else:
        printed(status_lines(standing))


def status_lines(standing: Standing) -> Iterator[str]:
    """What is printed."""
    published, now = standing.published, standing.now
    if published is None:
        yield "serving: nothing yet"
    else:
        hours = (now - published.at).total_seconds() / 3600
        yield (
            f"serving: models of {published.day}, for {hours:.1f} h "
            f"({published.at:%Y-%m-%d %H:%M} UTC)"
        )
    yield f"driver: {_driver(standing)}"
    if not standing.days:
        yield "no day has been run yet"
        return
    yield ""
    yield from _grid(standing)
    yield ""
    *earlier, last = standing.days
    for day in earlier:
        if day.note and day.state in ("failed", "rejected", "waiting"):
            yield f"{day.day}: {_state(standing, day)}: {_first_line(day.note)}"
    yield from _details(standing, last)


def _driver(standing: Standing) -> str:
    driver = standing.driver
    if driver is not None:
        return f"process {driver.pid} on {driver.host}, since {_clock_time(driver.since)}"
    is_left = any(standing.state_of(day) == "left" for day in standing.days)
    is_left = is_left or any(map(standing.is_left, standing.records))
    left = ", and what the last one was at is left: run the same command again" if is_left else ""
    return f"none is at work{left}"


def _grid(standing: Standing) -> Iterator[str]:
    """A line a day: its state and rows, how each stage ended, what its candidates are like."""
    tasks = sorted({task for day in standing.days for task in standing.aucs(day.day)})
    named = [f"{'' if number else 'AUC '}{task}" for number, task in enumerate(tasks)]
    rows = [["day", "state", "rows", *_ORDER, *named]]
    for day in standing.days:
        cells = [_cell(standing, standing.latest(day.day, stage)) for stage in _ORDER]
        aucs = standing.aucs(day.day)
        rows.append(
            [
                str(day.day),
                _state(standing, day),
                _short(standing.rows(day.day)),
                *cells,
                *("-" if aucs.get(task) is None else f"{aucs[task]:.3f}" for task in tasks),
            ]
        )
    yield from _aligned(rows)


def _state(standing: Standing, day: DayRecord) -> str:
    state = standing.state_of(day)
    return state.upper() if state in ("failed", "rejected", "left") else state


def _cell(standing: Standing, records: Sequence[Record]) -> str:
    """Of all tasks together: the worst state, the seconds of all, and which attempt that was."""
    if not records:
        return "-"
    attempts = max(record.attempt for record in records)
    number = f" #{attempts}" if attempts > 1 else ""
    if any(map(standing.is_left, records)):
        return f"LEFT{number}"
    order = ("failed", "rejected", "lost", "cancelled", "running", "submitted", "succeeded")
    worst = min((record.state for record in records), key=order.index)
    return f"{_MARKS[worst]} {_seconds(records, standing.now)}{number}"


def _seconds(records: Sequence[Record], now: datetime) -> str:
    total = sum(((r.ended or now) - r.started).total_seconds() for r in records)
    return f"{total:.0f}s" if total < 600 else f"{total / 60:.0f}m"


def _short(rows: float | None) -> str:
    if rows is None:
        return "-"
    return f"{rows:,.0f}" if rows < 1e6 else f"{rows / 1e6:,.1f}M"


def _details(standing: Standing, day: DayRecord) -> Iterator[str]:
    """Every stage of a day, with what it measured or what it failed with."""
    yield f"{day.day}: {_state(standing, day)} since {_clock_time(day.at)}"
    if day.note:
        yield f"  {day.note}"
    records = standing.latest(day.day)
    in_order = sorted(records, key=lambda r: (_ORDER.index(r.key.stage), r.key.task))
    for line in _aligned([_detail(standing, record) for record in in_order]):
        yield f"  {line}"


def _detail(standing: Standing, record: Record) -> list[str]:
    name = f"{record.key.stage}{f' ({record.key.task})' if record.key.task else ''}"
    attempt = [f"attempt {record.attempt}"] if record.attempt > 1 else []
    if standing.is_left(record):
        what = f"began {_clock_time(record.started)}; {record.driver} was its driver"
        return [name, "LEFT", "", ", ".join([*attempt, what])]
    figures = [text.format(record.facts[n]) for n, text in _FIGURES.items() if _has(record, n)]
    what = [_first_line(record.error)] if record.error else figures + _judged_on(record)
    seconds = _seconds([record], standing.now)
    return [name, _MARKS[record.state], seconds, ", ".join(attempt + what)]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _clock_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


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


def _as_json(standing: Standing) -> dict[str, object]:
    """The same for programs."""
    published, driver = standing.published, standing.driver
    return {
        "published": published.model_dump(mode="json") if published else None,
        "driver": asdict(driver) if driver else None,
        "days": [_day_as_json(standing, day) for day in standing.days],
        "stages": [
            record.columns | {"facts": dict(record.facts), "left": standing.is_left(record)}
            for record in standing.records
        ],
    }


def _day_as_json(standing: Standing, day: DayRecord) -> Mapping[str, Any]:
    return {
        "day": day.day,
        "state": standing.state_of(day),
        "note": day.note,
        "at": day.at,
        "rows": standing.rows(day.day),
        "auc": standing.aucs(day.day),
    }


if __name__ == "__main__":
    main()
