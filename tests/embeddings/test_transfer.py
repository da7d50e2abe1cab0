import pytest
import torch

from embeddings.digests import content_digests
from embeddings.export import export_tables
from embeddings.settings import EmbeddingSettings, TableSpec
from embeddings.shards import local_shards
from embeddings.transfer import transfer
from pipeline.errors import DigestError, ExportError
from tests.distributed import run_distributed
from tests.embeddings.small_model import DIM, ROWS, SPECS, plain_model, sharded_model

NAMES = list(ROWS)
SHARDINGS = {
    "table_wise": EmbeddingSettings(export_rows_per_file=20_000),
    "column_wise": EmbeddingSettings(
        optimizer="adagrad", sharding=dict.fromkeys(ROWS, "column_wise")
    ),
    "data_parallel": EmbeddingSettings(optimizer="adamw"),
}


def export_as(folder, kinds):
    for kind in kinds:
        export_tables(sharded_model(SHARDINGS[kind]), folder / kind, {})


def transfer_as(folder, kinds, frozen):
    """Digests after transferring every export into every sharding."""
    digests = []
    for kind in kinds:
        for exported in kinds:
            model = sharded_model(SHARDINGS[kind], frozen)
            for shards in local_shards(model).values():
                for shard in shards:
                    shard.tensor.fill_(torch.nan)
            transfer(model, folder / exported, NAMES)
            digests.append(content_digests(model))
    return digests


@pytest.mark.parametrize("world_sizes", [(2, 1), (1, 2)])
@pytest.mark.parametrize("frozen", [(), tuple(NAMES)])
def test_any_sharding_is_read_at_any_other(tmp_path, world_sizes, frozen):
    exporting, reading = world_sizes
    run_distributed(export_as, exporting, tmp_path, list(SHARDINGS))
    expected = content_digests(plain_model(EmbeddingSettings()))
    for rank in run_distributed(transfer_as, reading, tmp_path, list(SHARDINGS), frozen):
        assert rank == [expected] * len(SHARDINGS) ** 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export_tables(plain_model(EmbeddingSettings()), folder, {})
    return folder


def changed(**fields):
    spec = {"name": "type", "num_rows": 40, "dim": DIM, "vocabulary_digest": "type-words"}
    return [SPECS[0], TableSpec(**(spec | fields)), SPECS[2]]


@pytest.mark.parametrize(
    ("specs", "dtype", "names", "message"),
    [
        (SPECS, "fp32", ["item_id", "type"], "table department is in the export and in the model"),
        (SPECS, "fp32", [*NAMES, "colour"], "colour is to be transferred, but the model has only"),
        (changed(name="colour"), "fp32", ["item_id", "colour"], "the export has no table colour"),
        (changed(num_rows=41), "fp32", NAMES, "type: rows 40 in the export, 41 in the model"),
        (changed(dim=16), "fp32", NAMES, "type: width 8 in the export, 16 in the model"),
        (SPECS, "fp16", NAMES, "item_id: type fp32 in the export, fp16 in the model"),
        (
            changed(vocabulary_digest="other-words"),
            "fp32",
            NAMES,
            "type: vocabulary type-words in the export, other-words in the model",
        ),
    ],
)
def test_whatever_differs_is_refused_and_nothing_loaded(exported, specs, dtype, names, message):
    model = plain_model(EmbeddingSettings(dtype=dtype), specs=specs)
    before = content_digests(model)
    with pytest.raises(ExportError, match=message) as caught:
        transfer(model, exported, names)
    assert str(exported) in str(caught.value)
    assert content_digests(model) == before


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_found_with_its_file(tmp_path):
    settings = EmbeddingSettings(export_rows_per_file=30_000)
    manifest = export_tables(plain_model(settings), tmp_path, {})
    flip_a_bit(tmp_path / manifest.tables["item_id"].files[1].name)
    model = plain_model(settings)
    with pytest.raises(DigestError, match=r"table item_id.*rows-30000-60000-.* is corrupt"):
        transfer(model, tmp_path, NAMES)


def test_an_unreadable_file_is_named(tmp_path):
    manifest = export_tables(plain_model(EmbeddingSettings()), tmp_path, {})
    path = tmp_path / manifest.tables["type"].files[0].name
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ExportError, match=r"type/rows-0-40-.* cannot be read"):
        transfer(plain_model(EmbeddingSettings()), tmp_path, NAMES)
