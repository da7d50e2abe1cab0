"""Bringing what training reads into a store: all of it, once, whole or not at all."""

import shutil
import sys
from datetime import date

import pyarrow as pa
import pytest

from jobs import upload as job
from jobs.settings import JobSettings
from jobs.upload import upload
from pipeline import partitions
from pipeline.errors import DataError, DigestError
from pipeline.partitions import Contents, day_folder, publish, read_manifest
from pipeline.settings import load_settings
from tests.jobs.small_shop import write_shop

pytest_plugins = ["tests.s3"]

SCHEMA = pa.schema({"number": pa.int64()})
DAYS = [date(2024, 1, 1), date(2024, 1, 2)]


def publish_numbers(folder, kind, *numbers, day=None):
    batch = pa.record_batch({"number": pa.array(numbers, pa.int64())})
    return publish(folder, Contents(kind=kind, day=day), SCHEMA, [batch])


def publish_day(root, kind, day, *numbers):
    return publish_numbers(day_folder(root, kind, day), kind, *numbers, day=day)


@pytest.fixture
def root(tmp_path):
    """Published folders of every kind, one that was never whole, and what no training reads."""
    folder = tmp_path / "root"
    publish_day(folder, "vocabulary/item_id", DAYS[-1], 1)
    publish_day(folder, "vocabulary/store_id", DAYS[-1], 2)
    publish_day(folder, "catalogue", DAYS[-1], 3)
    publish_day(folder, "tails", DAYS[-1], 4)
    publish_day(folder, "increments", DAYS[-1], 5)
    publish_day(folder, "held_out", DAYS[-1], 6)
    for number, day in enumerate(DAYS):
        publish_day(folder, "sequences", day, 10 + number)
        publish_day(folder, "requests", day, 20 + number)
        publish_day(folder, "events", day, 30 + number)
    half = day_folder(folder, "requests", date(2024, 1, 3))
    half.mkdir()
    (half / ".writing-00000").write_bytes(b"half")
    (folder / "progress.json").write_text("{}")
    return folder


def counts(reports):
    return {kind: (report.num_uploaded, report.num_there) for kind, report in reports.items()}


def test_all_that_training_reads_is_uploaded_once(s3, s3_folder, root):
    reports = upload(root, s3_folder)
    assert counts(reports) == {
        "vocabulary": (2, 0),
        "catalogue": (1, 0),
        "sequences": (2, 0),
        "increments": (1, 0),
        "tails": (1, 0),
        "requests": (2, 0),
        "held_out": (1, 0),
    }
    published = [path.parent for path in sorted(root.rglob("manifest.json"))]
    folders = [folder for folder in published if folder.parent.name != "events"]
    there = s3.keys(s3_folder)
    assert there == {
        str(path.relative_to(root)): path.stat().st_size
        for folder in folders
        for path in folder.iterdir()
    }
    for folder in folders:
        copied = s3_folder.joinpath(*folder.relative_to(root).parts)
        assert read_manifest(copied) == read_manifest(folder)
    assert sum(report.num_bytes for report in reports.values()) == sum(
        size for name, size in there.items() if name.endswith(".parquet")
    )
    assert reports["requests"].unpublished == (root / "requests/day=2024-01-03",)
    s3.requests.clear()
    again = upload(root, s3_folder)
    assert sum(report.num_uploaded for report in again.values()) == 0
    assert sum(report.num_there for report in again.values()) == len(folders)
    assert not [request for request in s3.requests if request.startswith("PUT")]


def test_only_what_changed_is_uploaded_again(s3, s3_folder, root):
    upload(root, s3_folder)
    after = publish_day(root, "requests", DAYS[1], 7, 8)
    reports = upload(root, s3_folder)
    assert counts(reports)["requests"] == (1, 1)
    assert counts(reports)["sequences"] == (0, 2)
    folder = day_folder(s3_folder, "requests", DAYS[1])
    assert read_manifest(folder) == after
    assert sorted(s3.keys(folder)) == ["manifest.json", after.files[0].name]


def test_a_damaged_copy_is_replaced(s3, s3_folder, root):
    upload(root, s3_folder)
    folder = day_folder(s3_folder, "requests", DAYS[0])
    manifest = read_manifest(folder)
    path = folder / manifest.files[0].name
    s3.write(path, s3.read(path)[:-1])
    assert counts(upload(root, s3_folder))["requests"] == (1, 1)
    assert read_manifest(folder) == manifest


def test_killed_before_a_manifest_and_run_again(s3, s3_folder, root, monkeypatch):
    upload_file = partitions.upload_file

    def killed(source, target):
        if source.name == "manifest.json" and "requests" in str(source):
            raise KeyboardInterrupt
        upload_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(partitions, "upload_file", killed)
        with pytest.raises(KeyboardInterrupt):
            upload(root, s3_folder)
    folders = [day_folder(s3_folder, "requests", day) for day in DAYS]
    assert not any("manifest.json" in s3.keys(folder) for folder in folders)
    assert s3.keys(folders[0])
    assert read_manifest(day_folder(s3_folder, "sequences", DAYS[0]))
    assert counts(upload(root, s3_folder))["requests"] == (2, 0)
    for day in DAYS:
        copied = read_manifest(day_folder(s3_folder, "requests", day))
        assert copied == read_manifest(day_folder(root, "requests", day))


def test_a_file_changed_here_stops_the_upload(s3, s3_folder, root):
    folder = day_folder(root, "sequences", DAYS[0])
    path = folder / read_manifest(folder).files[0].name
    content = path.read_bytes()
    path.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    with pytest.raises(DigestError, match=f"{path}: sha256 is"):
        upload(root, s3_folder)
    assert s3.keys(day_folder(s3_folder, "sequences", DAYS[0])) == {}


def test_nothing_to_upload(s3, s3_folder, tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}: nothing is published here; run `prepare`"):
        upload(tmp_path, s3_folder)


@pytest.fixture
def shop(tmp_path, root):
    """A config whose data root is the one above."""
    config = write_shop(tmp_path)
    assert load_settings(JobSettings, config).data.root == root
    return config


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["upload", *map(str, arguments)])
    job.main()


def test_the_command_says_what_it_did(s3, s3_folder, shop, root, monkeypatch, capsys):
    run(monkeypatch, "--config", shop, "--to", s3_folder)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("vocabulary: 2 folders uploaded (")
    assert out[5].startswith("requests: 2 folders uploaded (")
    assert out[5].endswith("bytes), 0 there already")
    assert out[6] == f"  left out, never whole: {root / 'requests/day=2024-01-03'}"
    other = root.parent / "other"
    shutil.copytree(root / "catalogue", other / "catalogue")
    run(monkeypatch, "--config", shop, "--to", s3_folder, "--set", f"data.root={other}")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "vocabulary: 0 folders uploaded (0 bytes), 0 there already"
    assert out[1] == "catalogue: 0 folders uploaded (0 bytes), 1 there already"


@pytest.mark.parametrize(
    ("place", "code", "message"),
    [
        ("/some/folder", 2, "ConfigError: --to /some/folder: expected s3://bucket/prefix"),
        ("gs://bucket", 2, "ConfigError: gs://bucket: expected a local path or s3://"),
        ("s3://nowhere/days", 1, "DataError: s3://nowhere/days/vocabulary/"),
    ],
)
def test_the_command_names_what_is_wrong(s3, shop, monkeypatch, capsys, place, code, message):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--config", shop, "--to", place)
    assert stopped.value.code == code
    assert capsys.readouterr().err.startswith(message)
