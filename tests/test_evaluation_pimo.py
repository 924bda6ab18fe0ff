"""AUPIMO by its definition and against its authors' code; AUPRO against anomalib; what resizing does to masks.

The golden numbers were worked out with anomalib 2.7.0 on torch 2.13.0 (CPU): `anomalib.metrics.aupro._AUPRO(fpr_limit)`
and `anomalib.metrics.pimo.functional.aupimo_scores(maps, masks, num_thresholds=300_000, fpr_bounds, force=True)`, on
`scene()`.
"""

import math

import numpy as np
import pytest

from ganspect.evaluation import metrics, pimo

AUPRO = {0.30: 0.9941704869270325, 0.05: 0.9650392532348633}
AUPIMO = {
    (1e-5, 1e-4): (1, 1, 0.889589, 0, 0.03032, 0.083814, 0.604946, 0.072969, 1, 1, 1, 0.054523, 1, 1, 0.954067, 1),
    (1e-4, 1e-2): (1, 1, 1, 0.101804, 0.492126, 0.590496, 0.990706, 0.703136, 1, 1, 1, 0.456777, 1, 1, 1, 1),
}


def scene():
    """8 normal and 16 anomalous images with one to three rectangles each."""
    rng = np.random.default_rng(7)
    masks = np.zeros((24, 160, 160), bool)
    for i in range(8, 24):
        for _ in range(1 + i % 3):
            y, x = rng.integers(4, 140, 2)
            height, width = rng.integers(2, 10, 2)
            masks[i, y : y + height, x : x + width] = True
    maps = rng.gamma(2.0, 1.0, masks.shape) + masks * rng.uniform(4, 22, (24, 1, 1))
    return masks, maps.astype("float32")


def by_definition(masks, maps, low, high, steps=200_000):
    """The integral over the logarithm of the rate, on a fine grid of rates."""
    normal = [i for i, mask in enumerate(masks) if not np.any(mask)]
    weights = np.concatenate([np.full(maps[i].size, 1 / maps[i].size / len(normal)) for i in normal])
    scores = np.concatenate([np.ravel(maps[i]) for i in normal])
    rates = np.geomspace(low, high, steps)
    out = np.full(len(masks), math.nan)
    for i, mask in enumerate(masks):
        if np.any(mask):
            cost = np.array([weights[scores >= value].sum() for value in maps[i][np.asarray(mask) != 0]])
            recalls = np.searchsorted(np.sort(cost), rates * (1 + 1e-12), "right") / len(cost)
            out[i] = np.trapezoid(recalls, np.log(rates)) / np.log(high / low)
    return out


def test_aupro_is_anomalibs():
    masks, maps = scene()
    for limit, golden in AUPRO.items():
        assert metrics.pixel_aupro(masks, maps, limit) == pytest.approx(golden, abs=1e-7)  # theirs is float32


def test_aupimo_is_anomalibs():
    """Theirs cuts at the nearest of its rates, 2.4 % below the bounds here: so much of the logarithm's range."""
    masks, maps = scene()
    for (low, high), golden in AUPIMO.items():
        found = metrics.per_image_aupimo(masks, maps, low, high)
        assert np.isnan(found[:8]).all()
        np.testing.assert_allclose(found[8:], golden, atol=math.log(1 / 0.9765625) / math.log(high / low))
        assert metrics.pixel_aupimo(masks, maps, low, high) == pytest.approx(found[8:].mean())


def test_aupimo_is_its_definition_with_ties_and_images_of_any_size():
    rng = np.random.default_rng(0)
    shapes = [(30, 40), (25, 25), (31, 17), (20, 20), (12, 50)]
    masks = [np.zeros(shape, np.uint8) for shape in shapes]
    for mask in masks[2:]:
        mask[3:9, 4:12] = 255
    maps = [np.round(rng.normal(size=mask.shape) + (mask > 0), 1).astype("float32") for mask in masks]
    found = metrics.per_image_aupimo(masks, maps, 1e-3, 1e-1)
    np.testing.assert_allclose(found, by_definition(masks, maps, 1e-3, 1e-1), atol=1e-4)


@pytest.mark.parametrize("decimals", [0, 6])
def test_aupimo_drops_no_normal_pixel_that_counts(decimals):
    """Many normal images of two sizes, one of them with the highest scores last."""
    rng, low, high = np.random.default_rng(1), 1e-3, 2e-2
    masks = [np.zeros((12 + 6 * (i % 2), 15), bool) for i in range(60)]
    maps = [np.round(rng.normal(size=mask.shape) + i / 60, decimals) for i, mask in enumerate(masks)]
    marked = np.zeros((12, 15), bool)
    marked[2:7, 3:9] = True
    defect = np.round(rng.normal(3.0, 1.0, marked.shape), decimals)
    rates = np.array([np.mean([np.mean(values >= score) for values in maps]) for score in defect[marked]])
    expected = np.mean(np.log(high / np.clip(rates, low, high)) / np.log(high / low))
    assert 0.1 < expected < 0.9
    found = metrics.per_image_aupimo([*masks, marked], [*maps, defect], low, high)
    assert found[-1] == pytest.approx(expected, rel=1e-9) and np.isnan(found[:-1]).all()
    kept, _ = pimo._false_positive_rates(maps, high, wide=True)
    assert decimals == 0 or len(kept) < 1.5 * high * sum(map(np.size, maps)) + 60


def test_aupimo_says_why_it_is_undefined():
    normal, anomalous = np.zeros((4, 4)), np.eye(4)
    assert pimo.why_undefined([normal, anomalous]) is None
    for masks, reason in (([normal], "with anomalous"), ([anomalous], "without anomalous"), ([], "no images")):
        assert reason in pimo.why_undefined(masks)
        assert math.isnan(metrics.pixel_aupimo(masks, masks))


def test_aupimo_at_the_ends():
    masks, maps = scene()
    assert metrics.pixel_aupimo(masks, masks.astype("float32")) == 1
    assert metrics.pixel_aupimo(masks, -masks.astype("float32")) == 0
    assert metrics.pixel_aupimo(masks, np.ones_like(maps)) == 0  # a tie with every normal pixel
    assert math.isnan(metrics.pixel_aupimo(masks[8:], maps[8:])) and math.isnan(
        metrics.pixel_aupimo(masks[:8], maps[:8])
    )
    few = metrics.pixel_aupimo([np.zeros((4, 4)), np.eye(4)], [np.zeros((4, 4)), np.diag([1.0, 1, 0, -1])])
    assert few == 0.5  # the recall without a single false positive
    with pytest.raises(ValueError, match="bounds"):
        metrics.pixel_aupimo(masks, maps, 1e-4, 1e-5)
    maps[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match=r"1 scores are not finite \(image index 3\)"):
        metrics.pixel_aupimo(masks, maps)


@pytest.mark.parametrize("seed", range(20))
def test_no_area_is_above_one_or_below_zero(seed):
    """Ties, constant maps, defects of one pixel, whole-image defects, one huge outlier."""
    rng = np.random.default_rng(seed)
    masks = rng.random((4, 9, 11)) < rng.choice([0.01, 0.3, 0.9])
    masks[0], masks[1, 4, 4] = False, True
    maps = (rng.normal(size=masks.shape) + rng.choice([0, 3]) * masks).astype("float32")
    maps = np.round(maps, rng.integers(0, 3)) if seed % 2 else np.full_like(maps, 2.5) if seed % 3 == 0 else maps
    maps[0, 0, 0] = rng.choice([0.0, 1e30])
    for limit in (0.05, 0.3, 1.0):
        assert 0 <= metrics.pixel_aupro(masks, maps, limit) <= 1
    assert 0 <= metrics.pixel_aupimo(masks, maps) <= 1
    assert 0 <= metrics.pixel_aupr(masks, maps) <= 1 and 0 <= metrics.pixel_f1_max(masks, maps)[0] <= 1


def test_an_outlier_moves_no_metric_where_kerass_fails():
    import keras

    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 2000)
    scores = (rng.normal(size=4000) + 1.2 * labels).astype("float32")
    without = metrics.image_auroc(labels, scores)
    scores[np.argmax(scores)] = 1e8
    assert metrics.image_auroc(labels, scores) == pytest.approx(without, abs=1e-3) and without > 0.78
    binned = keras.metrics.AUC()
    binned.update_state(labels, (scores - scores.min()) / (scores.max() - scores.min()))
    assert float(binned.result()) < 0.51


def test_a_region_keeps_its_weight_however_small_resizing_made_it():
    masks = np.zeros((2, 16, 16), bool)
    masks[0, 2, 2], masks[1, 4:14, 4:14] = True, True
    maps = np.zeros(masks.shape, "float32")
    maps[1][masks[1]] = 1
    assert metrics.pixel_aupro(masks, maps, 1e-9) == pytest.approx(0.5)  # one of two defects, whatever their sizes
    maps[0, 2, 2] = 1
    assert metrics.pixel_aupro(masks, maps) == 1
    gone = np.zeros((1, 16, 16), bool)  # a defect that vanished: its pixels count as normal, its image by its label
    some = [*masks, *gone], [*maps, *np.zeros((1, 16, 16), "float32")]
    assert metrics.pixel_aupro(*some) == 1 and metrics.pixel_auroc(*some) == 1
