"""Other ways through the chain: bfloat16, AdamW tables, brought examples, the torchx Runner."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torchx.runner import get_runner

from embeddings.manifests import read_export
from jobs import components, export, pretrain, rank
from jobs.launch import Submission, run_stage
from jobs.runs import RunFolder
from jobs.strategies import Strategy
from pipeline.errors import StageError
from pipeline.vocabulary import load_vocabulary
from tests.integration.conftest import run, settings_of

pytestmark = pytest.mark.integration


def prepared(config, folder):
    root = settings_of(config).data.root
    for kind in ("vocabulary", "catalogue", "sequences", "tails", "requests"):
        shutil.copytree(root / kind, folder / kind)
    return f"data.root={folder}"


def test_bfloat16(shop, tmp_path):
    place = prepared(shop, tmp_path)
    run(pretrain.pretrain, shop, place, "pretraining.training.precision=bf16")
    lines = RunFolder(settings_of(shop, place).pretraining_folder).lines()
    assert lines[-1]["loss"] < lines[0]["loss"]
    run(rank.rank, shop, place, "ranking.training.precision=bf16", "ranking.strategy=NT")


def test_negatives_of_each_sequence(shop, tmp_path):
    place = prepared(shop, tmp_path)
    run(pretrain.pretrain, shop, place, "pretraining.softmax.share_negatives=sequence")
    lines = RunFolder(settings_of(shop, place).pretraining_folder).lines()
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]


def test_adamw_on_tables_resumes_exactly(shop, tmp_path):
    options = ("embeddings.optimizer=adamw", "embeddings.learning_rate=0.01")
    digests = []
    for name in ("straight", "resumed"):
        place = prepared(shop, tmp_path / name)
        run(pretrain.pretrain, shop, place, *options)
        folder = settings_of(shop, place).pretraining_folder
        if name == "resumed":
            (folder / "result.json").unlink()
            shutil.rmtree(max((folder / "checkpoints").glob("step-*")))
            run(pretrain.pretrain, shop, place, *options, resume=True)
        run(export.export, shop, place, *options)
        exported = read_export(settings_of(shop, place).export_folder)
        digests.append({table: value.digest for table, value in exported.tables.items()})
    assert digests[0] == digests[1]


@pytest.mark.parametrize("ids", ["raw", "rows"])
def test_ready_made_examples_start_at_pretrain_and_rank(shop, tmp_path, ids):
    """Nothing but our own sequences and requests, as another system would bring them."""
    settings = settings_of(shop)
    for kind in ("sequences", "requests"):
        for folder in (settings.data.root / kind).iterdir():
            bring(folder, tmp_path / "source" / kind / folder.name, settings, ids)
    # Who brings sequences brings them whole: what was still open is one like the others.
    (tails,) = (settings.data.root / "tails").iterdir()
    bring(tails, tmp_path / "source" / "sequences" / tails.name, settings, ids)
    overrides = [
        f"data.root={tmp_path / 'root'}",
        f"source.path={tmp_path / 'source'}",
        "source.kind=examples",
        "source.missing_days=allow",  # some days have no sequence that ends on them
        f"source.ids={ids}",
    ]
    if ids == "rows":
        day = settings.days.training[1]
        sizes = [
            load_vocabulary(settings.data.root, f.name, day).num_rows for f in settings.features
        ]
        features = [
            f'{{name = "{f.name}", role = "{f.role}", num_rows = {size}}}'
            for f, size in zip(settings.features, sizes, strict=True)
        ]
        overrides.append(f"features=[{', '.join(features)}]")
    run(pretrain.pretrain, shop, *overrides)
    run(export.export, shop, *overrides)
    run(rank.rank, shop, *overrides)
    folder = settings_of(shop, *overrides).ranking_folder(Strategy.ST_SF)
    assert json.loads((folder / "result.json").read_text())["frozen_unchanged"].keys() == {
        "item_id",
        "category",
    }


def bring(folder, target, settings, ids):
    """A published day as plain Parquet, its rows turned back into raw ids if asked."""
    for path in folder.glob("*.parquet"):
        target.mkdir(parents=True, exist_ok=True)
        table = pq.read_table(path)
        for feature in settings.features if ids == "raw" else ():
            day = settings.days.training[1]
            vocabulary = load_vocabulary(settings.data.root, feature.name, day)
            values = [None, *vocabulary.values.to_pylist()]
            for name in (feature.name, f"history_{feature.name}", f"candidate_{feature.name}"):
                if name in table.column_names:
                    place = table.column_names.index(name)
                    table = table.set_column(place, name, raw(table[name], values))
        pq.write_table(table, target / f"{folder.parent.name}.parquet")


def raw(column, values):
    rows = column.to_pylist()
    if isinstance(rows[0], list):
        return pa.array([[values[row] for row in one] for one in rows])
    return pa.array([values[row] for row in rows])


def test_every_verb_is_a_component():
    for verb in components.__all__:
        app = getattr(components, verb)("my.toml", "a.b=1", image="image")
        command = " ".join(app.roles[0].args)
        assert f"-m jobs.{verb} --config my.toml --set a.b=1" in command
        assert app.roles[0].env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


@pytest.mark.slow
def test_a_stage_through_the_runner(shop, tmp_path):
    def asked(name, *overrides):
        return Submission(
            verb="prepare",
            config=shop,
            overrides=overrides,
            title="prepare",
            log_folder=tmp_path / name,
        )

    with get_runner() as runner:
        assert run_stage(runner, asked("logs")) > 0
        with pytest.raises(
            StageError, match=r"prepare ended FAILED: ConfigError: .*days.test: .*is after last day"
        ):
            run_stage(runner, asked("bad", 'days.test=["2024-02-02", "2024-02-01"]'))
