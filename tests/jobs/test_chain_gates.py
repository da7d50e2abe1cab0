"""Each gate at its threshold and past it; tables compared whatever rectangles they are in."""

import math

import pytest
import torch

from jobs.chain import gates
from jobs.chain.gates import (
    TableFigures,
    model_gates,
    progressive_gate,
    table_figures,
    table_gates,
)
from jobs.chain.settings import GateSettings
from pipeline.errors import ExportError
from tests.jobs.daily_root import export_of

# Quarters, which floats hold exactly.
SETTINGS = GateSettings(
    min_candidates=100,
    max_auc_drop=0.25,
    auc_errors=0,
    calibration=(0.5, 2.0),
    max_progressive_drop=0.25,
    max_norm_ratio=2,
    max_table_drift=0.5,
)
GOOD = {"auc": 0.75, "log_loss": 0.5, "calibration": 1.0, "num_samples": 100, "num_positives": 50}


def passed(found):
    return {gate.name: gate.passed for gate in found}


def failed(found):
    return [gate for gate in found if not gate.passed]


def of_models(published=GOOD, **changes):
    return model_gates({**GOOD, **changes}, published, SETTINGS)


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({"auc": 0.5}, None),
        ({"auc": 0.49}, "auc"),
        ({"auc": 1.0}, None),
        ({"calibration": 0.5}, None),
        ({"calibration": 0.49}, "calibration"),
        ({"calibration": 2.0}, None),
        ({"calibration": 2.01}, "calibration"),
    ],
)
def test_figures_at_and_past_a_threshold(changes, gate):
    found = passed(of_models(**changes))
    assert list(found) == ["finite", "calibration", "auc"]
    assert [name for name, good in found.items() if not good] == ([gate] if gate else [])


def test_a_gate_says_figure_threshold_and_setting():
    (gate,) = failed(of_models(auc=0.25))
    assert gate.text == (
        "0.2500 against 0.7500 published, on 100 candidates; daily.gates.max_auc_drop 0.25 and "
        "0.0000 for their number"
    )
    (gate,) = failed(of_models(calibration=3.0))
    assert gate.text == "3.000, daily.gates.calibration 0.5 to 2.0"


@pytest.mark.parametrize(("num_samples", "num_positives"), [(99, 50), (100, 0), (100, 100)])
def test_too_few_candidates_of_a_kind_tell_nothing(num_samples, num_positives):
    for published in (GOOD, None):
        found = list(of_models(published, num_samples=num_samples, num_positives=num_positives))
        assert passed(found) == {"finite": True, "auc": False}
        assert f"{num_positives} positives among {num_samples} held-out" in found[1].text
        assert "daily.gates.min_candidates 100" in found[1].text


def test_on_few_candidates_more_may_be_lost():
    """0.048 is the sampling error of an AUC of 0.75 on 50 of each kind."""
    one_error = SETTINGS.model_copy(update={"auc_errors": 1.0})
    for auc, good in ((0.46, True), (0.44, False)):
        assert passed(model_gates({**GOOD, "auc": auc}, GOOD, one_error))["auc"] is good


def test_what_is_no_number_stops_a_model_alone():
    """A judgement has null for NaN."""
    for value in (None, math.nan, math.inf):
        (gate,) = of_models(log_loss=value)
        assert (gate.name, gate.passed) == ("finite", False)
    assert not passed(of_models(calibration=None))["calibration"]


def test_the_first_ranker_is_compared_with_none():
    assert passed(of_models(published=None)) == {"finite": True, "calibration": True}


def test_a_published_auc_that_is_not_defined_keeps_nothing_out():
    assert passed(of_models(published={**GOOD, "auc": None}))["auc"]


@pytest.mark.parametrize(("auc", "good"), [(0.5, True), (0.49, False), (0.9, True)])
def test_a_strange_day_is_one_on_which_a_good_ranker_is_bad(auc, good):
    gate = progressive_gate(auc, [0.5, 1.0], SETTINGS)
    assert (gate.name, gate.passed) == ("progressive", good)
    assert f"published ranker at {auc:.4f}, 0.7500 on 2 days before" in gate.text


def figures(**changes):
    return TableFigures(**{"name": "t", "norm": 2.0, "norm_before": 1.0, "drift": 0.5, **changes})


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({}, None),
        ({"norm": 2.01}, "table_norm"),
        ({"drift": 0.51}, "table_drift"),
        ({"drift": math.nan}, "table_drift"),
        ({"drift": math.inf}, "table_drift"),
    ],
)
def test_one_table_is_enough_to_stop_a_day(changes, gate):
    other = figures(name="other", drift=0.0)
    found = passed(table_gates([other, figures(**changes)], SETTINGS))
    assert list(found) == ["finite", "table_norm", "table_drift"]
    assert [name for name, good in found.items() if not good] == ([gate] if gate else [])


def test_tables_that_are_no_numbers_are_stopped_without_a_published_export_too():
    new = figures(norm=math.nan, norm_before=math.nan, drift=math.nan)
    assert passed(table_gates([new], SETTINGS)) == {"finite": False}
    assert not passed(table_gates([figures(norm=math.nan)], SETTINGS))["finite"]


def test_norm_and_drift_are_of_rows_that_both_exports_have(tmp_path):
    before = torch.tensor([[3.0, 4, 0, 0], [0, 0, 6, 8], [0, 5, 0, 0]])
    grown = torch.cat([before, torch.full((2, 4), 1000.0)])
    grown[0] = torch.tensor([0.0, 0, 3, 4])
    new = {"item_id": grown, "category": torch.ones(2, 4)}
    export_of(tmp_path / "before", {"item_id": before, "gone": before}, rows_per_file=2)
    export_of(tmp_path / "now", new, rows_per_file=3)
    item, category = table_figures(tmp_path / "now", tmp_path / "before")
    assert (item.name, category.name) == ("item_id", "category")
    assert item.norm == item.norm_before == pytest.approx(20 / 3)
    assert item.drift == pytest.approx(math.sqrt(50) / 3 / (20 / 3))
    # A table that was not there before has nothing to be compared with.
    assert category.norm == 2
    assert math.isnan(category.norm_before)
    assert math.isnan(category.drift)


def test_a_table_of_another_width_is_a_new_one(tmp_path):
    export_of(tmp_path / "before", {"item_id": torch.ones(3, 2)})
    export_of(tmp_path / "now", {"item_id": torch.ones(3, 4)})
    (item,) = table_figures(tmp_path / "now", tmp_path / "before")
    assert item.norm == 2
    assert math.isnan(item.norm_before)


def test_of_large_tables_rows_are_sampled_over_their_whole_length(tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "_SAMPLE_ROWS", 4)
    values = torch.zeros(17, 4)
    values[:, 0] = torch.arange(17)
    export_of(tmp_path, {"item_id": values}, rows_per_file=5)
    (item,) = table_figures(tmp_path, None)
    assert item.norm == pytest.approx((0 + 4 + 8 + 12 + 16) / 5)


def test_rows_that_are_no_numbers_are_seen(tmp_path):
    values = torch.ones(3, 4)
    values[2, 3] = math.nan
    export_of(tmp_path, {"item_id": values})
    found = list(table_gates(table_figures(tmp_path, None), SETTINGS))
    assert passed(found) == {"finite": False}


def test_half_an_export_is_refused(tmp_path):
    export_of(tmp_path, {"item_id": torch.ones(3, 4)})
    (tmp_path / "item_id" / "0-2").unlink()
    with pytest.raises(ExportError, match="missing from the export"):
        table_figures(tmp_path, None)
