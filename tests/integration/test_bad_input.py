"""What goes wrong, and what a user is told: the whole verb runs, on the small shop."""

import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from jobs import evaluate, export, pretrain, rank
from jobs.strategies import Strategy
from pipeline.errors import (
    CheckpointError,
    DigestError,
    ExportError,
    HalfWrittenDayError,
    MissingDayError,
    NonFiniteLossError,
    SchemaError,
    VocabularyError,
)
from pipeline.partitions import Contents, file_paths, publish, read_manifest
from tests.integration.conftest import run, settings_of

pytestmark = pytest.mark.integration


@pytest.fixture
def copy(chain, tmp_path):
    """The chain's data root, copied to be damaged, as an override."""
    shutil.copytree(settings_of(chain).data.root, tmp_path / "root")
    return f"data.root={tmp_path / 'root'}"


def test_a_strategy_that_needs_an_export_and_has_none(chain, copy):
    settings = settings_of(chain, copy)
    shutil.rmtree(settings.export_folder)
    with pytest.raises(ExportError, match=r"strategy ST&SF starts from an export.*run the export"):
        run(rank.rank, chain, copy, "ranking.strategy=ST&SF")


def test_a_half_written_export(chain, copy):
    (settings_of(chain, copy).export_folder / "manifest.json").unlink()
    with pytest.raises(ExportError, match="half-written export"):
        run(rank.rank, chain, copy, "ranking.strategy=ST")


def test_an_export_of_another_width(chain, copy):
    with pytest.raises(ExportError, match="table item_id: width 32 in the export, 64 in the model"):
        run(rank.rank, chain, copy, "ranking.architecture=L1H64A2")


def test_dense_layers_of_another_depth(chain, copy):
    with pytest.raises(ExportError, match="both must have one architecture"):
        run(rank.rank, chain, copy, "ranking.architecture=L2H32A2", "ranking.strategy=FT&SF")
    run(rank.rank, chain, copy, "ranking.architecture=L2H32A2", "ranking.strategy=ST&SF")
    with pytest.raises(
        CheckpointError, match=r"ranking\.architecture\.num_layers = 1, now it is 2"
    ):
        run(evaluate.evaluate, chain, copy, "ranking.architecture=L2H32A2")


def test_runs_that_were_not_made_alike_are_said_to_be(chain, copy):
    run(rank.rank, chain, copy, "ranking.strategy=ST", "ranking.training.epochs=2")
    run(evaluate.evaluate, chain, copy)
    folder = settings_of(chain, copy).evaluation_folder
    sentence = "ST was not made like NT: ranking.training.epochs = 4, here 2."
    assert sentence in (folder / "summary.txt").read_text()
    assert sentence in (folder / "report.html").read_text()


def test_a_table_that_is_not_named(chain, copy):
    with pytest.raises(ExportError, match="table category is in the export and in the model"):
        run(rank.rank, chain, copy, 'ranking.transfer_tables=["item_id"]')


def test_exporting_a_run_of_another_vocabulary(chain, copy):
    path = settings_of(chain, copy).pretraining_folder / "identity.json"
    path.write_text(path.read_text().replace('"item_id": "', '"item_id": "other'))
    with pytest.raises(CheckpointError, match=r"vocabularies\.item_id = 'other"):
        run(export.export, chain, copy)


def test_an_export_that_was_replaced_after_ranking(chain, copy):
    run(pretrain.pretrain, chain, copy, "pretraining.training.seed=1")
    run(export.export, chain, copy, "pretraining.training.seed=1")
    with pytest.raises(
        ExportError, match=r"item_id is not the one that strategy FT&SF was trained"
    ):
        run(evaluate.evaluate, chain, copy)
    (settings_of(chain, copy).ranking_folder(Strategy.ST_SF) / "result.json").unlink()
    with pytest.raises(CheckpointError, match=r"transferred\.tables"):
        run(rank.rank, chain, copy, resume=True)


def test_a_day_that_was_rebuilt_before_resuming(chain, copy):
    settings = settings_of(chain, copy)
    (settings.pretraining_folder / "result.json").unlink()
    folder = settings.data.root / "sequences" / "day=2024-01-10"
    manifest = read_manifest(folder)
    rows = pq.read_table(file_paths(folder, manifest)).slice(1)
    contents = Contents(**{name: getattr(manifest, name) for name in Contents.model_fields})
    publish(folder, contents, rows.schema, rows.to_batches())
    with pytest.raises(CheckpointError, match=r"content\.pretraining"):
        run(pretrain.pretrain, chain, copy, resume=True)


def test_a_missing_and_a_half_written_day(chain, copy):
    day = settings_of(chain, copy).data.root / "sequences" / "day=2024-01-09"
    (day / "manifest.json").unlink()
    with pytest.raises(HalfWrittenDayError, match="day=2024-01-09"):
        run(pretrain.pretrain, chain, copy)
    shutil.rmtree(day)
    with pytest.raises(MissingDayError, match="day=2024-01-09"):
        run(pretrain.pretrain, chain, copy)


def test_a_day_whose_bytes_changed(chain, copy):
    folder = settings_of(chain, copy).data.root / "requests" / "day=2024-01-16"
    path = next(folder.glob("*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigestError, match=path.name):
        run(rank.rank, chain, copy)


def test_a_task_without_labels(chain, copy):
    with pytest.raises(SchemaError, match=r"label_ctr.*purchase"):
        run(rank.rank, chain, copy, "tasks={ctr = {}}")


def test_rows_of_another_vocabulary(chain, copy):
    for manifest in settings_of(chain, copy).data.root.glob("sequences/*/manifest.json"):
        text = manifest.read_text()
        start = text.index('"category":') + len('"category": "')
        manifest.write_text(text[:start] + "0000" + text[start + 4 :])
    with pytest.raises(VocabularyError, match="category"):
        run(pretrain.pretrain, chain, copy)


def test_nan_stops_with_step_and_rows_and_keeps_the_last_checkpoint(chain, copy, monkeypatch):
    real, calls = pretrain.GenerativeModel.forward, []

    def poisoned(self, batch, step):
        calls.append(step)
        losses = real(self, batch, step)
        return (
            losses
            if step < 7
            else type(losses)(losses.names, losses.sums * float("nan"), losses.counts)
        )

    monkeypatch.setattr(pretrain.GenerativeModel, "forward", poisoned)
    with pytest.raises(
        NonFiniteLossError, match=r"step 7 .*loss is nan; rows: day=2024-01-.*rows \d"
    ):
        run(pretrain.pretrain, chain, copy)
    folder = settings_of(chain, copy).pretraining_folder
    assert [path.name for path in sorted((folder / "checkpoints").glob("step-*"))] == [
        "step-00000005"
    ]
    assert not (folder / "result.json").exists()

    monkeypatch.undo()
    run(pretrain.pretrain, chain, copy, resume=True)
    assert (folder / "result.json").exists()


def test_resuming_a_finished_run_leaves_it_alone(chain, copy, capsys):
    path = settings_of(chain, copy).ranking_folder(Strategy.NT) / "result.json"
    before = path.read_text()
    run(rank.rank, chain, copy, "ranking.strategy=NT", resume=True)
    assert "finished already" in capsys.readouterr().out
    assert path.read_text() == before


def test_a_damaged_checkpoint_is_passed_over(chain, copy, capsys):
    folder = settings_of(chain, copy).pretraining_folder
    (folder / "result.json").unlink()
    newest = max((folder / "checkpoints").glob("step-*"))
    file = next(newest.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-1])
    run(pretrain.pretrain, chain, copy, resume=True)
    out = capsys.readouterr().out
    assert f"{newest.name} is not usable" in out
    assert "resumed from" in out


def test_the_command_line_says_it_in_one_line(chain):
    command = [sys.executable, "-m", "jobs.pretrain", "--config", str(chain)]
    wrong = [*command, "--set", "pretraining.training.stpes=3"]
    done = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pretraining.training.stpes: unknown setting; known: batch_size, betas" in done.stderr
