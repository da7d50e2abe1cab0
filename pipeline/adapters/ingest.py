"""From raw files in their own format to SOURCE/day=D/*.parquet, which `prepare` reads.

    adapter: files -> blocks -> staging -> one folder per day, manifest last -> ingest.json

A plain function; `jobs.ingest` is its command. Each day is replaced in one step. The report comes
last and accounts for every row: rows in = rows written + rows set aside, by file and reason.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.adapters.amazon_reviews import amazon_reading
from pipeline.adapters.complete_journey import complete_journey_reading
from pipeline.adapters.generic import generic_reading
from pipeline.adapters.movielens import movielens_reading
from pipeline.adapters.owned_folder import remove_other_days, working_folder
from pipeline.adapters.reading import Reading
from pipeline.adapters.report import FileReport, IngestReport, find_report, write_report
from pipeline.adapters.settings import IngestSettings
from pipeline.adapters.staging import Staging
from pipeline.adapters.taobao import taobao_reading
from pipeline.day_streams import publish_days
from pipeline.digests import file_sha256, texts_digest
from pipeline.errors import ConfigError, DataError, SchemaError
from pipeline.partitions import Contents, find_manifest
from pipeline.progress import Progress, no_progress, ticker
from pipeline.schema import FeatureSettings
from pipeline.settings import settings_digest

__all__ = ["ingest"]

ROW_GROUP_ROWS = 131_072


def ingest(
    folder: Path,
    settings: IngestSettings,
    features: Sequence[FeatureSettings],
    progress: Progress = no_progress,
) -> tuple[IngestReport, bool]:
    """Write the events of raw files as FOLDER/day=D/; the report, and whether anything was done.

    Nothing is done if files, settings and code are those of the last time and its days are whole.
    Days of an earlier ingest that these files do not have are removed, and reported. Formats that
    a package has are fetched into the folder `download` beside FOLDER.

    Raises:
        ConfigError: settings that contradict the format, the features or the files' columns.
        DataError: what is wrong with a file or its columns; `folder` holds somebody else's days;
            no row could be written.
    """
    folder = Path(folder)
    with working_folder(folder) as work, duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        # Tables and sorts that outgrow memory go there.
        connection.execute("SET temp_directory = ?", [str(work / "spill")])
        reading = _reading(connection, settings, features, folder.parent / "download")
        _check_features(settings, reading, features)
        draft = _draft(settings, reading, features)
        former = find_report(folder)
        if former is not None and former.same_build(draft) and _is_whole(folder, former):
            return former, False
        # From here on the folder is neither what it was nor what it will be.
        write_report(folder, None)
        report = _write(connection, reading, folder, draft, progress)
        write_report(folder, report)
    return report, True


def _reading(
    connection: duckdb.DuckDBPyConnection,
    settings: IngestSettings,
    features: Sequence[FeatureSettings],
    cache_dir: Path,
) -> Reading:
    match settings.format:
        case "csv" | "jsonl" | "parquet":
            return generic_reading(connection, settings, features)
        case "amazon_reviews":
            return amazon_reading(connection, settings)
        case "taobao":
            return taobao_reading(settings)
        case "movielens":
            return movielens_reading(settings, cache_dir)
        case "complete_journey":
            return complete_journey_reading(settings, cache_dir)


def _check_features(
    settings: IngestSettings, reading: Reading, features: Sequence[FeatureSettings]
) -> None:
    for number, feature in enumerate(features):
        if feature.name not in reading.columns:
            raise ConfigError(
                f"features.{number}.name: ingest.format = {settings.format!r} has no "
                f"{feature.name!r} here; it has {', '.join(dict.fromkeys(reading.columns))}"
            )


def _draft(
    settings: IngestSettings, reading: Reading, features: Sequence[FeatureSettings]
) -> IngestReport:
    """A report that says only what is to be done."""
    inputs = dict.fromkeys([*reading.files, *reading.item_files])
    names = texts_digest(feature.name for feature in features)
    code = sorted(Path(__file__).parent.glob("*.py"))
    return IngestReport(
        format=settings.format,
        input_digest=texts_digest(t for path in inputs for t in (str(path), file_sha256(path))),
        config_digest=texts_digest([settings_digest(settings), names]),
        code_version=texts_digest(path.read_text() for path in code),
        files={},
        days={},
    )


def _is_whole(folder: Path, report: IngestReport) -> bool:
    manifests = {day: find_manifest(folder / f"day={day}") for day in report.days}
    return all(
        manifest is not None
        and manifest.num_rows == report.days[day]
        and manifest.input_digest == report.input_digest
        for day, manifest in manifests.items()
    )


def _write(
    connection: duckdb.DuckDBPyConnection,
    reading: Reading,
    folder: Path,
    draft: IngestReport,
    progress: Progress,
) -> IngestReport:
    staging = Staging(connection, reading.settings)
    item_files = _stage_items(reading, staging)
    files = _stage_rows(reading, staging, progress)
    counted = {
        "files": files,
        "item_files": item_files,
        "num_undescribed": staging.undescribed_rows(),
        "days": staging.days(),
    }
    report = draft.model_copy(update=counted)
    _check_rows(reading, staging, report)
    _publish(staging, folder, report, progress)
    return report.model_copy(update={"removed_days": remove_other_days(folder, report.days)})


def _stage_items(reading: Reading, staging: Staging) -> dict[str, FileReport]:
    num_rows: Counter[int] = Counter()
    for number, path in enumerate(reading.item_files):
        for block in reading.read_items(path):
            staging.add_items(number, block)
            num_rows[number] += block.num_rows
    return _file_reports(reading.item_files, num_rows, staging.items_set_aside())


def _stage_rows(reading: Reading, staging: Staging, progress: Progress) -> dict[str, FileReport]:
    num_rows: Counter[int] = Counter()
    tick = ticker(progress, "files", len(reading.files))
    for number, path in enumerate(reading.files):
        for block in reading.read(path):
            staging.add(number, block)
            num_rows[number] += block.num_rows
        tick()
    return _file_reports(reading.files, num_rows, staging.set_aside())


def _file_reports(
    paths: Sequence[Path],
    num_rows: Mapping[int, int],
    set_aside: Mapping[int, dict[str, int]],
) -> dict[str, FileReport]:
    return {
        str(path): FileReport(num_rows=num_rows[number], set_aside=set_aside.get(number, {}))
        for number, path in enumerate(paths)
    }


def _check_rows(reading: Reading, staging: Staging, report: IngestReport) -> None:
    """Raise DataError unless there is something to write, with a value in every column."""
    assert report.num_rows == report.num_written + sum(report.set_aside.values())
    if not report.days:
        found = ", ".join(f"{reason} {rows:,}" for reason, rows in report.set_aside.items())
        raise DataError(
            f"{', '.join(report.files)}: not one row of {report.num_rows:,} could be written "
            f"({found or 'there are none'}); look at [ingest]"
        )
    if empty := staging.empty_columns(reading.required):
        raise SchemaError(
            f"{', '.join(report.files)}: no row has a value for {', '.join(empty)}; say under "
            "ingest.columns where it is"
        )


def _publish(staging: Staging, folder: Path, report: IngestReport, progress: Progress) -> None:
    contents = {
        day: Contents(
            kind=folder.name,
            day=day,
            input_digest=report.input_digest,
            config_digest=report.config_digest,
            code_version=report.code_version,
        )
        for day in report.days
    }
    rows = staging.stream()
    schema = pa.schema([field for field in rows.schema if field.name != "day"])
    utc = pa.field("event_time", pa.timestamp("us", tz="UTC"))
    schema = schema.set(schema.get_field_index("event_time"), utc)
    tick = ticker(progress, "days", len(contents))
    publish_days(folder.parent, rows, contents, schema, ROW_GROUP_ROWS, tick)
