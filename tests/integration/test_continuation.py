"""Day after day, a run goes on from the one before it: what it takes over, says and refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from embeddings.manifests import TENSOR_NAME, read_export
from jobs import export, judge, prepare, pretrain, rank
from jobs.distributed import join_world
from jobs.runs import RunFolder
from jobs.strategies import Strategy
from pipeline.errors import CheckpointError, ConfigError, VocabularyError
from tests.integration.conftest import run, settings_of
from tests.jobs.small_shop import write_shop

pytestmark = pytest.mark.integration

FIRST, BEFORE, TODAY = "2024-01-01", "2024-01-03", "2024-01-04"
# Too little to change a bit of any parameter.
STILL = tuple(
    f"{what}.learning_rate=1e-30"
    for what in ("pretraining.training", "ranking.training", "embeddings")
)
LEFT_OUT = ("validation =", "test =")
ITEMS = "model.tables.trainable.embedding_bags.table_item_id.weight"
DENSE = ("model.head.output.weight", "model.transformer.blocks.0.feedforward.down.weight")


def write_daily_shop(folder: Path) -> Path:
    """A shop without days of validation and test, whose table of items grows in steps."""
    config = write_shop(folder)
    lines = [line for line in config.read_text().splitlines() if not line.startswith(LEFT_OUT)]
    text = "\n".join(lines).replace('dtype = "int64"', 'dtype = "int64"\nheadroom = 0.5', 1)
    config.write_text(text + "\n")
    return config


def up_to(day: str, before: str | None = None, *more: str) -> tuple[str, ...]:
    """Overrides for a short run up to `day` that goes on from the one up to `before`."""
    days = f'["{FIRST}", "{day}"]'
    continued = [f"{job}.continue_from={before}" for job in ("pretraining", "ranking") if before]
    short = [
        f"{job}.training.{setting}"
        for job in ("pretraining", "ranking")
        for setting in ("epochs=1", "warmup_steps=0", "schedule=constant")
    ]
    return (f"days.pretraining={days}", f"days.ranking={days}", *short, *continued, *more)


class Days:
    """The chain's runs under one root."""

    def __init__(self, config: Path, root: Path) -> None:
        self.config, self.root = config, root

    def run(self, verb, day, before=None, *more, resume=False):
        overrides = (*up_to(day, before, *more), f"data.root={self.root}")
        run(verb, self.config, *overrides, resume=resume)

    def pretrain(self, day, before=None, *more, resume=False):
        self.run(pretrain.pretrain, day, before, *more, resume=resume)
        self.run(export.export, day, before, *more)

    def rank(self, strategy, day, before=None, *more, resume=False):
        self.run(rank.rank, day, before, f"ranking.strategy={strategy}", *more, resume=resume)

    def pretraining(self, day) -> Path:
        return self.root / "pretraining" / f"day={day}"

    def ranker(self, strategy, day) -> Path:
        name = Strategy(strategy).folder_name
        return self.root / "ranking" / "purchase" / name / f"day={day}"

    def tables(self, day):
        return read_export(self.root / "tables" / f"day={day}").tables


def result_of(folder: Path):
    return json.loads((folder / "result.json").read_text())


def tensor_of(folder: Path, name: str) -> torch.Tensor:
    """A parameter in a run's last checkpoint."""
    path = max(folder.glob("checkpoints/step-*"))
    entry = FileSystemReader(path).read_metadata().state_dict_metadata[name]
    state = {name: torch.full(entry.size, torch.nan)}
    with join_world():
        dcp.load(state, checkpoint_id=path)
    return state[name]


@pytest.fixture(scope="module")
def first_days(tmp_path_factory):
    """Prepared day by day, and the models up to the day before today."""
    config = write_daily_shop(tmp_path_factory.mktemp("daily"))
    for day in (BEFORE, TODAY):
        prepare.prepare_all(settings_of(config, *up_to(day)))
    days = Days(config, settings_of(config).data.root)
    days.pretrain(BEFORE)
    days.rank("FT&SF", BEFORE)
    days.rank("FT", BEFORE)
    return days


@pytest.fixture
def days(first_days, tmp_path):
    """The same under a root of its own."""
    root = tmp_path / "root"
    shutil.copytree(first_days.root, root, ignore=shutil.ignore_patterns("events"))
    return Days(first_days.config, root)


def test_a_days_run_goes_on_and_says_from_what(days):
    days.pretrain(TODAY, BEFORE)
    continued = result_of(days.pretraining(TODAY))["continued_from"]
    items = continued["tables"]["item_id"]
    assert continued["day"] == BEFORE
    assert 100 < items["rows_before"] < items["rows"]
    assert items["capacity_before"] == items["capacity"] == 144
    assert not items["resized"]
    identity = RunFolder(days.pretraining(TODAY)).identity["continued"]
    assert identity == {"day": BEFORE, "checkpoint": continued["checkpoint"]}
    days.pretrain(TODAY, BEFORE, resume=True)  # finished already

    days.rank("FT&SF", TODAY, BEFORE)
    result = result_of(days.ranker("FT&SF", TODAY))
    # Tables that are frozen come from today's export, dense layers from the ranker.
    assert list(result["continued_from"]["tables"]) == ["shop"]
    assert sorted(result["frozen_unchanged"]) == ["category", "item_id"]
    assert "dense" not in result["transferred"]


def test_with_rates_that_move_nothing_the_tables_stay_and_new_rows_start_by_the_rule(days):
    days.pretrain(TODAY, BEFORE, *STILL)
    before, today = days.tables(BEFORE), days.tables(TODAY)
    assert before["item_id"].vocabulary_digest != today["item_id"].vocabulary_digest
    # Rows that have come into use held already what a new row starts with.
    assert {name: table.digest for name, table in before.items()} == {
        name: table.digest for name, table in today.items()
    }


def test_a_table_is_resized_when_its_room_is_used_up(days):
    growing = ("features.0.headroom=0",)
    days.pretrain(BEFORE, None, *growing)
    days.pretrain(TODAY, BEFORE, *growing)
    items = result_of(days.pretraining(TODAY))["continued_from"]["tables"]["item_id"]
    assert items["capacity_before"] == items["rows_before"]
    assert items["capacity"] == items["rows"] == days.tables(TODAY)["item_id"].num_rows
    assert items["resized"]


def test_tables_that_the_ranker_trains_are_its_own(days):
    """But what is new since has no rows there yet: the export's are better than random ones."""
    days.pretrain(TODAY)
    days.rank("FT", TODAY, BEFORE, *STILL)
    grown = result_of(days.ranker("FT", TODAY))["continued_from"]["tables"]
    assert sorted(grown) == ["category", "item_id", "shop"]
    before, after = (tensor_of(days.ranker("FT", day), ITEMS) for day in (BEFORE, TODAY))
    (file,) = days.tables(TODAY)["item_id"].files
    exported = load_file(days.root / "tables" / f"day={TODAY}" / file.name)[TENSOR_NAME]
    known = grown["item_id"]["rows_before"]
    assert torch.equal(after[:known], before[:known])
    assert torch.equal(after[known:], exported[known:])
    assert not torch.isclose(exported[:known], before[:known]).any(dim=1).all()


def test_negatives_differ_from_day_to_day(days):
    runs = (TODAY,), (BEFORE, FIRST), (TODAY, BEFORE)
    seeds = [pretrain._seed_of_negatives(settings_of(days.config, *up_to(*day))) for day in runs]
    assert seeds[0] == 0
    assert len(set(seeds)) == len(runs)


@pytest.mark.parametrize("strategy", ["FT", "FT&SF"])
def test_dense_layers_are_the_earlier_rankers(days, strategy):
    days.pretrain(TODAY)
    days.rank(strategy, TODAY, BEFORE, *STILL)
    for layer in DENSE:
        before, after = (tensor_of(days.ranker(strategy, day), layer) for day in (BEFORE, TODAY))
        assert torch.equal(before, after)


def test_another_checkpoint_to_go_on_from_is_noticed(days):
    days.pretrain(TODAY, BEFORE)
    (days.pretraining(TODAY) / "result.json").unlink()
    days.pretrain(BEFORE)
    days.pretrain(TODAY, BEFORE, resume=True)  # a rerun that learnt the same
    (days.pretraining(TODAY) / "result.json").unlink()
    days.pretrain(BEFORE, None, "pretraining.training.seed=1")
    with pytest.raises(CheckpointError, match=r"made with continued.checkpoint = .* now it is"):
        days.pretrain(TODAY, BEFORE, resume=True)


def test_refuses_a_day_that_is_not_before(days):
    with pytest.raises(ConfigError, match=r"pretraining.continue_from: .* is not before"):
        days.pretrain(TODAY, TODAY)
    with pytest.raises(ConfigError, match=r"ranking.continue_from: .* is not before"):
        days.rank("NT", TODAY, TODAY)


def test_refuses_what_is_not_finished_or_whole(days):
    with pytest.raises(CheckpointError, match=r"day=2024-01-02: no finished run to continue from"):
        days.pretrain(TODAY, "2024-01-02")
    with pytest.raises(CheckpointError, match=r"NT/day=.*: no finished run to continue from"):
        days.rank("NT", TODAY, BEFORE)
    days.pretrain(BEFORE, None, "pretraining.training.checkpoint_every_steps=2")
    older, newest = sorted(days.pretraining(BEFORE).glob("checkpoints/step-*"))
    assert older.name == "step-00000002"
    next(newest.glob("*.distcp")).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"the last checkpoint \(step 3\) is damaged or gone"):
        days.pretrain(TODAY, BEFORE)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretraining.architecture=L2H32A2", r"was made with pretraining.architecture.num_layers"),
        ("embeddings.optimizer=adagrad", "was made with embeddings.optimizer = 'rowwise_adagrad'"),
        ("embeddings.dtype=fp16", "was made with embeddings.dtype = 'fp32'"),
        ("features.0.headroom=0", "table item_id: 144 rows then, .* tables do not shrink"),
    ],
)
def test_refuses_another_model(days, override, message):
    with pytest.raises(CheckpointError, match=message):
        days.pretrain(TODAY, BEFORE, override)


def test_another_table_optimizer_starts_from_the_rows_alone(days):
    more = ("embeddings.optimizer=adagrad", "pretraining.carry_optimizer=false")
    days.pretrain(TODAY, BEFORE, *more)
    assert not result_of(days.pretraining(TODAY))["continued_from"]["optimizer"]


@pytest.fixture
def moved(first_days, tmp_path):
    """Overrides for a log that begins a day later, and so has other values in the same rows."""
    events, folder = settings_of(first_days.config).source.path, tmp_path / "moved"
    for day in ("2024-01-02", BEFORE, TODAY):
        shutil.copytree(events / f"day={day}", folder / "events" / f"day={day}")
    for kind in ("pretraining", "tables", "ranking"):
        shutil.copytree(first_days.root / kind, folder / kind)
    overrides = [part.replace(FIRST, "2024-01-02") for part in up_to(TODAY, BEFORE)]
    overrides += [f"source.path={folder / 'events'}", f"data.root={folder}", "holdout.share=0.3"]
    prepare.prepare_all(settings_of(first_days.config, *overrides))
    return overrides


def test_refuses_rows_of_another_vocabulary(first_days, moved):
    with pytest.raises(VocabularyError, match=r"step-\d+: table item_id: .* does not continue"):
        run(pretrain.pretrain, first_days.config, *moved)


def test_refuses_to_judge_rows_of_another_vocabulary(first_days, moved):
    """Those of the requests must be the ranker's, or every item would be taken for another."""
    asked = (
        "ranking.strategy=FT",
        f'judging.models=["{BEFORE}"]',
        f'judging.days=["{TODAY}", "{TODAY}"]',
    )
    with pytest.raises(VocabularyError, match=r"step-\d+: table \w+ was .* bring back"):
        run(judge.judge, first_days.config, *moved, *asked)
