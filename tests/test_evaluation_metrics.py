"""Rank metrics against scikit-learn and against definitions written out."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from ganspect.evaluation import metrics, ranks, smoothing, thresholds

MILLION = 1_000_000


def agree(labels, scores, tolerance=1e-12):
    result = metrics.pixel_auroc_aupr([labels], [scores])
    exact = np.unique(scores, return_inverse=True)[1]  # the reference adds nothing of its own to the order
    np.testing.assert_allclose(result[0], reference.roc_auc_score(labels, exact), rtol=tolerance)
    np.testing.assert_allclose(result[1], reference.average_precision_score(labels, exact), rtol=tolerance)
    return result


@pytest.mark.parametrize("prevalence", [0.001, 0.5])
@pytest.mark.parametrize("decimals", [None, 1])
def test_equals_scikit_learn(prevalence, decimals):
    generator = np.random.default_rng(0)
    labels = generator.random(MILLION) < prevalence
    scores = (generator.normal(size=MILLION) + labels).astype(np.float32)
    agree(labels, scores if decimals is None else np.round(scores, decimals))


def test_outlier_and_negative_zero_and_infinitesimals():
    generator = np.random.default_rng(1)
    labels = generator.random(10_000) < 0.1
    scores = (generator.normal(size=10_000) ** 5 + labels).astype(np.float32)
    scores[17] = 1e30
    scores[20:3000] = np.where(generator.random(2980) < 0.5, 0.0, -0.0)
    scores[3000:4000] *= np.float32(1e-42)
    agree(labels, scores)
    assert metrics.image_auroc([0, 1], np.float32([0.0, -0.0])) == 0.5


def test_float64_beyond_float32_keeps_its_order():
    generator = np.random.default_rng(2)
    labels = generator.random(100_000) < 0.3
    scores = 1 + 1e-12 * (generator.normal(size=100_000) + labels)
    assert len(np.unique(scores.astype(np.float32))) == 1
    assert agree(labels, scores)[0] > 0.7
    assert metrics.image_auroc([0, 1], [1e300, 1e301]) == 1
    assert not ranks.survey([labels], [scores.astype(np.float32).astype(np.float64)]).wide


def test_keys_keep_order_and_come_back():
    for kind, wide in ((np.float32, False), (np.float64, True)):
        info = np.finfo(kind)
        scores = np.array([-info.max, -1, -info.smallest_subnormal, 0, info.smallest_subnormal, 1, info.max], kind)
        keys = ranks.order_keys(scores, wide)
        assert (np.diff(keys.astype(object)) > 0).all()
        np.testing.assert_array_equal(ranks.key_scores(keys), scores)


def test_ragged_images_are_pooled():
    generator = np.random.default_rng(3)
    shapes = [(31, 40), (8, 8), (64, 21)]
    masks = [generator.random(shape) < 0.2 for shape in shapes]
    maps = [np.round(generator.normal(size=shape) + mask, 1) for shape, mask in zip(shapes, masks, strict=True)]
    labels, scores = (np.concatenate([part.ravel() for part in parts]) for parts in (masks, maps))
    pooled = agree(labels, scores)
    assert metrics.pixel_auroc_aupr(masks, maps) == pooled
    assert metrics.pixel_auroc([mask * np.uint8(255) for mask in masks], maps) == pooled[0]
    for memory in (100, 2000, 20_000):
        np.testing.assert_allclose(metrics.pixel_auroc_aupr(masks, maps, memory=memory), pooled, rtol=1e-14)


def test_one_class_is_nan_with_a_reason():
    for labels, reason in (([1, 1], "only anomalous images"), ([0, 0], "only normal images"), ([], "no images")):
        assert reason in metrics.why_undefined(labels)
        scores = np.arange(len(labels))
        for metric in (metrics.image_auroc, metrics.image_ap):
            assert math.isnan(metric(labels, scores))
        for metric in (metrics.f1_max, metrics.accuracy_oracle, metrics.balanced_accuracy_oracle):
            assert all(math.isnan(value) for value in metric(labels, scores))
        assert math.isnan(metrics.balanced_accuracy(labels, scores, 0.5))
    assert metrics.why_undefined([0, 1]) is None
    assert metrics.why_undefined(np.zeros((2, 3, 3)), "pixel") == "only normal pixels: no anomalous one"
    assert math.isnan(metrics.pixel_auroc(np.zeros((2, 3, 3)), np.ones((2, 3, 3))))


def test_constant_scores():
    labels = np.arange(100) < 7
    assert metrics.pixel_auroc_aupr([labels], [np.full(100, 3.5)], memory=10) == (0.5, 0.07)
    for flat in (np.full(100, 3.5), np.zeros(100)):
        assert metrics.accuracy_oracle(labels, flat) == (0.93, math.inf)
        assert metrics.accuracy_oracle(~labels, flat) == (0.93, flat[0])
        assert metrics.accuracy_oracle(np.arange(100) < 50, flat) == (0.5, flat[0])


def test_bad_input_is_named():
    maps = [np.zeros((2, 2)), np.array([[np.nan, 1], [np.inf, 0]])]
    with pytest.raises(ValueError, match=r"2 scores are not finite \(image index 1\)"):
        metrics.pixel_auroc(np.ones((2, 2, 2)), maps)
    with pytest.raises(ValueError, match="image 1: labels have shape"):
        metrics.pixel_auroc([np.ones((2, 2)), np.ones((3, 2))], maps)
    with pytest.raises(ValueError, match="2 label arrays but 1"):
        metrics.pixel_auroc([np.ones((2, 2))] * 2, maps[:1])
    with pytest.raises(ValueError, match="labels must be 0"):
        metrics.image_auroc([-1, 1], [0, 1])
    with pytest.raises(TypeError, match="real numbers"):
        metrics.image_auroc([0, 1], ["a", "b"])
    with pytest.raises(ValueError, match="threshold is NaN"):
        metrics.balanced_accuracy([0, 1], [0, 1], math.nan)


def test_best_thresholds_against_trying_all():
    generator = np.random.default_rng(4)
    for prevalence in (0.05, 0.5):
        labels = generator.random(300) < prevalence
        scores = np.round(generator.normal(size=300) + 0.5 * labels, 1)
        candidates = np.append(np.unique(scores), np.inf)
        tried = {
            metrics.f1_max: lambda called: reference.f1_score(labels, called),  # noqa: B023
            metrics.balanced_accuracy_oracle: lambda called: reference.balanced_accuracy_score(labels, called),  # noqa: B023
            metrics.accuracy_oracle: lambda called: np.mean(labels == called),  # noqa: B023
        }
        for metric, value_of in tried.items():
            value, threshold = metric(labels, scores)
            np.testing.assert_allclose(value, max(value_of(scores >= level) for level in candidates), rtol=1e-14)
            np.testing.assert_allclose(value, value_of(scores >= threshold), rtol=1e-14)
        threshold = metrics.balanced_accuracy_oracle(labels, scores)[1]
        assert metrics.balanced_accuracy(labels, scores, threshold) == pytest.approx(
            metrics.balanced_accuracy_oracle(labels, scores)[0], rel=1e-14
        )
    assert metrics.accuracy_oracle([0, 0, 0, 1], [1, 2, 3, 0]) == (0.75, math.inf)
    for _ in range(200):  # tiny sets, where ties and ends are met often
        labels, scores = generator.permutation(6) < generator.integers(1, 6), generator.integers(0, 3, 6)
        tried = [np.mean(labels == (scores >= level)) for level in (0, 1, 2, np.inf)]
        value, threshold = metrics.accuracy_oracle(labels, scores)
        assert value == max(tried) == np.mean(labels == (scores >= threshold))
    assert metrics.balanced_accuracy([0, 1], np.float32([1, 2]), 1 + 1e-12) == 1


def test_region_overlap_against_the_curve_written_out():
    generator = np.random.default_rng(5)
    masks = np.zeros((3, 20, 20), bool)
    masks[0, 2:5, 2:9] = masks[0, 12:18, 3:6] = masks[1, 5, 5] = masks[1, 6, 6] = True  # the last two touch: one defect
    maps = np.round(generator.normal(size=masks.shape) + masks, 1)
    defects = [(0, np.s_[2:5, 2:9]), (0, np.s_[12:18, 3:6]), (1, ([5, 6], [5, 6]))]
    levels = np.append(np.inf, np.unique(maps)[::-1])
    rate = np.array([np.mean(maps[~masks] >= level) for level in levels])
    overlap = np.array([np.mean([np.mean(maps[i][where] >= level) for i, where in defects]) for level in levels])
    for limit in (0.05, 0.3, 1.0):
        at = np.append(rate[rate < limit], limit)
        expected = np.trapezoid(np.append(overlap[rate < limit], np.interp(limit, rate, overlap)), at) / limit
        np.testing.assert_allclose(metrics.pixel_aupro(masks, maps, limit), expected, rtol=1e-12)


def test_thinned_curves_lie_on_the_exact_ones():
    generator = np.random.default_rng(6)
    labels = generator.random(50_000) < 0.1
    scores = generator.normal(size=50_000) + labels
    wrong, caught, levels = metrics.roc_curve(labels, scores)
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    assert len(levels) <= 514 and (wrong[0], caught[0], wrong[-1], caught[-1]) == (0, 0, 1, 1)
    for index in (1, 100, 400):
        called = scores >= levels[index]
        assert wrong[index] == np.mean(called[~labels]) and caught[index] == recall[index] == np.mean(called[labels])
        assert precision[index] == np.mean(labels[called])
    np.testing.assert_allclose(np.trapezoid(caught, wrong), metrics.image_auroc(labels, scores), atol=1e-4)
    with pytest.raises(ValueError, match="both classes"):
        metrics.roc_curve([1, 1], [0, 1])


def test_mean_filter_against_the_window_written_out():
    array = np.random.default_rng(7).normal(size=(9, 5))
    padded = np.pad(array, 48, mode="symmetric")
    for size in (4, 5, 48):
        first = 48 - size // 2
        expected = [
            [padded[first + i : first + i + size, first + j : first + j + size].mean() for j in range(5)]
            for i in range(9)
        ]
        np.testing.assert_allclose(smoothing.mean_filter(array, size), expected, atol=1e-14)
    assert smoothing.mean_filter(array.astype(np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match="1 pixels are not finite"):
        smoothing.mean_filter(np.array([[np.nan, 1.0]]))


def test_quantile_of_normals():
    threshold = thresholds.normal_quantile(np.arange(1, 201))
    assert (threshold.value, threshold.n) == (pytest.approx(190.05), 200)
    assert threshold.low < threshold.value < threshold.high and "95 % interval" in threshold.note
    few = thresholds.normal_quantile(np.arange(20.0))
    assert few.high == math.inf and "too few for a 95 % upper bound" in few.note
    assert thresholds.normal_quantile(np.arange(71)).high == math.inf
    assert thresholds.normal_quantile(np.arange(72)).high == 71
    with pytest.raises(ValueError, match="no normal scores"):
        thresholds.normal_quantile([])
