"""Scores a trained detector on a category: maps, image scores, metrics by both protocols."""

import time

import numpy as np

from ganspect.evaluation import metrics, statistics, thresholds


def score_category(detector, arrays, normals, stride=None):
    """Evidence of every test image, and how long it took.

    Args:
        detector: trained `Detector`; `calibrate` is called here.
        arrays: `data.arrays.CategoryArrays`.
        normals: held-out normal images, uint8 `[H, W, C]`.
        stride: of the maps; the detector's own by default.

    Returns:
        `(evidence of test images, evidence of held-out normals, median seconds per image)`.
    """
    detector.calibrate(normals, stride)
    detector.map_from(detector.evidence(arrays.test[0], stride), detector.score_names[0])  # compiles
    evidence, seconds = [], []
    for image in arrays.test:
        start = time.perf_counter()
        evidence.append(detector.evidence(image, stride))
        detector.map_from(evidence[-1], detector.score_names[0])
        seconds.append(time.perf_counter() - start)
    return evidence, [detector.evidence(image, stride) for image in normals], float(np.median(seconds))


def measure(detector, arrays, evidence, names, intervals=False):
    """Metrics of each named score by each protocol.

    Args:
        detector: calibrated `Detector`.
        arrays: `CategoryArrays`.
        evidence: of each test image.
        names: scores to measure, of `detector.score_names`.
        intervals: also bootstrap the first score's metrics over test images.

    Returns:
        `({protocol: {score: {metric: value, "<metric>_low": ..., "<metric>_high": ...}}}, {score: image scores [N]})`.
        Undefined metrics are None, with the reason under "undefined".
    """
    has_masks = all(mask is not None for mask in arrays.masks)
    kept = {"paper": np.arange(len(arrays.test)), "clean": _without_repeats(arrays)}
    found, image_scores = {protocol: {} for protocol in kept}, {}
    for name in names:
        maps = [detector.map_from(e, name) for e in evidence]
        image_scores[name] = np.array([m.max() for m in maps])
        for protocol, indices in kept.items():
            if protocol == "clean" and len(indices) == len(arrays.test):
                found[protocol][name] = found["paper"][name]
                continue
            some = [maps[i] for i in indices]
            masks = [arrays.masks[i] for i in indices] if has_masks else None
            wanted = intervals and name == names[0]
            found[protocol][name] = _metrics(arrays.labels[indices], image_scores[name][indices], masks, some, wanted)
    return found, image_scores


def normal_threshold(detector, normals_evidence, name):
    """Threshold from held-out normals: the 95th percentile of their pixels' scores, with its uncertainty."""
    maps = [detector.map_from(e, name) for e in normals_evidence]
    return thresholds.normal_quantile(np.concatenate([m.ravel() for m in maps]))


def _metrics(labels, scores, masks, maps, intervals):
    out = {"images": len(labels), "undefined": {}}
    reason = metrics.why_undefined(labels)
    out["image_auroc"] = None if reason else metrics.image_auroc(labels, scores)
    out["image_ap"] = None if reason else metrics.image_ap(labels, scores)
    if reason:
        out["undefined"]["image"] = reason
    elif intervals:
        out["image_auroc_low"], out["image_auroc_high"] = statistics.bootstrap_image_auroc(labels, scores)
    reason = "no masks" if masks is None else metrics.why_undefined(masks, unit="pixel")
    if reason:
        out["undefined"]["pixel"] = reason
        return out | {"pixel_auroc": None, "pixel_aupr": None}
    out["pixel_auroc"], out["pixel_aupr"] = metrics.pixel_auroc_aupr(masks, maps)
    if intervals:
        for name, (low, high) in statistics.bootstrap_pixel_metrics(masks, maps).items():
            out[f"{name}_low"], out[f"{name}_high"] = low, high
    return out


def _without_repeats(arrays):
    """Indices of the test images that are not byte-identical to a training image."""
    repeated = set(arrays.duplicates)
    return np.array([i for i, name in enumerate(arrays.test_names) if name not in repeated])
