"""A day's state is written beside its requests, and becomes visible after them."""

import pytest

from pipeline import block_outputs
from pipeline.partitions import day_folder, find_manifest
from pipeline.prepare import prepare
from tests.pipeline.dirty_days import preparation, write_log


def published(made, kind, day):
    return find_manifest(day_folder(made.root, kind, day)) is not None


def test_no_state_is_visible_before_its_requests(tmp_path, monkeypatch):
    write_log(tmp_path, per_day=8)
    made = preparation(tmp_path)
    publish_requests, seen = block_outputs._publish_requests, []

    def spied(engine, made, outputs, known, maker):
        publish_requests(engine, made, outputs, known, maker)
        seen.extend(outputs.requests)
        assert not published(made, "history", max(outputs.requests))

    monkeypatch.setattr(block_outputs, "_publish_requests", spied)
    prepare(made)
    assert seen == made.request_days
    assert published(made, "history", max(seen))


def test_no_state_is_visible_where_requests_failed(tmp_path, monkeypatch):
    write_log(tmp_path, per_day=8)
    made = preparation(tmp_path)

    def failed(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(block_outputs, "_publish_requests", failed)
        with pytest.raises(ZeroDivisionError):
            prepare(made)
    assert not any(published(made, "history", day) for day in made.request_days)
    assert not (made.root / ".work").exists()
    prepare(made)
    assert published(made, "history", made.request_days[-1])
