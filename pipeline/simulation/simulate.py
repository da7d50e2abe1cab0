"""From settings to a folder: every day published as soon as it is simulated, then the summary.

    ROOT/events/day=D/  ROOT/truth/day=D/  ROOT/truth/summary.json  ROOT/simulation.json

`simulation.json` holds the settings and marks the folder as a simulation's own: publishing a day
removes what else is in its folder. A run that was cut off is repeated from the first day, with the
same result.
"""

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from pipeline.digests import texts_digest
from pipeline.errors import DataError
from pipeline.partitions import Contents, day_folder, publish
from pipeline.progress import Progress, no_progress, ticker
from pipeline.settings import settings_digest
from pipeline.simulation.figures import Figures, Summary
from pipeline.simulation.log import EVENTS_SCHEMA, TRUTH_SCHEMA, EventLog, truth_batch
from pipeline.simulation.marketplace import Marketplace, SimulationSettings

__all__ = ["SUMMARY", "simulate"]

SUMMARY = Path("truth/summary.json")
MARK = "simulation.json"
ROW_GROUP_ROWS = 131_072


def simulate(settings: SimulationSettings, root: Path, progress: Progress = no_progress) -> Summary:
    """Simulate all days into `root`, and return what is known of them.

    Raises:
        DataError: `root` holds something else, or another simulation.
    """
    root = Path(root)
    _claim(root, settings)
    marketplace = Marketplace(settings)
    log = EventLog(marketplace.catalogue, settings.first_day, settings.days)
    figures = Figures(settings, marketplace.catalogue)
    tick = ticker(progress, "simulated days", settings.days)
    for day in range(settings.days):
        _simulate_day(root, day, marketplace, log, figures)
        tick()
    summary = figures.summary(log.counts)
    (root / SUMMARY).write_text(summary.model_dump_json(indent=1) + "\n")
    return summary


def _claim(root: Path, settings: SimulationSettings) -> None:
    """Mark the folder as this simulation's."""
    mark, content = root / MARK, settings.model_dump_json(indent=1) + "\n"
    if mark.is_file():
        if mark.read_text() != content:
            raise DataError(
                f"{root}: holds a simulation with other settings ({mark.name} has them); choose "
                "another folder, or remove this one"
            )
    elif root.exists() and any(root.iterdir()):
        raise DataError(f"{root}: not empty, and no simulation; choose another folder")
    root.mkdir(parents=True, exist_ok=True)
    mark.write_text(content)
    (root / SUMMARY).unlink(missing_ok=True)


def _simulate_day(
    root: Path, day: int, marketplace: Marketplace, log: EventLog, figures: Figures
) -> None:
    """Publish a day's events as they are made, and its truth, which waits in a file, after them."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".truth-") as waiting:
        path = Path(waiting) / "truth.arrow"

        def events() -> Iterator[pa.RecordBatch]:
            with pa.ipc.new_stream(path, TRUTH_SCHEMA) as truth:
                for shown in marketplace.day(day):
                    figures.update(shown)
                    truth.write_batch(truth_batch(shown, marketplace.catalogue))
                    yield log.batch(shown)
            figures.end_day()
            yield from log.due(day)

        _publish(root, "events", day, marketplace.settings, EVENTS_SCHEMA, events())
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as truth:
            _publish(root, "truth", day, marketplace.settings, TRUTH_SCHEMA, truth)


def _publish(
    root: Path,
    kind: str,
    day: int,
    settings: SimulationSettings,
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
) -> None:
    date = settings.first_day + timedelta(days=day)
    contents = Contents(
        kind=kind,
        day=date,
        config_digest=settings_digest(settings),
        code_version=_code_version(),
    )
    publish(day_folder(root, kind, date), contents, schema, batches, ROW_GROUP_ROWS)


def _code_version() -> str:
    """Sixteen hex digits over the source of this package."""
    return texts_digest(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
