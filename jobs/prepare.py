"""What the user brings, to what training reads: clean, count, encode, cut, draw.

    python -m jobs.prepare --config FILE

Reads the days under source.path; writes ROOT/events, vocabulary, catalogue, sequences, requests.
A rerun makes only what changed.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from jobs.claims import claim, prepare_folder
from jobs.command import Arguments, run_verb
from jobs.data_page import write_data_page
from jobs.runs import remove_unfinished, write_json
from jobs.settings import JobSettings
from pipeline.errors import DataError
from pipeline.prepare import PrepareReport, prepare

__all__ = ["main", "prepare_all"]


def main() -> None:
    """Entry point of the verb."""
    run_verb(_prepare, __doc__)


def _prepare(arguments: Arguments) -> None:
    settings = arguments.settings
    claim(prepare_folder(settings.data.root), settings.daily.attempt)
    remove_unfinished(settings.data.root, "progress.json*")
    for line in _lines(prepare_all(settings)):
        print(line)


def _lines(report: PrepareReport) -> Iterator[str]:
    """What was found and made, a line a kind of file and one for the tables."""
    for kind, num_days in report.num_days.items():
        made = report.built[kind]
        which = f", {made[0]} to {made[-1]}" if made else ""
        yield (
            f"{kind}: {report.num_rows[kind]:,} rows in {num_days} days, "
            f"{len(made)} made now{which}"
        )
        for what, counts in (("", report.counts[kind]), ("set aside: ", report.set_aside[kind])):
            if counts:
                yield f"  {what}" + ", ".join(f"{name} {n:,}" for name, n in counts.items())
        if not report.set_aside[kind]:
            yield "  set aside: nothing"
    if report.not_taken_in:
        days = ", ".join(map(str, report.not_taken_in))
        yield (
            f"closed days whose files were changed since they were cleaned: {days}; the changes "
            "are not taken in"
        )
    for task, days in report.open_days.items():
        if days:
            yield (
                f"task {task}: labels of {len(days)} days from {days[0]} on can still change, so "
                "they are not written yet; bring the days after them and prepare again"
            )
    yield "tables: " + ", ".join(
        f"{name} {rows:,} rows" for name, rows in report.table_rows.items()
    )


def prepare_all(settings: JobSettings) -> PrepareReport:
    """Bring everything under the root up to date; a bar a step, and progress.json for watchers."""
    bars: dict[str, tqdm[Any]] = {}

    def show(step: str, done: int, total: int) -> None:
        if step not in bars:
            bars[step] = tqdm(desc=step, total=total, disable=not sys.stderr.isatty())
        bars[step].update(done - bars[step].n)
        state = {"step": done, "total_steps": total, "note": step}
        write_json(settings.data.root / "progress.json", state)

    try:
        report = prepare(replace(settings.preparation, progress=show), settings.engine)
        _check_made_something(settings, report)
        return report
    finally:
        for bar in bars.values():
            bar.close()
        # Also where a day was stopped: the page says which, and why.
        if settings.source.kind == "events":
            write_data_page(settings.data.root)


def _check_made_something(settings: JobSettings, report: PrepareReport) -> None:
    """Raise DataError where not one sequence or request came of all the events."""
    causes = {
        "sequences": f"sequences.actions = {settings.sequences.actions}, sequences.min_length = "
        f"{settings.sequences.min_length} and days.pretraining",
        "requests": f"requests.actions = {settings.requests.actions}, "
        f"requests.min_history = {settings.requests.min_history} and the days of ranking, "
        "validation and test",
    }
    made = {
        "sequences": report.num_rows.get("sequences", 0) + report.num_rows.get("tails", 0),
        "requests": report.num_rows.get("requests", 0),
    }
    for kind, cause in causes.items():
        if settings.source.kind == "events" and not made[kind]:
            raise DataError(
                f"{report.num_rows['events']:,} events, but not one of the {kind}; look at {cause}"
            )


if __name__ == "__main__":
    main()
