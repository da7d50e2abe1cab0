"""Checkpoints that are damaged, removed or cannot be written: told, and never half taken."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embeddings.manifests import read_export
from jobs import checkpoint_files, checkpoints, evaluate, export, pretrain, rank
from jobs.hooks import ProgressHook
from jobs.runs import RunFolder
from jobs.strategies import Strategy
from pipeline.errors import CheckpointError, ShortageError
from pipeline.shortage import shortages_told
from tests.disk import small_disk_on
from tests.integration.conftest import run, settings_of
from tests.integration.prepared import copy_prepared

pytestmark = pytest.mark.integration

BRIEFLY = (
    "pretraining.training.epochs=1",
    "pretraining.training.checkpoint_every_steps=1",
    "pretraining.training.keep_checkpoints=3",
)


class Runs:
    """Short runs of pretraining under a root of their own."""

    def __init__(self, config: Path, root: Path) -> None:
        self.config, self.overrides = config, (*BRIEFLY, f"data.root={root}")
        self.folder = settings_of(config, *self.overrides).pretraining_folder
        self.checkpoints = self.folder / "checkpoints"

    def train(self, *overrides: str, resume: bool = False) -> None:
        run(pretrain.pretrain, self.config, *self.overrides, *overrides, resume=resume)

    def resume(self) -> None:
        """As if it had been killed before it wrote its result."""
        (self.folder / "result.json").unlink(missing_ok=True)
        self.train(resume=True)

    def export(self) -> None:
        run(export.export, self.config, *self.overrides)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.iterdir())

    def final(self) -> dict[str, bytes]:
        """The last checkpoint's content."""
        newest = max(self.checkpoints.glob("step-*"))
        return {path.name: path.read_bytes() for path in newest.glob("*.distcp")}


@pytest.fixture(scope="module")
def finished(shop, tmp_path_factory):
    """A run that came to its end."""
    root = tmp_path_factory.mktemp("finished")
    copy_prepared(shop, root)
    made = Runs(shop, root)
    made.train()
    assert made.names() == [f"step-0000000{step}" for step in (3, 4, 5)]
    return made


@pytest.fixture
def runs(finished, tmp_path):
    """A copy of it, to be damaged."""
    root = settings_of(finished.config, *finished.overrides).data.root
    shutil.copytree(root, tmp_path / "root")
    return Runs(finished.config, tmp_path / "root")


def truncate(checkpoint: Path) -> str:
    file = next(checkpoint.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-1])
    return f"{file.name} is damaged"


def flip_a_bit(checkpoint: Path, name: str = "*.distcp") -> str:
    file = next(checkpoint.glob(name))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return f"{file.name} is damaged"


def flip_a_bit_of_metadata(checkpoint: Path) -> str:
    return flip_a_bit(checkpoint, ".metadata")


def remove_a_file(checkpoint: Path) -> str:
    file = next(checkpoint.glob("*.distcp"))
    file.unlink()
    return f"{file.name} is missing"


def remove_manifest(checkpoint: Path) -> str:
    (checkpoint / "manifest.json").unlink()
    return "it has no manifest"


def truncate_manifest(checkpoint: Path) -> str:
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text()[:-5])
    return "its manifest is damaged"


def scribble_on_manifest(checkpoint: Path) -> str:
    (checkpoint / "manifest.json").write_bytes(b"\xff\x00")
    return "its manifest is damaged"


def write_another_manifest(checkpoint: Path) -> str:
    (checkpoint / "manifest.json").write_text("[]")
    return "its manifest is damaged"


def change_a_digit_of_manifest(checkpoint: Path) -> str:
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["progress"]["step_in_epoch"] += 1
    path.write_text(json.dumps(manifest))
    return "its manifest is damaged"


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_bit,
        flip_a_bit_of_metadata,
        remove_a_file,
        remove_manifest,
        truncate_manifest,
        scribble_on_manifest,
        write_another_manifest,
        change_a_digit_of_manifest,
    ],
)
def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_it_taken(runs, damage, capsys):
    wanted = runs.final()
    problem = damage(runs.checkpoints / "step-00000005")
    if damage is not remove_a_file:  # another one, which is not even looked at
        shutil.rmtree(runs.checkpoints / "step-00000003")
    runs.resume()
    told = capsys.readouterr().out
    assert f"step-00000005 is not usable ({problem}); trying the one before it" in told
    assert f"resumed from {runs.checkpoints / 'step-00000004'}" in told
    assert runs.final() == wanted


def test_when_none_is_whole_it_starts_anew_and_keeps_what_it_then_writes(runs, capsys):
    wanted = runs.final()
    for checkpoint in runs.checkpoints.iterdir():
        truncate(checkpoint)
    kept = []

    def see(self, loop, report):
        kept.append(runs.names())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ProgressHook, "after_step", see)
        runs.resume()
    told = capsys.readouterr().out
    assert told.count("is not usable") == 3
    assert ", from the start" in told
    assert kept[0] == ["step-00000001"]
    assert kept[1] == ["step-00000001", "step-00000002"]
    assert runs.final() == wanted


ALL_KEPT = (
    "ranking.strategy=NT",
    "ranking.training.epochs=2",
    "ranking.training.checkpoint_every_steps=1",
    "ranking.training.keep_checkpoints=100",
)


class Rankings:
    """Runs of rank, and what evaluate makes of them, under a root of their own."""

    def __init__(self, config: Path, root: Path) -> None:
        self.config, self.overrides = config, (*ALL_KEPT, f"data.root={root}")
        self.settings = settings_of(config, *self.overrides)
        self.folder = RunFolder(self.settings.ranking_folder(Strategy.NT))

    def train(self, *, resume: bool = False) -> None:
        run(rank.rank, self.config, *self.overrides, resume=resume)

    def best_step(self) -> int:
        run(evaluate.evaluate, self.config, *self.overrides)
        result = json.loads((self.settings.evaluation_folder / "result.json").read_text())
        return result["strategies"]["NT"]["best_step"]

    def lines(self) -> list[dict[str, Any]]:
        """Of its validations."""
        return [line for line in self.folder.lines() if line["kind"] == "evaluation"]


@pytest.fixture
def rankings(shop, tmp_path):
    """A run of rank that came to its end."""
    copy_prepared(shop, tmp_path / "root")
    made = Rankings(shop, tmp_path / "root")
    made.train()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("is_whole", [True, False])
def test_only_a_best_checkpoint_that_is_whole_is_a_bar_to_those_after_it(
    rankings, is_whole, capsys
):
    """Killed after step 10, whose validation was better than any other."""
    made = rankings.folder.checkpoints
    for path in made.glob("step-*"):
        if path.name > "step-00000010":
            shutil.rmtree(path)
    shutil.copytree(made / "step-00000010", made / "best-00000010")
    if not is_whole:
        truncate(made / "best-00000010")
    lines = [line | ({"auc": 0.99} if line["step"] == 10 else {}) for line in rankings.lines()]
    (made.parent / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (made.parent / "result.json").unlink()

    rankings.train(resume=True)
    told = capsys.readouterr().out
    assert ("best checkpoint by validation, of step 10, is lost" in told) != is_whole
    later = {line["step"]: line["auc"] for line in rankings.lines()[-2:]}
    assert rankings.best_step() == (10 if is_whole else max(later, key=lambda at: later[at]))


@pytest.mark.slow
def test_a_run_at_its_end_whose_best_checkpoint_is_damaged_is_made_again(rankings):
    for path in rankings.folder.checkpoints.glob("best-*"):
        truncate(path)
    with pytest.raises(CheckpointError, match="no usable best checkpoint; rank again"):
        rankings.best_step()
    with pytest.raises(CheckpointError, match="rank again without --resume"):
        rankings.train(resume=True)
    (rankings.folder.path / "result.json").unlink()
    with pytest.raises(CheckpointError, match="rank again without --resume"):
        rankings.train(resume=True)
    assert not rankings.folder.is_finished
    rankings.train()
    assert rankings.best_step()


def remove_after(monkeypatch, step: int, folder: Path) -> None:
    """Remove the folder when that step is done."""
    real = ProgressHook.after_step

    def after_step(self, loop, report):
        if loop.progress.step == step:
            shutil.rmtree(folder)
        real(self, loop, report)

    monkeypatch.setattr(ProgressHook, "after_step", after_step)


def test_checkpoints_removed_while_running_are_written_anew(runs, monkeypatch):
    wanted = runs.final()
    remove_after(monkeypatch, 3, runs.checkpoints)
    runs.train()
    assert runs.names() == ["step-00000004", "step-00000005"]
    assert runs.final() == wanted


def test_a_checkpoint_removed_while_it_is_written(runs, monkeypatch):
    wanted = runs.final()

    def finish(temporary, *more):
        shutil.rmtree(temporary)
        checkpoint_files.finish(temporary, *more)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "finish", finish)
        with pytest.raises(CheckpointError, match=r"step-00000001: could not be written .*No such"):
            runs.train()
    assert runs.names() == []
    runs.resume()
    assert runs.final() == wanted


def test_a_run_removed_while_running(runs, monkeypatch):
    remove_after(monkeypatch, 5, runs.folder)
    with pytest.raises(CheckpointError, match="was removed while the run was writing to it"):
        runs.train()


@pytest.fixture
def small_disk(runs):
    """Changes the size of the disk that runs and exports are on; it is empty at first."""
    settings = settings_of(runs.config, *runs.overrides)
    disk = runs.folder.parent
    shutil.rmtree(disk)
    disk.mkdir()
    with small_disk_on(disk) as resize:
        (disk / "tables").mkdir()
        settings.export_folder.parent.symlink_to(disk / "tables")
        yield resize


def test_a_full_disk_is_told_and_the_run_goes_on(finished, runs, small_disk):
    reached = []
    for size in ("100k", "200k", "300k", "400k"):
        small_disk(size)
        with pytest.raises(ShortageError, match="no space left on its disk") as told:  # noqa: SIM117
            with shortages_told(runs.folder):
                runs.train(resume=True)
        assert "\n" not in str(told.value)
        reached.append(runs.names())
        assert all(name.startswith("step-") for name in reached[-1])
    assert reached[-1]
    small_disk("16m")
    runs.train(resume=True)
    assert runs.final() == finished.final()


def sizes(folder: Path) -> dict[str, int]:
    """Every file under it, with its size."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def fail_to_export(runs, folder: Path) -> None:
    with pytest.raises(ShortageError, match="no space left on its disk"), shortages_told(folder):
        runs.export()


def test_a_full_disk_leaves_the_export_before_it_and_nothing_else(runs, small_disk):
    small_disk("16m")
    runs.train(resume=True)
    runs.export()
    folder = settings_of(runs.config, *runs.overrides).export_folder
    whole, disk, files = read_export(folder), shutil.disk_usage(folder), sizes(folder)
    for free in (0, 8192, 8192):
        small_disk(f"{disk.used + free}")
        fail_to_export(runs, folder)
        assert read_export(folder) == whole
        assert sizes(folder) == files
    small_disk("16m")
    runs.export()
    assert read_export(folder).tables.keys() == whole.tables.keys()
    assert len(list(folder.iterdir())) == 3  # manifest, tables, dense layers


def test_an_export_that_was_killed_takes_no_room_from_the_next(runs, small_disk):
    small_disk("16m")
    runs.train(resume=True)
    runs.export()
    folder = settings_of(runs.config, *runs.overrides).export_folder
    tables = read_export(folder).tables
    used = shutil.disk_usage(folder).used
    left = folder / "build-0123456789abcdef"
    shutil.copytree(next(folder.glob("build-*")), left)
    shutil.copy(next(folder.glob("dense-*")), folder / ".dense.tmp")
    shutil.copy(folder / "manifest.json", folder / "manifest.json.build-0123456789abcdef")
    # Room for one more export beside the first, as the one that was killed had it.
    small_disk(f"{shutil.disk_usage(folder).used + 4096}")
    runs.export()
    digests = {name: table.digest for name, table in tables.items()}
    assert {name: table.digest for name, table in read_export(folder).tables.items()} == digests
    assert not left.exists()
    assert len(list(folder.iterdir())) == 3
    assert shutil.disk_usage(folder).used <= used + 4096


HOLDER = """
import sys
from pathlib import Path
from jobs.claims import claim
claim(Path(sys.argv[1]))
print("has it", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("what", ["run", "export"])
def test_a_folder_that_another_process_is_at_work_on(runs, what):
    """Ranks may outlive a submitter that was killed."""
    settings = settings_of(runs.config, *runs.overrides)
    folder = {"run": settings.pretraining_folder, "export": settings.export_folder}[what]
    again = {"run": runs.resume, "export": runs.export}[what]
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == b"has it\n"
        with pytest.raises(CheckpointError, match=rf"{holder.pid} on .* is still at work there"):
            again()
        holder.stdin.close()
    again()
