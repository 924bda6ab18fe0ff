"""Intervals: their binning, their coverage, their degenerate cases."""

import math

import numpy as np
import pytest
from scipy import stats

from ganspect.evaluation import metrics, ranks, statistics, thresholds


def scene(generator, images=24, size=64, shift=1.5, decimals=None):
    masks = np.zeros((images, size, size), bool)
    for index in range(0, images, 2):
        side = generator.integers(5, 30)
        masks[index, 3 : 3 + side, 5 : 5 + side] = True
    maps = generator.normal(size=masks.shape) + shift * masks * generator.uniform(0, 2, (images, 1, 1))
    return masks, (maps if decimals is None else np.round(maps, decimals)).astype(np.float32)


@pytest.mark.parametrize("shift", [0.0, 1.5, 6.0])
@pytest.mark.parametrize("decimals", [None, 0, 2])
def test_rank_bins_lose_less_than_they_claim(shift, decimals):
    generator = np.random.default_rng(0)
    masks, maps = scene(generator, shift=shift, decimals=decimals)
    maps[0, 0, 0] = 1e30
    found = ranks.survey(masks, maps)
    edges = statistics._rank_bins(masks, maps, found)
    normal, anomalous, single = statistics._histograms(masks, maps, found.wide, edges)
    assert normal.sum() == found.normal and anomalous.sum() == found.anomalous
    for _ in range(5):
        drawn = generator.integers(0, len(masks), len(masks))
        weights = np.bincount(drawn, minlength=len(masks))[None].astype(float)
        exact = metrics.pixel_auroc_aupr(masks[drawn], maps[drawn])
        assert statistics._auroc(weights @ normal, weights @ anomalous)[0] == pytest.approx(exact[0], abs=1e-5)
        assert statistics._ap(weights @ normal, weights @ anomalous, single)[0] == pytest.approx(exact[1], abs=1e-4)


def test_pixel_intervals_hold_the_value_and_repeat():
    masks, maps = scene(np.random.default_rng(1))
    intervals = statistics.bootstrap_pixel_metrics(masks, maps, samples=200)
    for value, (low, high) in zip(metrics.pixel_auroc_aupr(masks, maps), intervals.values(), strict=True):
        assert low < value < high and high - low < 0.5
    assert intervals == statistics.bootstrap_pixel_metrics(masks, maps, samples=200)
    assert intervals != statistics.bootstrap_pixel_metrics(masks, maps, samples=200, seed=1)


def test_image_interval_against_drawing_indices():
    generator = np.random.default_rng(2)
    labels = np.arange(60) < 25
    scores = np.round(generator.normal(size=60) + labels, 1)
    drawn = []
    for _ in range(3000):
        chosen = np.concatenate(
            [generator.choice(np.flatnonzero(labels == side), (labels == side).sum()) for side in (False, True)]
        )
        drawn.append(metrics.image_auroc(labels[chosen], scores[chosen]))
    interval = statistics.bootstrap_image_auroc(labels, scores, samples=3000, seed=0)
    np.testing.assert_allclose(interval, np.quantile(drawn, [0.025, 0.975]), atol=0.01)


def test_degenerate_bootstraps():
    assert all(map(math.isnan, statistics.bootstrap_image_auroc([1, 1], [0, 1])))
    blank = statistics.bootstrap_pixel_metrics(np.zeros((2, 3, 3)), np.ones((2, 3, 3)))
    assert all(math.isnan(bound) for bounds in blank.values() for bound in bounds)
    assert statistics.bootstrap_image_auroc([0, 0, 1, 1], [0, 1, 2, 3]) == (1, 1)
    assert statistics.bootstrap_image_auroc([0, 0, 0, 1], [5, 5, 5, 5]) == (0.5, 0.5)


def test_any_statistic_can_be_drawn_again():
    values = np.random.default_rng(3).normal(size=400)
    low, high = statistics.bootstrap_interval(lambda weights: weights @ values / 400, np.zeros(400), samples=2000)
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.01)


def test_subset_draws_against_what_they_must_average_to():
    generator = np.random.default_rng(5)
    labels = np.arange(715) >= 262
    scores = np.round(generator.normal(size=715) + labels, 1)
    drawn = statistics.subset_draws(labels, scores, metrics.image_auroc)
    assert drawn.shape == (200,) and len(np.unique(drawn)) > 50
    exact = metrics.image_auroc(labels, scores)  # the AUROC of a random subset is unbiased
    assert drawn.mean() == pytest.approx(exact, abs=4 * drawn.std() / math.sqrt(200))
    np.testing.assert_array_equal(drawn, statistics.subset_draws(labels, scores, metrics.image_auroc))
    assert (drawn != statistics.subset_draws(labels, scores, metrics.image_auroc, seed=1)).any()
    best = statistics.subset_draws(labels, scores, metrics.accuracy_oracle, draws=5)
    assert (best >= 0.5).all() and (best < 1).all()


def test_subset_draws_are_the_same_images_for_every_metric_and_score():
    labels = np.arange(50) % 3 == 0
    seen = []

    def watch(some, scores):
        seen.append((some.tolist(), scores.tolist()))
        assert (some == labels[scores]).all()
        assert len(set(scores.tolist())) == len(scores) == 12 and some.sum() == 7
        return math.nan

    assert np.isnan(statistics.subset_draws(labels, np.arange(50), watch, 5, 7, draws=9)).all()
    first, seen = seen, []
    order = np.random.default_rng(0).normal(size=50)
    positions = statistics.subset_draws(labels, order, lambda some, scores: (scores.sum(), 0.0), 5, 7, draws=9)
    np.testing.assert_allclose(positions, [order[chosen].sum() for _, chosen in first], rtol=1e-12)


def test_subset_draws_where_a_kind_is_taken_whole():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.4, 0.5, 0.9, 0.2])
    whole = statistics.subset_draws(labels, scores, metrics.image_auroc, 2, 3)
    np.testing.assert_array_equal(whole, [metrics.image_auroc(labels, scores)])
    some = statistics.subset_draws(labels, scores, metrics.image_auroc, 100, 1, draws=40)
    assert set(some) == {0.5, 1.0} and len(some) == 40
    assert np.isnan(statistics.subset_draws([1, 1], [0, 1], metrics.accuracy_oracle, draws=3)).all()
    with pytest.raises(ValueError, match="2 labels but 3"):
        statistics.subset_draws([0, 1], [0, 1, 2], metrics.image_auroc)
    with pytest.raises(ValueError, match="-1 normal"):
        statistics.subset_draws([0, 1], [0, 1], metrics.image_auroc, normals=-1)


def test_seed_interval():
    mean, low, high = statistics.seed_interval([0.90, 0.92, 0.95])
    expected = stats.ttest_1samp([0.90, 0.92, 0.95], 0).confidence_interval()
    np.testing.assert_allclose([mean, low, high], [0.92 + 1 / 300, expected.low, expected.high], rtol=1e-12)
    mean, low, high = statistics.seed_interval([0.9])
    assert mean == 0.9 and math.isnan(low) and math.isnan(high)
    assert all(map(math.isnan, statistics.seed_interval([0.9, math.nan])))
    with pytest.raises(ValueError, match="no values"):
        statistics.seed_interval([])


def test_threshold_interval_covers_the_true_quantile():
    generator = np.random.default_rng(4)
    truth = stats.expon.ppf(0.95)
    inside = [thresholds.normal_quantile(generator.exponential(size=150)) for _ in range(400)]
    assert np.mean([one.low <= truth <= one.high for one in inside]) > 0.93


@pytest.mark.parametrize("levels", [3, 1000])
def test_intervals_of_image_metrics_are_those_of_each_metric_alone(levels):
    """With many ties and with none; the general bootstrap, a draw and a metric at a time, is the measure."""
    rng = np.random.default_rng(levels)
    labels = rng.permutation([0] * 14 + [1] * 19)
    scores = np.floor(levels * (rng.random(33) + 0.4 * labels)) / levels - 0.7
    found = statistics.bootstrap_image_metrics(labels, scores, 0.1, samples=200)
    alone = {
        "image_ap": metrics.image_ap,
        "image_f1_max": metrics.f1_max,
        "image_accuracy_oracle": metrics.accuracy_oracle,
        "image_balanced_accuracy_oracle": metrics.balanced_accuracy_oracle,
        "image_balanced_accuracy": lambda y, s: metrics.balanced_accuracy(y, s, 0.1),
    }
    assert set(found) == set(alone)
    for name, metric in alone.items():
        assert found[name][0] < found[name][1]
        assert found[name] == pytest.approx(statistics.bootstrap_metric(labels, scores, metric, 200), rel=1e-12)


def test_intervals_of_image_metrics_where_all_is_one_class_or_no_threshold():
    found = statistics.bootstrap_image_metrics(np.ones(5), np.arange(5.0), 2.0, samples=20)
    assert all(np.isnan(ends).all() for ends in found.values())
    found = statistics.bootstrap_image_metrics([0, 1, 1], [0.0, 1.0, 2.0], float("nan"), samples=20)
    assert "image_balanced_accuracy" not in found and found["image_f1_max"] == (1.0, 1.0)
