import errno
import json

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

import embeddings.export
from embeddings.digests import content_digests
from embeddings.export import export_tables, remove_unpublished
from embeddings.manifests import read_export
from embeddings.settings import EmbeddingSettings
from embeddings.shards import local_shards
from pipeline.errors import ExportError
from tests.distributed import run_distributed
from tests.embeddings.small_model import plain_model, sharded_model

SOURCE = {"day": "2026-11-21", "checkpoint": "step-12"}


def export(folder, settings, frozen=()):
    model = sharded_model(settings, frozen)
    manifest = export_tables(model, folder, SOURCE)
    return content_digests(model), manifest.model_dump_json()


def test_two_ranks_write_column_shards_and_copies_in_bounded_files(tmp_path):
    settings = EmbeddingSettings(
        optimizer="adagrad",
        sharding={"item_id": "column_wise", "type": "data_parallel"},
        export_rows_per_file=30_000,
    )
    ranks = run_distributed(export, 2, tmp_path, settings, ["type"])
    assert ranks[0] == ranks[1]
    manifest = read_export(tmp_path)
    assert manifest.model_dump_json() == ranks[0][1]
    assert {name: table.digest for name, table in manifest.tables.items()} == ranks[0][0]
    assert manifest.source == SOURCE
    item = manifest.tables["item_id"]
    assert (item.num_rows, item.dim, item.dtype) == (70_000, 8, "fp32")
    assert item.vocabulary_digest == "item_id-words"
    assert [(file.rows, file.columns) for file in item.files] == [
        (rows, columns)
        for rows in [(0, 30_000), (30_000, 60_000), (60_000, 70_000)]
        for columns in [(0, 4), (4, 8)]
    ]
    assert item.files[1].name.endswith("/item_id/rows-0-30000-columns-4-8.safetensors")
    assert len(manifest.tables["type"].files) == 1


def test_a_second_export_replaces_the_first_whole(tmp_path):
    model = plain_model(EmbeddingSettings())
    first = export_tables(model, tmp_path, SOURCE)
    (tmp_path / "build-interrupted").mkdir()
    local_shards(model)["type"][0].tensor[3, 3] = 0.5
    second = export_tables(model, tmp_path, {})
    assert read_export(tmp_path) == second
    assert first.tables["type"].digest != second.tables["type"].digest
    assert first.tables["item_id"].digest == second.tables["item_id"].digest
    assert len(list(tmp_path.iterdir())) == 2


def export_to_a_disk_that_is_full_for_rank_1(folder):
    """What rank 0 sees of exports that fail, and what is then in the folder."""
    model = sharded_model(EmbeddingSettings(sharding={"item_id": "table_wise"}))
    kept = export_tables(model, folder, SOURCE)
    before = sorted(folder.rglob("*"))

    def full(state, path):
        write(state, path)
        if dist.get_rank() == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    write = embeddings.export.save_file
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(embeddings.export, "save_file", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left on device"):
                export_tables(model, folder, {})
            dist.barrier()
            assert sorted(folder.rglob("*")) == before
            dist.barrier()
    assert read_export(folder) == kept


def test_an_export_that_fails_on_one_rank_fails_on_all_and_leaves_nothing(tmp_path):
    run_distributed(export_to_a_disk_that_is_full_for_rank_1, 2, tmp_path)


def test_what_a_manifest_names_is_never_removed(tmp_path):
    manifest = export_tables(plain_model(EmbeddingSettings()), tmp_path, {})
    (tmp_path / "build-interrupted" / "type").mkdir(parents=True)
    (tmp_path / "manifest.json.build-interrupted").write_text("{")
    remove_unpublished(tmp_path)
    assert read_export(tmp_path) == manifest
    assert len(list(tmp_path.iterdir())) == 2
    # Not even where it cannot be read: an older version may be the one that cleans up.
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": 1}))
    remove_unpublished(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_files_are_plain_safetensors(tmp_path):
    model = plain_model(EmbeddingSettings(dtype="fp16"))
    manifest = export_tables(model, tmp_path, {})
    rows = load_file(tmp_path / manifest.tables["type"].files[0].name)["rows"]
    assert torch.equal(rows, local_shards(model)["type"][0].tensor)


def test_missing_and_half_written_exports_are_refused(tmp_path):
    with pytest.raises(ExportError, match="no such export; run the export stage first"):
        read_export(tmp_path / "nowhere")
    manifest = export_tables(plain_model(EmbeddingSettings()), tmp_path, {})
    (tmp_path / "manifest.json").rename(tmp_path / "away")
    with pytest.raises(ExportError, match="half-written export"):
        read_export(tmp_path)
    (tmp_path / "manifest.json").write_text((tmp_path / "away").read_text()[:-30])
    with pytest.raises(ExportError, match="not an export's manifest; rerun the export stage"):
        read_export(tmp_path)
    (tmp_path / "away").replace(tmp_path / "manifest.json")
    file = tmp_path / manifest.tables["type"].files[0].name
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ExportError, match=r"rows-0-40-.* bytes, but its manifest says"):
        read_export(tmp_path)
    file.unlink()
    with pytest.raises(ExportError, match=r"rows-0-40-columns-0-8.safetensors: missing"):
        read_export(tmp_path)


def test_a_manifest_with_unknown_entries_is_refused(tmp_path):
    export_tables(plain_model(EmbeddingSettings()), tmp_path, {})
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": 1}))
    with pytest.raises(ExportError, match="later"):
        read_export(tmp_path)
