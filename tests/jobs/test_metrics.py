import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from jobs.metrics import NUM_BINS, RankingMetrics, bin_of


def measured(logits, labels, weights=None):
    metrics = RankingMetrics()
    weights = torch.ones(len(logits)) if weights is None else torch.as_tensor(weights)
    metrics.update(torch.as_tensor(logits), torch.as_tensor(labels), weights)
    return metrics.result()


def random_samples(num_samples, scale, seed=0):
    draw = np.random.default_rng(seed)
    labels = (draw.random(num_samples) < 0.3).astype(np.float32)
    logits = (scale * (draw.standard_normal(num_samples) + labels - 1)).astype(np.float32)
    return logits, labels


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_auc_is_scikit_learns_within_the_stated_error(scale):
    logits, labels = random_samples(5000, scale)
    result = measured(logits, labels)
    expected = roc_auc_score(labels, logits)
    assert abs(result.auc - expected) <= result.auc_error + 1e-12
    assert result.auc_error < 1e-4
    assert (result.num_samples, result.num_positives) == (5000, labels.sum())


def test_ties_count_half():
    logits, labels = random_samples(2000, 1.0)
    rounded = np.round(logits)
    result = measured(rounded, labels)
    # Equal logits share a bin and no other logits do, so the AUC is exact; the bound cannot know.
    assert result.auc == pytest.approx(roc_auc_score(labels, rounded), abs=1e-12)
    assert result.auc_error > 0.01


def test_the_stated_error_is_reached_when_a_bin_hides_the_order():
    low, high = 1.0, 1.0 + 2.0**-14
    result = measured([low, high], [0.0, 1.0])
    assert (result.auc, result.auc_error) == (0.5, 0.5)


def test_log_loss_calibration_and_entropy():
    logits, labels = random_samples(3000, 2.0)
    chance = 1 / (1 + np.exp(-logits.astype(np.float64)))
    result = measured(logits, labels)
    assert result.log_loss == pytest.approx(log_loss(labels, chance), rel=1e-9)
    assert result.calibration == pytest.approx(chance.sum() / labels.sum(), rel=1e-9)
    always = np.full(len(labels), labels.mean(dtype=np.float64))
    assert result.normalized_entropy == pytest.approx(
        result.log_loss / log_loss(labels, always), rel=1e-9
    )


def test_weights_count_as_in_scikit_learn():
    logits, labels = random_samples(2000, 1.0)
    weights = np.random.default_rng(1).integers(0, 4, len(logits)).astype(np.float32)
    result = measured(logits, labels, weights)
    expected = roc_auc_score(labels, logits, sample_weight=weights)
    assert abs(result.auc - expected) <= result.auc_error + 1e-12
    chance = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert result.log_loss == pytest.approx(log_loss(labels, chance, sample_weight=weights))
    assert result.num_samples == (weights > 0).sum()


def test_weight_zero_counts_nowhere_even_for_nan():
    logits, labels = random_samples(500, 1.0)
    more = np.append(logits, [np.nan, np.inf]).astype(np.float32)
    result = measured(more, np.append(labels, [1, 0]), [1.0] * 500 + [0.0, 0.0])
    assert result == measured(logits, labels)


def test_extreme_logits():
    logits = np.array([-3e38, -1e5, -100, -1e-30, 0, 1e-30, 100, 1e5, 3e38], dtype=np.float32)
    labels = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1], dtype=np.float32)
    result = measured(logits, labels)
    assert abs(result.auc - roc_auc_score(labels, logits)) <= result.auc_error
    assert result.log_loss == pytest.approx(3 * math.log(2) / 9, rel=1e-9)


def test_a_confident_mistake_costs_its_logit():
    assert measured([1000.0], [0.0]).log_loss == 1000.0
    assert measured([-1000.0], [1.0]).log_loss == 1000.0


def test_a_nan_logit_makes_the_metrics_nan():
    result = measured([float("nan"), 1.0, 0.0], [1.0, 0.0, 1.0])
    assert math.isnan(result.auc)
    assert math.isnan(result.auc_error)
    assert math.isnan(result.log_loss)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc_but_a_log_loss(label):
    result = measured([0.0, 0.0], [label, label])
    assert math.isnan(result.auc)
    assert math.isnan(result.auc_error)
    assert math.isnan(result.normalized_entropy)
    assert math.isnan(result.calibration) == (label == 0.0)
    assert result.log_loss == pytest.approx(math.log(2))


def test_nothing_taken_in():
    result = RankingMetrics().result()
    assert math.isnan(result.auc)
    assert math.isnan(result.log_loss)
    assert result.num_samples == 0


def test_halves_on_two_ranks_give_the_whole():
    logits, labels = (torch.from_numpy(values) for values in random_samples(3001, 1.0))
    weights = torch.ones(3001)
    ranks = [RankingMetrics(), RankingMetrics()]
    for rank, metrics in enumerate(ranks):
        for part in range(3):
            of_part = slice(rank + 2 * part, None, 6)
            metrics.update(logits[of_part], labels[of_part], weights[of_part])
    states = []
    for metrics in ranks:
        metrics.reduce(lambda tensor: states.append(tensor.clone()))
    for metrics in ranks:
        metrics.reduce(lambda tensor: tensor.copy_(states[0] + states[1]))
    whole = RankingMetrics()
    whole.update(logits, labels, weights)
    first, second, expected = ranks[0].result(), ranks[1].result(), whole.result()
    assert first == second
    assert (first.auc, first.auc_error) == (expected.auc, expected.auc_error)
    assert first.log_loss == pytest.approx(expected.log_loss, rel=1e-12)


def test_bfloat16_logits_that_carry_a_gradient():
    logits, labels = random_samples(500, 1.0)
    tensor = torch.from_numpy(logits).bfloat16().requires_grad_()
    result = measured(tensor, labels)
    expected = roc_auc_score(labels, tensor.detach().float().numpy())
    assert result.auc == pytest.approx(expected, abs=1e-12)


def test_bins_never_decrease_and_stay_in_range():
    draw = np.random.default_rng(0)
    magnitudes = 2.0 ** draw.uniform(-20, 20, 20_000)
    values = np.concatenate([-magnitudes, magnitudes, [0.0, -np.inf, np.inf]]).astype(np.float32)
    bins = bin_of(torch.from_numpy(np.sort(values)))
    assert bool((bins.diff() >= 0).all())
    assert (int(bins[0]), int(bins[-1])) == (0, NUM_BINS - 1)
    assert int(bin_of(torch.tensor([-0.0]))) == int(bin_of(torch.tensor([0.0])))
