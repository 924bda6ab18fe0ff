"""Metrics inside regions against scikit-learn and against selections written out."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from ganspect.evaluation import metrics
from ganspect.evaluation.regions import inside, region_metrics

NAMES = ("image_auroc_roi", "image_ap_roi", "pixel_auroc_roi", "pixel_aupr_roi")
SHARES = ("false_alarms_inside", "false_alarms_outside", "marked_inside", "marked_outside")


def images(seed, decimals=None, count=24):
    """Ragged random images: every third normal, some regions None, one empty, some defects wholly outside."""
    generator = np.random.default_rng(seed)
    masks, maps, regions = [], [], []
    for i in range(count):
        shape = generator.integers(12, 30, 2)
        mask, region = np.zeros(shape, bool), generator.random(shape) < 0.6
        if i % 3:
            mask[2:7, 3:8] = True
        if i % 5 == 1:
            region &= ~mask
        maps.append((generator.normal(size=shape) + 0.7 * mask).astype(np.float32))
        masks.append(mask)
        regions.append(None if i % 7 == 2 else region)
    regions[9] = np.zeros(masks[9].shape, bool)  # of a normal image
    labels = np.array([bool(i % 3) for i in range(count)])
    maps = maps if decimals is None else [np.round(values, decimals) for values in maps]
    scores = np.array([math.nan if not len(v) else v.max() for v in inside(maps, regions)])
    return labels, scores, masks, maps, regions


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_equals_scikit_learn(decimals):
    labels, scores, masks, maps, regions = images(0, decimals)
    found = region_metrics(labels, scores, masks, maps, regions, 1.0)
    full = [
        np.ones(mask.shape, bool) if region is None else region for mask, region in zip(masks, regions, strict=True)
    ]
    met = np.array([(mask & region).any() for mask, region in zip(masks, full, strict=True)])
    some = np.array([region.any() for region in full])
    kept = some & (met | ~labels)
    assert 0 < (labels & ~met).sum() == found["images_outside"] and found["images_empty"] == 1
    assert found["images_inside"] == kept.sum() == len(labels) - 1 - found["images_outside"]
    mask, value, within = (np.concatenate([a.ravel() for a in arrays]) for arrays in (masks, maps, full))
    expected = [
        reference.roc_auc_score(met[kept], scores[kept]),
        reference.average_precision_score(met[kept], scores[kept]),
        reference.roc_auc_score(mask[within], value[within]),
        reference.average_precision_score(mask[within], value[within]),
    ]
    np.testing.assert_allclose([found[name] for name in NAMES], expected, rtol=1e-12)
    shares = [np.mean(value[side & (mask == kind)] >= 1) for kind in (False, True) for side in (within, ~within)]
    np.testing.assert_allclose([found[name] for name in SHARES], shares, rtol=1e-12)
    assert found["undefined"] == {}


def test_without_regions_they_are_the_plain_metrics():
    labels, _, masks, maps, _ = images(1, 1)
    scores = [values.max() for values in maps]
    for regions in (None, [None] * len(maps), [np.ones(mask.shape, np.uint8) for mask in masks]):
        found = region_metrics(labels, scores, masks, maps, regions, 0.5)
        assert found["image_auroc_roi"] == metrics.image_auroc(labels, scores)
        assert found["image_ap_roi"] == metrics.image_ap(labels, scores)
        assert (found["pixel_auroc_roi"], found["pixel_aupr_roi"]) == metrics.pixel_auroc_aupr(masks, maps)
        assert (found["images_inside"], found["images_outside"], found["images_empty"]) == (len(labels), 0, 0)
        assert math.isnan(found["false_alarms_outside"]) and math.isnan(found["marked_outside"])
        assert found["undefined"] == {
            "false_alarms_outside": "no normal pixels outside",
            "marked_outside": "no defect pixels outside",
        }


def test_scores_outside_the_regions_change_nothing_inside():
    labels, scores, masks, maps, regions = images(2)
    before = region_metrics(labels, scores, masks, maps, regions, 0.5)
    moved = [v if r is None else np.where(r, v, 99) for v, r in zip(maps, regions, strict=True)]
    after = region_metrics(labels, scores, masks, moved, regions, 0.5)
    same = [name for name in before if not name.endswith("_outside") or name == "images_outside"]
    assert {name: before[name] for name in same} == {name: after[name] for name in same}
    assert after["false_alarms_outside"] == after["marked_outside"] == 1 > before["false_alarms_outside"]


def test_undefined_is_nan_with_a_reason():
    maps = [np.zeros((2, 2)), np.ones((2, 2))]
    empty, mask = np.zeros((2, 2), bool), np.eye(2, dtype=bool)

    def reasons(labels, masks, regions, threshold=0.5):
        found = region_metrics(labels, [0.0, 1.0], masks, maps, regions, threshold)
        assert all(math.isnan(found[name]) == (name in found["undefined"]) for name in (*NAMES, *SHARES))
        return found["undefined"] | {name: found[name] for name in found if name.startswith("images")}

    nothing_inside = reasons([0, 1], [empty, mask], [empty, empty])
    assert nothing_inside["image_auroc_roi"] == nothing_inside["image_ap_roi"] == "no images"
    assert nothing_inside["pixel_auroc_roi"] == nothing_inside["pixel_aupr_roi"] == "inside: no pixels"
    assert nothing_inside["false_alarms_inside"] == "no normal pixels inside"
    assert nothing_inside["marked_inside"] == "no defect pixels inside"
    assert (nothing_inside["images_outside"], nothing_inside["images_empty"]) == (1, 1)  # each image counted once
    defect_outside = reasons([0, 1], [empty, mask], [None, ~mask])
    assert defect_outside["image_auroc_roi"] == "only normal images: no anomalous one"
    assert defect_outside["pixel_auroc_roi"] == "inside: only normal pixels: no anomalous one"
    assert reasons([1, 1], [mask, mask], None)["image_ap_roi"] == "only anomalous images: no normal one"
    no_masks = reasons([0, 1], None, [None, mask])
    assert {no_masks[name] for name in (*NAMES[2:], *SHARES)} == {"no masks"} and no_masks["images_inside"] == 2
    no_threshold = reasons([0, 1], [empty, mask], [mask, mask], None)
    assert {name: no_threshold.get(name) for name in SHARES} == dict.fromkeys(SHARES, "no threshold")
    assert set(SHARES) == {name for name in no_threshold if not name.startswith("images")}


def test_the_label_is_the_folder_and_the_mask_says_where():
    masks = [np.eye(4, dtype=bool), np.eye(4, dtype=bool), np.zeros((4, 4), bool), None]
    maps = [np.full((4, 4), v) for v in (1.0, 2.0, 3.0, 4.0)]
    found = region_metrics([0, 1, 1, 1], [1, 2, 3, 4], masks, maps, None, 2.0)
    assert (found["images_inside"], found["images_outside"]) == (3, 1)  # an empty mask meets no region
    assert found["image_auroc_roi"] == 1 and found["marked_inside"] == 0.5
    assert found["false_alarms_inside"] == pytest.approx((12 + 16) / (12 + 12 + 16))


def test_a_threshold_between_two_floats_is_not_rounded():
    value = np.float32(1) + np.float32(2**-23)
    maps = [np.full((1, 2), value)]
    for threshold, share in ((float(value), 1), (float(value) + 1e-10, 0)):
        assert region_metrics([0], [1], [np.zeros((1, 2))], maps, None, threshold)["false_alarms_inside"] == share


def test_bad_input_is_named():
    masks, maps = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    good = {"labels": [0, 1], "scores": [0, 1], "masks": masks, "maps": maps, "regions": None}
    for change, message in (
        ({"regions": [None, np.ones((2, 2))]}, r"image 1: the region has shape \(2, 2\), not \(3, 3\)"),
        ({"regions": [None]}, "1 regions for 2 images"),
        ({"labels": [0]}, "unequal lengths"),
        ({"labels": [0, 2]}, "labels must be 0"),
        ({"scores": [0, math.nan]}, "1 scores are not finite"),
        ({"masks": [masks[0], masks[1, :2]]}, "image 1: labels have shape"),
        ({"maps": maps + [[[0]], [[math.inf]]]}, r"9 scores are not finite \(image index 1\)"),
        ({"threshold": math.nan}, "threshold is NaN"),
    ):
        if "scores" in change:
            change["masks"] = None
        with pytest.raises(ValueError, match=message):
            region_metrics(**{**good, **change})


def test_arguments_stay_as_they_are():
    arguments = images(3)
    copies = [[None if a is None else np.copy(a) for a in part] for part in arguments]
    region_metrics(*arguments, 0.5)
    for part, copied in zip(arguments, copies, strict=True):
        for a, b in zip(part, copied, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_lies_outside_counts_for_nothing_in_any_metric():
    """Other maps and other masks outside leave every metric of the inside as it is, and the inside alone gives it."""
    rng = np.random.default_rng(5)
    masks = np.zeros((8, 20, 20), bool)
    for i in range(4, 8):
        masks[i, 3 + i : 9 + i, 8:15] = True
    maps = (rng.random(masks.shape) + 0.3 * masks).astype("float32")
    region = np.zeros((20, 20), bool)
    region[2:16, 4:12] = True
    labels, scores = masks.any(axis=(1, 2)).astype(int), np.array([values[region].max() for values in maps])
    found = region_metrics(labels, scores, masks, maps, [region] * 8)
    other = np.where(region, maps, rng.random(masks.shape).astype("float32"))
    changed = region_metrics(labels, scores, masks, other, [region] * 8)
    assert {k: v for k, v in found.items() if k.endswith("_roi")} == {
        k: v for k, v in changed.items() if k.endswith("_roi")
    }
    cut = [values[:, 2:16, 4:12] for values in (masks, maps)]
    for name, metric in {
        "pixel_aupro_0.30_roi": metrics.pixel_aupro,
        "pixel_aupimo_roi": metrics.pixel_aupimo,
        "pixel_f1_max_roi": lambda *pair: metrics.pixel_f1_max(*pair)[0],
        "pixel_auroc_roi": metrics.pixel_auroc,
    }.items():
        assert found[name] == pytest.approx(metric(*cut)), name
    assert found["image_f1_max_roi"] == metrics.f1_max(labels, scores)[0]


def test_a_defect_outside_makes_no_normal_image_for_aupimo():
    masks, maps = np.zeros((3, 8, 8), bool), np.zeros((3, 8, 8), "float32")
    masks[1, 6:, 6:], masks[2, 1:3, 1:3] = True, True
    maps[1, 0, 0], maps[2][masks[2]] = 9, 5
    region = np.zeros((8, 8), bool)
    region[:5, :5] = True
    found = region_metrics([0, 1, 1], [0.0, 9.0, 5.0], masks, maps, [region] * 3)
    assert found["pixel_aupimo_roi"] == 1 and found["images_outside"] == 1
    alone = region_metrics([1, 1], [9.0, 5.0], masks[1:], maps[1:], [region] * 2)
    assert "no image without anomalous pixels" in alone["undefined"]["pixel_aupimo_roi"]
