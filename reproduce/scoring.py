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


def measure(detector, arrays, evidence, normal_evidence, names, intervals=False):
    """Metrics of each named score by each protocol.

    Args:
        detector: calibrated `Detector`.
        arrays: `CategoryArrays`.
        evidence: of each test image.
        normal_evidence: of the held-out normal images, for the clean protocol's thresholds.
        names: scores to measure, of `detector.score_names`.
        intervals: also bootstrap the first score's metrics over test images.

    Returns:
        `({protocol: {score: {metric: value, "<metric>_low": ..., "<metric>_high": ...}}}, {score: image scores [N]},
        {score: Threshold of an image})`. Undefined metrics are None, with the reason under "undefined". Balanced
        accuracy is taken at the best threshold in the paper protocol alone, at the held-out one in the clean alone.
    """
    has_masks = all(mask is not None for mask in arrays.masks)
    kept = {"paper": np.arange(len(arrays.test)), "clean": _without_repeats(arrays)}
    found, image_scores, cuts = {protocol: {} for protocol in kept}, {}, {}
    for name in names:
        mapped = detector.map_names is None or name in detector.map_names
        maps = [detector.map_from(e, name) for e in evidence] if mapped else None
        scores = image_scores[name] = np.array([detector.score_from(e, name) for e in evidence])
        cuts[name] = thresholds.normal_quantile([detector.score_from(e, name) for e in normal_evidence])
        for protocol, indices in kept.items():
            if protocol == "clean" and len(indices) == len(arrays.test):
                found[protocol][name] = dict(found["paper"][name])
            else:
                some = [maps[i] for i in indices] if mapped else None
                masks = [arrays.masks[i] for i in indices] if has_masks else None
                wanted = intervals and name == names[0]
                found[protocol][name] = _metrics(arrays.labels[indices], scores[indices], masks, some, wanted)
        _add_balanced_accuracies(found, name, arrays.labels, scores, kept, cuts[name].value)
    return found, image_scores, cuts


def _add_balanced_accuracies(found, name, labels, scores, kept, cut):
    """At the best test threshold to the paper protocol, at the held-out one to the clean."""
    paper, clean = found["paper"][name], found["clean"][name]
    value, best = metrics.balanced_accuracy_oracle(labels[kept["paper"]], scores[kept["paper"]])
    defined = not np.isnan(value)
    paper["image_balanced_accuracy_oracle"], paper["oracle_threshold"] = (value, best) if defined else (None, None)
    value = metrics.balanced_accuracy(labels[kept["clean"]], scores[kept["clean"]], cut)
    clean["image_balanced_accuracy"] = None if np.isnan(value) else value


def normal_threshold(detector, normals_evidence, name):
    """Threshold of a pixel: the 95th percentile of the held-out normals' pixels, with its uncertainty."""
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
    if maps is None:
        return out
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
