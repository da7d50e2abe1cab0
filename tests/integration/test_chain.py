"""The chain from events to the report, in one process."""

import json

import pytest

from embeddings.manifests import read_export
from jobs.runs import RunFolder
from jobs.strategies import Strategy
from tests.integration.conftest import settings_of

pytestmark = pytest.mark.integration


def result_of(config, strategy):
    folder = settings_of(config).ranking_folder(strategy)
    return json.loads((folder / "result.json").read_text())


def test_pretraining_learns(chain):
    lines = RunFolder(settings_of(chain).pretraining_folder).lines()
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert set(lines[0]["losses"]) == {"item_id", "category"}


def test_every_strategy_beats_chance_on_validation_and_test(chain):
    summary = json.loads((settings_of(chain).evaluation_folder / "result.json").read_text())
    assert set(summary["strategies"]) == {strategy.value for strategy in Strategy}
    for result in summary["strategies"].values():
        assert result["validation"]["auc"] > 0.6
        assert result["test"]["auc"] > 0.6
        assert result["samples_per_s"] > 0


def test_evaluation_repeats_what_validation_during_training_found(chain):
    """The best checkpoint, read back with its frozen tables, scores as it did when it was saved."""
    summary = json.loads((settings_of(chain).evaluation_folder / "result.json").read_text())
    for strategy in Strategy:
        lines = RunFolder(settings_of(chain).ranking_folder(strategy)).lines()
        best = max(line["auc"] for line in lines if line["kind"] == "evaluation")
        found = summary["strategies"][strategy.value]["validation"]["auc"]
        assert found == pytest.approx(best, abs=1e-6)


def test_frozen_tables_are_those_of_the_export_to_the_bit(chain):
    exported = read_export(settings_of(chain).export_folder).tables
    for strategy in (Strategy.FT_SF, Strategy.ST_SF):
        proof = result_of(chain, strategy)["frozen_unchanged"]
        assert proof == {name: exported[name].digest for name in ("item_id", "category")}
    assert result_of(chain, Strategy.ST)["frozen_unchanged"] == {}


def test_strategies_take_what_the_paper_says(chain):
    assert "tables" not in result_of(chain, Strategy.NT)["transferred"]
    assert "dense_parameters" not in result_of(chain, Strategy.ST)["transferred"]
    # The Transformer of L1H32A2, its final norm, two segment vectors.
    assert result_of(chain, Strategy.FT)["transferred"]["dense_parameters"] == 13_376 + 32 + 64


def test_validation_within_and_across_epochs(chain):
    lines = RunFolder(settings_of(chain).ranking_folder(Strategy.NT)).lines()
    epochs = [line["epoch"] for line in lines if line["kind"] == "evaluation"]
    assert epochs == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0], abs=0.15)


def test_the_report_stands_alone(chain):
    page = (settings_of(chain).evaluation_folder / "report.html").read_text()
    assert all(name in page for name in ("FT&amp;SF", "item popularity", "validation AUC"))
    assert "<script src" not in page
    assert "http-equiv" not in page
