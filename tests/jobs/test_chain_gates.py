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
    min_auc=0.25,
    max_auc_drop=0.25,
    sampling_errors=0,
    calibration=(0.25, 4.0),
    max_calibration_change=1,
    max_log_loss_rise=0.5,
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
        ({"log_loss": 0.75}, None),
        ({"log_loss": 0.76}, "log_loss"),
        ({"log_loss": 0.1}, None),
    ],
)
def test_figures_at_and_past_a_threshold(changes, gate):
    found = passed(of_models(**changes))
    assert list(found) == ["finite", "chance", "calibration", "auc", "log_loss"]
    assert [name for name, good in found.items() if not good] == ([gate] if gate else [])


@pytest.mark.parametrize(("calibration", "good"), [(0.24, False), (0.25, True), (4.01, False)])
def test_calibration_has_bounds_whatever_is_published(calibration, good):
    for published in (GOOD | {"calibration": calibration}, None):
        assert passed(of_models(published, calibration=calibration))["calibration"] is good


@pytest.mark.parametrize(
    ("before", "now", "good"),
    [
        (0.5, 0.25, True),
        (0.6, 0.25, False),
        (2.0, 4.0, True),
        (2.0, 0.25, True),
        (1.9, 0.25, False),
    ],
)
def test_calibration_gets_no_further_from_1_than_by_a_factor(before, now, good):
    """The published one's miss may be doubled here, whichever side it is on."""
    published = GOOD | {"calibration": before}
    assert passed(of_models(published, calibration=now))["calibration"] is good


def test_a_model_that_comes_nearer_to_1_is_not_held_to_where_it_was():
    published = GOOD | {"calibration": 3.9}
    assert passed(of_models(published, calibration=1.0))["calibration"]


def test_by_default_neither_calibration_nor_log_loss_may_jump():
    """Both within what calibration may be: nothing but the published figures tells."""
    many = {"num_samples": 100_000, "num_positives": 10_000}
    published = GOOD | many | {"log_loss": 0.4}
    candidate = published | {"calibration": 1.9, "log_loss": 0.6}
    found = passed(model_gates(candidate, published, GateSettings()))
    assert [name for name, good in found.items() if not good] == ["calibration", "log_loss"]


def test_a_gate_says_figure_threshold_and_setting():
    (gate,) = failed(of_models(auc=0.375))
    assert gate.text == (
        "0.3750 against 0.7500 published, on 100 candidates; daily.gates.max_auc_drop 0.25 and "
        "0.0000 for their number"
    )
    (gate,) = failed(of_models(calibration=3.0))
    assert gate.text == (
        "3.000, daily.gates.calibration 0.25 to 4.0; 1.000 published; "
        "daily.gates.max_calibration_change 1.0 and 0.0000 for 50 positives"
    )
    (gate,) = failed(of_models(None, calibration=5.0))
    assert gate.text == "5.000, daily.gates.calibration 0.25 to 4.0"
    (gate,) = failed(of_models(log_loss=1.0))
    assert gate.text == (
        "1.0000 against 0.5000 published; daily.gates.max_log_loss_rise 0.5 and 0.0000 for 50 "
        "positives"
    )
    (gate,) = failed(of_models(None, auc=0.25))
    assert gate.text == (
        "0.2500; must be above daily.gates.min_auc 0.25 by more than 0.0000 for 100 candidates"
    )


@pytest.mark.parametrize(("num_samples", "num_positives"), [(99, 50), (100, 0), (100, 100)])
def test_too_few_candidates_of_a_kind_tell_nothing(num_samples, num_positives):
    for published in (GOOD, None):
        found = list(of_models(published, num_samples=num_samples, num_positives=num_positives))
        assert passed(found) == {"finite": True, "auc": False}
        assert f"{num_positives} positives among {num_samples} held-out" in found[1].text
        assert "daily.gates.min_candidates 100" in found[1].text


def with_one_error(published=GOOD, **changes):
    settings = SETTINGS.model_copy(update={"sampling_errors": 1.0})
    return passed(model_gates({**GOOD, **changes}, published, settings))


def test_on_few_candidates_more_may_be_lost():
    """0.048 is the sampling error of an AUC of 0.75 on 50 of each kind."""
    for auc, good in ((0.46, True), (0.44, False)):
        assert with_one_error(auc=auc)["auc"] is good


def test_on_few_positives_calibration_and_log_loss_may_get_worse():
    """0.1 is the sampling error of 50 positives among 100, over 50."""
    for calibration, good in ((2.19, True), (2.21, False), (1 / 2.19, True), (1 / 2.21, False)):
        assert with_one_error(calibration=calibration)["calibration"] is good
    for loss, good in ((0.79, True), (0.81, False)):
        assert with_one_error(log_loss=loss)["log_loss"] is good


def test_on_few_candidates_an_auc_must_be_further_from_chance():
    """0.058 is the sampling error of an AUC of 0.5 on 50 of each kind."""
    for auc, good in ((0.30, False), (0.31, True)):
        assert with_one_error(None, auc=auc)["chance"] is good


def test_a_collapsed_model_is_stopped_beside_a_collapsed_one_too():
    collapsed = GOOD | {"auc": 0.5, "num_samples": 10**9, "num_positives": 10**8}
    for published in (collapsed, None):
        for errors in (0.0, 1.0):
            settings = GateSettings(sampling_errors=errors)
            found = passed(model_gates(collapsed, published, settings))
            assert [name for name, good in found.items() if not good] == ["chance"]


def test_without_a_lowest_auc_any_will_do():
    settings = SETTINGS.model_copy(update={"min_auc": 0.0})
    found = passed(model_gates(GOOD | {"auc": 0.1}, None, settings))
    assert found == {"finite": True, "calibration": True}


def test_what_is_no_number_stops_a_model_alone():
    """A judgement has null for NaN."""
    for value in (None, math.nan, math.inf):
        (gate,) = of_models(log_loss=value)
        assert (gate.name, gate.passed) == ("finite", False)
    assert not passed(of_models(calibration=None))["calibration"]


def test_the_first_ranker_is_compared_with_none():
    found = passed(of_models(published=None))
    assert found == {"finite": True, "chance": True, "calibration": True}


@pytest.mark.parametrize("figure", ["auc", "calibration", "log_loss"])
def test_a_published_figure_that_is_not_defined_keeps_nothing_out(figure):
    assert all(passed(of_models(published={**GOOD, figure: None})).values())


@pytest.mark.parametrize(("auc", "good"), [(0.5, True), (0.49, False), (0.9, True)])
def test_a_strange_day_is_one_on_which_a_good_ranker_is_bad(auc, good):
    gate = progressive_gate(auc, [0.5, 1.0], SETTINGS)
    assert (gate.name, gate.passed) == ("progressive", good)
    assert f"ranker that served at {auc:.4f}, 0.7500 on 2 days before" in gate.text


def figures(**changes):
    found = {"name": "t", "is_finite": True, "norm": 2.0, "norm_before": 1.0, "drift": 0.5}
    return TableFigures(**{**found, **changes})


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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [1, 17, 19])
def test_a_value_that_is_no_number_is_seen_in_any_row(tmp_path, monkeypatch, value, row):
    """In rows that are not sampled, and in those that the published export does not have."""
    monkeypatch.setattr(gates, "_SAMPLE_ROWS", 4)
    values = torch.ones(20, 4)
    export_of(tmp_path / "before", {"item_id": values[:18]}, rows_per_file=5)
    values[row, 3] = value
    now = {"brand": torch.ones(2, 4), "item_id": values}
    export_of(tmp_path / "now", now, rows_per_file=5)
    found = list(table_gates(table_figures(tmp_path / "now", tmp_path / "before"), SETTINGS))
    (gate,) = failed(found)
    assert gate.name == "finite"
    assert (
        gate.text == "norms of tables: brand 2, item_id 2 (some of its values are NaN or infinite)"
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_of_any_width_are_looked_at(tmp_path, dtype):
    values = torch.ones(3, 4, dtype=dtype)
    export_of(tmp_path / "good", {"item_id": values})
    values[2, 3] = math.nan
    export_of(tmp_path / "bad", {"item_id": values})
    assert table_figures(tmp_path / "good", None)[0].is_finite
    assert not table_figures(tmp_path / "bad", None)[0].is_finite


def test_half_an_export_is_refused(tmp_path):
    export_of(tmp_path, {"item_id": torch.ones(3, 4)})
    (tmp_path / "item_id" / "0-2").unlink()
    with pytest.raises(ExportError, match="missing from the export"):
        table_figures(tmp_path, None)
