"""Two methods on the same images: DeLong's test and the paired bootstrap."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from ganspect.evaluation import comparison, metrics


def by_components(labels, a, b):
    """DeLong's definition written out: structural components over all pairs."""
    positive, areas, components = np.asarray(labels) == 1, [], []
    for scores in (np.asarray(a), np.asarray(b)):
        difference = scores[positive][:, None] - scores[~positive][None]
        wins = (difference > 0) + 0.5 * (difference == 0)
        areas.append(wins.mean())
        components.append((wins.mean(axis=1), wins.mean(axis=0)))
    m, n = positive.sum(), (~positive).sum()
    s10 = np.cov([c[0] for c in components])
    s01 = np.cov([c[1] for c in components])
    covariance = s10 / m + s01 / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    z = (areas[1] - areas[0]) / np.sqrt(variance)
    return areas, variance, 2 * stats.norm.sf(abs(z))


@pytest.mark.parametrize("decimals", [None, 0])
def test_delong_is_its_definition_with_and_without_ties(decimals):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [30, 50])
    a = rng.normal(size=80) + labels
    b = 0.5 * a + rng.normal(size=80) + 0.3 * labels
    if decimals is not None:
        a, b = np.round(a, decimals), np.round(b, decimals)
    found = comparison.delong(labels, a, b)
    areas, variance, p = by_components(labels, a, b)
    assert (found.a, found.b) == pytest.approx(areas)
    assert areas == pytest.approx([roc_auc_score(labels, x) for x in (a, b)])
    assert (found.high - found.low) / 2 == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(variance))
    assert found.p_value == pytest.approx(p)


def test_delong_without_variance_or_a_class():
    labels = np.array([0, 0, 0, 1, 1, 1])
    good, bad = np.array([0, 1, 2, 3, 4, 5.0]), np.array([5, 4, 3, 2, 1, 0.0])
    assert comparison.delong(labels, good, np.exp(good)).p_value == 1
    same = comparison.delong(labels, good, np.exp(good))
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    for worse in (bad, np.zeros(6)):  # every image agrees on the difference: nothing is known of its error
        found = comparison.delong(labels, good, worse)
        assert found.a == 1 and found.difference in (-1, -0.5)
        assert np.isnan([found.low, found.high, found.p_value]).all()
    assert np.isnan(comparison.delong([0, 0, 1], [1, 2, 3], [3, 2, 1]).p_value)
    for wrong in (np.array([0, np.nan, 2, 3, 4, 5]), good[:5]):
        with pytest.raises(ValueError):
            comparison.delong(labels, good, wrong)


@pytest.mark.slow
def test_delong_keeps_its_level():
    """Two equally good methods: p below 0.05 in 5 % of 4000 test sets, within four standard errors."""
    rng, rejected = np.random.default_rng(1), 0
    labels = np.repeat([0, 1], [40, 60])
    for _ in range(4000):
        shared = rng.normal(size=100) + labels
        pair = [shared + rng.normal(size=100) for _ in range(2)]
        rejected += comparison.delong(labels, *pair).p_value < 0.05
    assert abs(rejected / 4000 - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 4000)


def test_the_bootstrap_agrees_with_delong_on_the_auroc():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [60, 60])
    a = rng.normal(size=120) + labels
    b = a + rng.normal(size=120)
    exact, drawn = comparison.delong(labels, a, b), comparison.paired_bootstrap(metrics.image_auroc, labels, a, b)
    assert (drawn.a, drawn.b) == pytest.approx((exact.a, exact.b))
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.02)
    error = 2 * np.sqrt(exact.p_value / 2 * (1 - exact.p_value / 2) / 1000)  # of 1000 draws
    assert drawn.p_value == pytest.approx(exact.p_value, abs=4 * error)
    assert comparison.paired_bootstrap(metrics.image_auroc, labels, a, a, samples=20).p_value == 1


def test_the_bootstrap_redraws_whole_images_of_any_size():
    rng = np.random.default_rng(3)
    masks = [np.zeros((6, 5 + i % 3), bool) for i in range(12)]
    for mask in masks[6:]:
        mask[1:3, 1:4] = True
    poor = [rng.random(mask.shape) for mask in masks]
    good = [values + mask for values, mask in zip(poor, masks, strict=True)]
    found = comparison.paired_bootstrap(metrics.pixel_auroc, masks, poor, good, samples=50)
    assert found.b > found.a and 0 < found.low <= found.difference <= found.high
    assert found.p_value == pytest.approx(1 / 51)
    back = comparison.paired_bootstrap(metrics.pixel_auroc, masks, good, poor, samples=50)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    with pytest.raises(ValueError, match="12 labels, 12 and 3"):
        comparison.paired_bootstrap(metrics.pixel_auroc, masks, poor, good[:3])


def test_the_bootstrap_of_pixels_is_the_general_one_but_read_once():
    rng = np.random.default_rng(4)
    masks = np.zeros((16, 24, 24), bool)
    masks[8:, 4:9, 4:12] = True
    poor = rng.normal(size=masks.shape) + masks * rng.uniform(0, 2, (16, 1, 1))
    better = poor + rng.normal(size=masks.shape) + 1.3 * masks
    found = comparison.paired_bootstrap_of_pixels(masks, poor, better, samples=300)
    for name, metric in (("pixel_auroc", metrics.pixel_auroc), ("pixel_aupr", metrics.pixel_aupr)):
        general = comparison.paired_bootstrap(metric, masks, poor, better, samples=300)
        assert (found[name].a, found[name].b) == (general.a, general.b)
        assert (found[name].low, found[name].high) == pytest.approx((general.low, general.high), abs=0.02)
    same = comparison.paired_bootstrap_of_pixels(masks, poor, 2 * poor, samples=50)
    assert {(c.low, c.high, c.p_value) for c in same.values()} == {(0, 0, 1)}
    blank = comparison.paired_bootstrap_of_pixels(masks[:2], poor[:2], better[:2], samples=5)
    assert all(np.isnan(c.p_value) for c in blank.values())


@pytest.mark.slow
def test_the_bootstrap_of_pixels_keeps_its_level():
    """Equally good methods: p below 0.05 in 5 % of 250 test sets of 30 + 30 images, within three standard errors."""
    rng, masks, rejected = np.random.default_rng(5), np.zeros((60, 6, 6), bool), 0
    masks[30:, 2:4, 2:4] = True
    for _ in range(250):
        pair = [rng.normal(size=masks.shape) + masks + rng.normal(size=(60, 1, 1)) for _ in range(2)]
        rejected += comparison.paired_bootstrap_of_pixels(masks, *pair, samples=200)["pixel_auroc"].p_value < 0.05
    assert abs(rejected / 250 - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 250)
