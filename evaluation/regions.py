"""Metrics inside regions of interest, and what happens outside them.

A region is bool `[H, W]`, true inside; None means that all of its image is inside. A defect may lie wholly outside its
image's region: such an image is neither normal nor, inside the region, anomalous, so the image metrics leave it out and
count it.
"""

import math
from collections.abc import Sequence

import numpy as np

from ganspect.evaluation import metrics, pimo, ranks


def inside(arrays: Sequence, regions: Sequence | None) -> list[np.ndarray]:
    """The pixels of each array that lie in its region, flat; all of them where the region is None.

    Args:
        arrays: `[H, W]` each: maps or masks.
        regions: bool `[H, W]` each, or None; None for all: everything is inside.

    Raises:
        ValueError: unequal lengths, or a region that is not of its array's shape.
    """
    pairs = zip(arrays, _filled(arrays, regions), strict=True)
    return [np.asarray(array)[region] for array, region in pairs]


def region_metrics(
    labels,
    scores,
    masks: Sequence | None,
    maps: Sequence,
    regions: Sequence | None,
    threshold: float | None = None,
    image_threshold: float | None = None,
) -> dict:
    """Detection and localisation inside the regions, and the alarms raised inside and outside.

    Image metrics take an image as anomalous only if its mask meets its region. Left out of them are images whose defect
    lies wholly outside (an anomalous label whose mask does not meet the region) and images whose region is empty.
    An image's normal label stands, whatever its mask; so does the label of an image without a mask, of which nobody
    knows where its defect lies. Pixel metrics are taken over all images with a mask, those left out included.

    Args:
        labels: bool or 0/1 `[N]`, 1 = anomalous.
        scores: real `[N]`, image scores taken inside the regions, higher = more anomalous; may be NaN where the region
            is empty.
        masks: `[H, W]` each, nonzero = anomalous; None for an image, or for all, where there is none.
        maps: anomaly maps `[H, W]` each, higher = more anomalous.
        regions: bool `[H, W]` each; None for an image, or for all: everything is inside.
        threshold: of a pixel, from held-out normals; a pixel at or above it is an alarm. The shares of alarms are NaN
            without one.
        image_threshold: of an image's score inside its region, from held-out normals.

    Returns:
        `image_auroc_roi`, `image_ap_roi`, `image_f1_max_roi`, `image_accuracy_oracle_roi`,
        `image_balanced_accuracy_oracle_roi` (the last three at the best threshold), with an `image_threshold` also
        `image_balanced_accuracy_roi`; `pixel_auroc_roi`, `pixel_aupr_roi`, `pixel_f1_max_roi`,
        `pixel_aupro_0.30_roi`, `pixel_aupimo_roi`; `false_alarms_inside`,
        `false_alarms_outside` (share of normal pixels at or above the threshold), `marked_inside`, `marked_outside`
        (share of defect pixels at or above it); the counts `images_inside` (in the image metrics), `images_outside`
        (defect wholly outside) and `images_empty` (region empty); and `undefined`, `{metric: why it is NaN}`.

    Raises:
        ValueError: unequal lengths or shapes, labels other than 0 and 1, scores that are not finite, a threshold that
            is NaN.
    """
    if any(cut is not None and math.isnan(cut) for cut in (threshold, image_threshold)):
        raise ValueError("the threshold is NaN")
    (labels,), (scores,) = ranks.as_images(labels, scores)
    masks = [None] * len(maps) if masks is None else masks
    lengths = {"labels": len(labels), "scores": len(scores), "masks": len(masks), "maps": len(maps)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"unequal lengths: {lengths}")
    regions = _filled(maps, regions)
    known = [i for i, mask in enumerate(masks) if mask is not None]
    ranks.survey([masks[i] for i in known], [maps[i] for i in known])  # refuses wrong shapes and scores, outside too
    found, undefined = _image_metrics(labels, scores, masks, regions, image_threshold)
    for part, reasons in (_pixel_metrics(masks, maps, regions), _alarms(masks, maps, regions, threshold)):
        found |= part
        undefined |= reasons
    return {**found, "undefined": undefined}


def _image_metrics(labels, scores, masks, regions, threshold) -> tuple[dict, dict]:
    empty = np.array([not region.any() for region in regions], bool)
    met = np.array([mask is None or np.any((np.asarray(mask) != 0)[region]) for mask, region in _pairs(masks, regions)])
    outside = (np.asarray(labels) != 0) & ~met.astype(bool)
    kept = ~(outside | empty)
    counts = {
        "images_inside": int(kept.sum()),
        "images_outside": int(outside.sum()),
        "images_empty": int((empty & ~outside).sum()),
    }
    labels, scores = labels[kept], scores[kept]
    reason = metrics.why_undefined(labels)
    found = {
        "image_auroc_roi": metrics.image_auroc(labels, scores),
        "image_ap_roi": metrics.image_ap(labels, scores),
        "image_f1_max_roi": metrics.f1_max(labels, scores)[0],
        "image_accuracy_oracle_roi": math.nan if reason else metrics.accuracy_oracle(labels, scores)[0],
        "image_balanced_accuracy_oracle_roi": metrics.balanced_accuracy_oracle(labels, scores)[0],
    }
    if threshold is not None:
        found["image_balanced_accuracy_roi"] = metrics.balanced_accuracy(labels, scores, threshold)
    return found | counts, dict.fromkeys(found, reason) if reason else {}


def _pixel_metrics(masks, maps, regions) -> tuple[dict, dict]:
    known = [i for i, mask in enumerate(masks) if mask is not None]
    masks, maps, regions = ([values[i] for i in known] for values in (masks, maps, regions))
    labels, scores = inside(masks, regions), inside(maps, regions)
    reason = metrics.why_undefined(labels, "pixel") if known else "no masks"
    found = dict(zip(("pixel_auroc_roi", "pixel_aupr_roi"), metrics.pixel_auroc_aupr(labels, scores), strict=True))
    found["pixel_f1_max_roi"] = metrics.pixel_f1_max(labels, scores)[0] if not reason else math.nan
    found["pixel_aupro_0.30_roi"] = metrics.pixel_aupro(masks, maps, regions=regions) if not reason else math.nan
    undefined = {name: reason if reason == "no masks" else f"inside: {reason}" for name in found} if reason else {}
    # neither normal nor, inside, anomalous: an image whose defect lies wholly outside
    met = [i for i, (mask, label) in enumerate(zip(masks, labels, strict=True)) if np.any(label) or not np.any(mask)]
    labels, scores = ([values[i] for i in met if values[i].size] for values in (labels, scores))
    found["pixel_aupimo_roi"] = metrics.pixel_aupimo(labels, scores)
    if math.isnan(found["pixel_aupimo_roi"]):
        undefined["pixel_aupimo_roi"] = f"inside: {pimo.why_undefined(labels)}"
    return found, undefined


def _alarms(masks, maps, regions, threshold) -> tuple[dict, dict]:
    """Shares of pixels at or above the threshold, by class and side of the region."""
    found, undefined = {}, {}
    for name, defect in (("false_alarms", False), ("marked", True)):
        for side in ("inside", "outside"):
            key, alarms, total = f"{name}_{side}", 0, 0
            for mask, values, region in zip(masks, maps, regions, strict=True):
                if mask is None or threshold is None:
                    continue
                chosen = ((np.asarray(mask) != 0) == defect) & (region == (side == "inside"))
                # float32 would round the threshold
                alarms += int(np.count_nonzero(ranks.as_scores(values)[chosen].astype(np.float64) >= threshold))
                total += int(np.count_nonzero(chosen))
            found[key] = alarms / total if total else math.nan
            if not total:
                undefined[key] = _why_no_share(masks, threshold, f"no {'defect' if defect else 'normal'} pixels {side}")
    return found, undefined


def _why_no_share(masks, threshold, otherwise: str) -> str:
    if threshold is None:
        return "no threshold"
    return otherwise if any(mask is not None for mask in masks) else "no masks"


def _filled(arrays: Sequence, regions: Sequence | None) -> list[np.ndarray]:
    """bool `[H, W]` for every array, all true where the region is None."""
    filled = []
    for index, (array, region) in enumerate(_pairs(arrays, [None] * len(arrays) if regions is None else regions)):
        region = np.ones(np.shape(array), bool) if region is None else np.asarray(region) != 0
        if region.shape != np.shape(array):
            raise ValueError(f"image {index}: the region has shape {region.shape}, not {np.shape(array)}")
        filled.append(region)
    return filled


def _pairs(first: Sequence, second: Sequence):
    if len(first) != len(second):
        raise ValueError(f"{len(second)} regions for {len(first)} images")
    return zip(first, second, strict=True)
