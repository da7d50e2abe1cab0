"""Raw files of every kind written by tests, and what ingest made of them."""

import gzip

import pyarrow.parquet as pq

from pipeline.adapters.ingest import ingest
from pipeline.adapters.settings import IngestSettings
from pipeline.schema import FeatureSettings

ITEM = FeatureSettings(name="item_id")


def write(path, content):
    """Write text or bytes, packed if the name ends in .gz; returns the path."""
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def run(folder, files, features=(), **settings):
    """Ingest files into folder/events; the report."""
    made = IngestSettings(files=tuple(map(str, files)), **settings)
    wanted = [ITEM, *(FeatureSettings(name=name) for name in features)]
    report, _ = ingest(folder / "events", made, wanted)
    assert report.num_rows == report.num_written + sum(report.set_aside.values())
    return report


def rows(folder, *names):
    """Rows of all days in order, as tuples of the named columns."""
    return [
        tuple(row[name] for name in names)
        for path in sorted(folder.glob("events/day=*/*.parquet"))
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]
