import pytest

from benchmarks.quality_table import by_epoch_table, gaps, summary, validated_table


def runs(*aucs):
    return {seed: {"auc": auc, "by_epoch": [auc - 0.1, auc]} for seed, auc in enumerate(aucs)}


def test_summary_is_mean_and_sample_deviation():
    mean, spread = summary([0.5, 0.6, 0.7])
    assert mean == pytest.approx(0.6)
    assert spread == pytest.approx(0.1)
    assert summary([0.5]) == (0.5, None)


def test_gaps_are_taken_seed_by_seed_where_both_are_there():
    found = {"base": {"NT": runs(0.5, 0.7)}, "bf16": {"NT": {1: {"auc": 0.8}, 2: {"auc": 0.9}}}}
    assert gaps(found, "base", "bf16", "NT") == [pytest.approx(0.1)]
    assert gaps({"bf16": found["bf16"]}, "base", "bf16", "NT") == []


def test_validated_table_has_a_line_a_variant_and_its_gap():
    found = {
        "base": {"NT": runs(0.5, 0.7), "ST&SF": runs(0.8, 0.8)},
        "bf16": {"ST&SF": runs(0.81, 0.83)},
    }
    head, base, bf16, against = validated_table(found, "base").splitlines()
    assert head.split() == ["NT", "FT", "ST", "FT&SF", "ST&SF", "seeds"]
    assert base.split() == ["base", "0.6000", "0.1414", "-", "-", "-", "0.8000", "0.0000", "2"]
    assert bf16.split() == ["bf16", "-", "-", "-", "-", "0.8200", "0.0141", "2"]
    assert against.split()[-2:] == ["+0.0200", "0.0141"]


def test_single_seed_has_no_spread():
    _, base = validated_table({"base": {"NT": runs(0.5)}}, "base").splitlines()
    assert base.split() == ["base", "0.5000", "-", "-", "-", "-", "1"]


def test_by_epoch_table_has_the_best_and_the_last_epoch():
    found = {
        "authors": {"NT": {0: {"by_epoch": [0.5, 0.7, 0.6]}, 1: {"by_epoch": [0.7, 0.5, 0.4]}}}
    }
    _, line = by_epoch_table(found).splitlines()
    title, figures = line[:44].strip(), line[44:].split()
    assert title == "authors, NT"
    assert figures == ["0.7000", "0.0000", "0.5000", "0.1414", "2", "0.600", "0.600", "0.500"]
