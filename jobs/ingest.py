"""Raw files in their own format, to the day-partitioned events that `prepare` reads.

    python -m jobs.ingest --config FILE

Reads what [ingest] names; writes source.path/day=D/ and source.path/ingest.json, which accounts
for every row. A rerun with the same files and settings does nothing. `docs/adapters.md` lists the
formats.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from jobs.command import Arguments, run_verb
from pipeline.adapters.ingest import ingest
from pipeline.adapters.report import IngestReport
from pipeline.adapters.settings import IngestSettings
from pipeline.errors import ConfigError
from pipeline.schema import FeatureSettings
from pipeline.source import SourceSettings

__all__ = ["account", "ingest_files", "main"]


def main() -> None:
    """Entry point of the verb."""
    run_verb(_ingest, __doc__)


def _ingest(arguments: Arguments) -> None:
    settings = arguments.settings
    report, is_new = ingest_files(settings.source, settings.ingest, settings.features)
    for line in account(report):
        print(line)
    print(
        f"{settings.source.path}: " + ("written now" if is_new else "up to date, nothing written")
    )


def account(report: IngestReport) -> Iterator[str]:
    """What became of all rows, and of those of each file where some were set aside."""
    set_aside = sum(report.set_aside.values())
    yield (
        f"{report.num_rows:,} rows in {len(report.files)} files = {report.num_written:,} written "
        f"in {len(report.days)} days + {set_aside:,} set aside"
    )
    for name, file in [*report.files.items(), *report.item_files.items()]:
        if file.set_aside:
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in file.set_aside.items())
            yield f"  {name}: {file.num_rows:,} rows, set aside: {reasons}"
    if report.item_files:
        yield f"  rows of items that nothing describes: {report.num_undescribed:,}"
    if report.days:
        yield f"days: {min(report.days)} to {max(report.days)}, {len(report.days)} of them"
    if report.removed_days:
        days = ", ".join(map(str, report.removed_days))
        yield f"removed, for these files do not have them: {days}"


def ingest_files(
    source: SourceSettings, settings: IngestSettings | None, features: Sequence[FeatureSettings]
) -> tuple[IngestReport, bool]:
    """Bring source.path up to date with [ingest]; the report, and whether anything was written.

    Raises:
        ConfigError: no [ingest], or [source] says what [ingest] has already settled.
        DataError: what is wrong with the files.
    """
    if settings is None:
        raise ConfigError("ingest: the config has no such section; docs/adapters.md has examples")
    if source.kind != "events":
        raise ConfigError("source.kind: ingest writes events, not ready-made examples")
    for name in ("columns", "action"):
        if getattr(source, name):
            raise ConfigError(
                f"source.{name}: ingest writes the contract's own columns; say it under [ingest]"
            )
    bars: dict[str, tqdm[Any]] = {}

    def show(step: str, done: int, total: int) -> None:
        if step not in bars:
            bars[step] = tqdm(desc=step, total=total, disable=not sys.stderr.isatty())
        bars[step].update(done - bars[step].n)

    try:
        return ingest(source.path, settings, features, show)
    finally:
        for bar in bars.values():
            bar.close()


if __name__ == "__main__":
    main()
