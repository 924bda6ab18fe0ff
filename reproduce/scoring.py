"""Scores a trained detector on a category: maps, image scores, metrics by both protocols."""

import time

import numpy as np

from ganspect.data import on_disk
from ganspect.evaluation import metrics, regions, statistics, thresholds

# at the best thresholds of the test set
BEST_INSIDE = (
    "image_f1_max_roi",
    "image_accuracy_oracle_roi",
    "image_balanced_accuracy_oracle_roi",
    "pixel_f1_max_roi",
)
ALL = ", all"  # suffix of the score over all test images, beside the one over random draws of them
DRAWN_METRICS = {
    "image_auroc": metrics.image_auroc,
    "image_ap": metrics.image_ap,
    "image_f1_max": lambda labels, scores: metrics.f1_max(labels, scores)[0],
    "image_accuracy_oracle": lambda labels, scores: metrics.accuracy_oracle(labels, scores)[0],
    "image_balanced_accuracy_oracle": lambda labels, scores: metrics.balanced_accuracy_oracle(labels, scores)[0],
}


def score_category(detector, arrays, normals, stride=None, report=None):
    """Evidence of every test image, and how long it took.

    Args:
        detector: trained `Detector`; `calibrate` is called here.
        arrays: `data.arrays.CategoryArrays`.
        normals: held-out normal images, uint8 `[H, W, C]`.
        stride: of the maps; the detector's own by default.
        report: called with the number of test images scored so far, where given.

    Returns:
        `(evidence of test images, evidence of held-out normals, median seconds per image)`.

    Held-out normals come first, so that where scores depend on the images before (`Detector.continues`) the clean
    protocol's threshold does not depend on test images; of these the normal ones come first there, as in the study's
    notebook.
    """
    detector.calibrate(normals, stride)
    if detector.at_once == 1:
        detector.map_from(detector.evidence(arrays.test[0], stride), detector.score_names[0])  # compiles
        if detector.continues:
            detector.calibrate(normals, stride)  # starts anew
    of_normals = detector.evidences(normals, stride)
    order = np.argsort(arrays.labels, kind="stable") if detector.continues else np.arange(len(arrays.test))
    evidence, seconds = [], []
    for first in range(0, len(order), detector.at_once):
        start = time.perf_counter()
        found = detector.evidences([arrays.test[i] for i in order[first : first + detector.at_once]], stride)
        if detector.map_names is None:
            for one in found:
                detector.map_from(one, detector.score_names[0])
        seconds += [(time.perf_counter() - start) / len(found)] * len(found)
        evidence += found
        if report:
            report(len(evidence))
    evidence = [evidence[i] for i in np.argsort(order)]
    return evidence, of_normals, float(np.median(seconds))


def examined(detector, images, regions=None, maps=False):
    """What a few images at a time give: memory stays bounded, whatever evidence the method keeps of an image.

    Args:
        images: uint8 `[H, W, C]` each.
        regions: bool `[H, W]` or None each, where scores are taken inside.
        maps: whether the maps are wanted too, on disk where they are many.

    Returns:
        Scores `[N]`, maxima of the maps `[N]`, and the maps `[H, W]` or nothing.
    """
    scores, peaks, kept, shelf = [], [], [], on_disk.Shelf()
    for first in range(0, len(images), detector.at_once):
        for i, found in enumerate(detector.evidences(images[first : first + detector.at_once]), first):
            region = None if regions is None else regions[i]
            scores.append(detector.score_from(found) if region is None else detector.score_inside(found, region))
            heat = detector.map_from(found, map_name(detector))
            peaks.append(float(heat.max()))
            if maps:
                kept.append(shelf.put(np.asarray(heat)))
    return np.array(scores), np.array(peaks), kept


def map_name(detector):
    """The name of the map that stands for the first score: its own, else the first that there is."""
    first = detector.score_names[0]
    return first if detector.map_names is None or first in detector.map_names else detector.map_names[0]


def measure(
    detector, arrays, evidence, normal_evidence, names, intervals=False, draws=None, samples=1000, normal_regions=None
):
    """Metrics of each named score by each protocol.

    Args:
        detector: calibrated `Detector`.
        arrays: `CategoryArrays`.
        evidence: of each test image.
        normal_evidence: of the held-out normal images, for the clean protocol's thresholds.
        names: scores to measure, of `detector.score_names`.
        intervals: everything there is: also the slower metrics, and the first score's intervals by a bootstrap over
            test images.
        draws: `(normals, anomalies, times)`: the first score's metrics are means over so many random draws of test
            images, those of all images are stored as "<score>, all"; None: all images.
        samples: of a bootstrap.
        normal_regions: bool `[H, W]` or None of each held-out normal image, where there are any.

    Returns:
        `({protocol: {score: {metric: value, "<metric>_low": ..., "<metric>_high": ...}}}, {score: image scores [N]},
        {score: Threshold of an image})`. Undefined metrics are None, with the reason under "undefined". F1 and
        accuracies are taken at the best threshold in the paper protocol alone, accuracy at the held-out one in the
        clean alone. With `intervals` come AUPRO, AUPIMO and `by_defect` along. Where test
        images have a region of interest and the score has a map, metrics inside and outside of it come along.
    """
    kept = {"paper": np.arange(len(arrays.test)), "clean": _without_repeats(arrays)}
    found, image_scores, cuts = {protocol: {} for protocol in kept}, {}, {}
    for name in names:
        mapped, first = detector.map_names is None or name in detector.map_names, name == names[0]
        maps = [detector.map_from(e, name) for e in evidence] if mapped else None
        scores = image_scores[name] = np.array([detector.score_from(e, name) for e in evidence])
        cuts[name] = thresholds.normal_quantile([detector.score_from(e, name) for e in normal_evidence])
        cut, resampled = cuts[name].value, samples * (intervals and first)
        for protocol, indices in kept.items():
            if protocol == "clean" and len(indices) == len(arrays.test):
                found[protocol][name] = dict(found["paper"][name])
            else:
                found[protocol][name] = _of_images(arrays, indices, scores, maps, cut, intervals, resampled)
        _add_best(found, name, arrays.labels, scores, kept, cut)
        if intervals and first:
            for protocol, indices in kept.items():
                if protocol == "clean" and len(indices) == len(arrays.test):
                    found[protocol][name] |= _shared_intervals(found["paper"][name], found[protocol][name])
                _add_intervals(found[protocol][name], arrays.labels[indices], scores[indices], cut, samples)
        if intervals and mapped and _has_masks(arrays):
            value, _ = metrics.pixel_f1_max(arrays.masks, maps)
            found["paper"][name]["pixel_f1_max"] = None if np.isnan(value) else value
        if mapped and arrays.rois:
            _add_inside(found, name, detector, arrays, maps, kept, evidence, normal_evidence, normal_regions)
        if draws and first:
            for protocol, indices in kept.items():
                whole = found[protocol][name]
                chosen = cut if protocol == "clean" else None
                found[protocol][name] = _drawn(whole, arrays.labels[indices], scores[indices], draws, chosen)
                found[protocol][f"{name}{ALL}"] = whole
    return found, image_scores, cuts


def _has_masks(arrays):
    return all(mask is not None for mask in arrays.masks)


def _of_images(arrays, indices, scores, maps, cut, everything, samples):
    """Metrics of one score on the test images of these indices; with `everything` the slower ones and each defect's."""
    some = [maps[i] for i in indices] if maps is not None else None
    masks = [arrays.masks[i] for i in indices] if _has_masks(arrays) else None
    labels, scores = arrays.labels[indices], scores[indices]
    found = _metrics(labels, scores, masks, some, samples)
    if everything:
        found |= _localisation(labels, masks, some) if some is not None else {}
        found["by_defect"] = by_defect(labels, scores, [arrays.defects[i] for i in indices], masks, some, cut)
    return found


def _add_inside(found, name, detector, arrays, maps, kept, evidence, normal_evidence, normal_regions):
    """Metrics inside and outside of the regions of interest, thresholds from the held-out normals' own regions."""
    cut = normal_threshold(detector, normal_evidence, name).value
    inside = _inside(detector, evidence, arrays.rois, name)
    known = _inside(detector, normal_evidence, normal_regions, name) if normal_regions else []
    known = known[np.isfinite(known)] if len(known) else known  # not of empty regions
    of_image = thresholds.normal_quantile(known).value if len(known) else None
    if not detector.scores_inside(name):  # then "inside" is another statistic than the score
        inside = None
    for protocol, indices in kept.items():
        image_cut = of_image if protocol == "clean" else None
        _add_regions(found[protocol][name], arrays, inside, maps, indices, cut, image_cut)
    for best in BEST_INSIDE:
        found["clean"][name].pop(best, None)


def _drawn(whole, labels, scores, draws, cut):
    """Means of the image metrics over random draws of test images, with the range of the middle 95 % of the draws.

    Those that `whole` has, undefined ones as None; `cut` is the threshold of the clean protocol's balanced accuracy.
    """
    *wanted, times = draws
    normals, anomalies = (min(count, int(np.sum(labels == kind))) for kind, count in enumerate(wanted))
    if normals + anomalies == len(labels):
        return dict(whole)
    out = {"images": normals + anomalies, "undefined": whole["undefined"]}
    out["interval"] = f"mean and middle 95 % of {times} draws of {normals} + {anomalies} test images"
    for name, metric in image_metrics(cut).items():
        if whole.get(name) is None:
            out |= {name: None} if name in whole else {}
            continue
        values = statistics.subset_draws(labels, scores, metric, normals, anomalies, times)
        out[name] = float(np.mean(values))
        out[f"{name}_low"], out[f"{name}_high"] = map(float, np.percentile(values, (2.5, 97.5)))
    return out


def _inside(detector, evidence, regions, name):
    """The scores of images inside their regions, where they have one."""
    pairs = zip(evidence, regions, strict=True)
    return np.array(
        [detector.score_from(e, name) if r is None else detector.score_inside(e, r, name) for e, r in pairs]
    )


def _add_regions(found, arrays, inside, maps, indices, cut, image_cut):
    """Adds the metrics inside and outside the regions of interest; undefined ones as None, with their reasons."""
    defined = inside is not None
    inside = inside if defined else np.zeros(len(arrays.test))
    inside = np.where(np.isfinite(inside), inside, np.nan)  # of an empty region
    parts = [[values[i] for i in indices] for values in (arrays.masks, maps, arrays.rois)]
    values = regions.region_metrics(arrays.labels[indices], inside[indices], *parts, cut, image_cut)
    for name in () if defined else [n for n in values if n.startswith("image_")]:
        values[name] = np.nan
        values["undefined"][name] = "the score is no maximum of a map"
    found["undefined"] = found["undefined"] | values.pop("undefined")
    found |= {name: None if np.isnan(value) else value for name, value in values.items()}


def _add_intervals(found, labels, scores, cut, samples):
    """Bootstraps over test images of those metrics of images that are defined and have no interval yet."""
    wanted = [n for n in image_metrics(cut) if found.get(n) is not None and f"{n}_low" not in found]
    if wanted:
        ends = statistics.bootstrap_image_metrics(labels, scores, cut, samples)
        for name in wanted:
            found[f"{name}_low"], found[f"{name}_high"] = ends[name]


def _shared_intervals(known, found):
    """The intervals of `known` of the metrics that `found` has too, of the same images."""
    ends = [f"{metric}_{end}" for metric in DRAWN_METRICS if metric in found for end in ("low", "high")]
    return {name: known[name] for name in ends if name in known}


def image_metrics(cut):
    """`{metric: function of labels and scores}` of images; balanced accuracy at the threshold `cut`, others at none."""
    return {**DRAWN_METRICS, "image_balanced_accuracy": lambda y, s: metrics.balanced_accuracy(y, s, cut)}


def _localisation(labels, masks, maps):
    """AUPRO and AUPIMO; None where undefined. An anomalous image without a marked pixel is not a normal one."""
    if masks is None:
        return {"pixel_aupro_0.30": None, "pixel_aupimo": None}
    sure = [i for i, mask in enumerate(masks) if labels[i] == 0 or np.any(mask)]
    values = {
        "pixel_aupro_0.30": metrics.pixel_aupro(masks, maps),
        "pixel_aupimo": metrics.pixel_aupimo([masks[i] for i in sure], [maps[i] for i in sure]),
    }
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def by_defect(labels, scores, defects, masks, maps, cut):
    """Each defect type against all normal images.

    Args:
        labels, scores, defects: `[N]`, of the test images.
        masks, maps: lists of `[H, W]`, or None.
        cut: threshold of an image, from held-out normals.

    Returns:
        `{defect: {"images", "called" (at or above the threshold), "image_auroc", "image_ap", "pixel_auroc",
        "pixel_aupr"}}`, "good" with the counts alone; what is undefined is left out.
    """
    kinds, out = np.array(defects), {}
    for kind in sorted(set(defects), key=lambda kind: (kind != "good", kind)):
        rows = np.flatnonzero(kinds == kind)
        out[kind] = {"images": len(rows), "called": int(np.sum(scores[rows] >= cut))}
        some = np.flatnonzero((labels == 0) | (kinds == kind))
        if kind == "good" or metrics.why_undefined(labels[some]):
            continue
        out[kind]["image_auroc"] = metrics.image_auroc(labels[some], scores[some])
        out[kind]["image_ap"] = metrics.image_ap(labels[some], scores[some])
        pixels = masks is not None and maps is not None
        if pixels and not metrics.why_undefined([masks[i] for i in some], unit="pixel"):
            found = metrics.pixel_auroc_aupr([masks[i] for i in some], [maps[i] for i in some])
            out[kind]["pixel_auroc"], out[kind]["pixel_aupr"] = found
    return out


def _add_best(found, name, labels, scores, kept, cut):
    """What takes a threshold: the best one on the test images in the paper protocol, the held-out one in the clean."""
    paper, clean = found["paper"][name], found["clean"][name]
    value, best = metrics.balanced_accuracy_oracle(labels[kept["paper"]], scores[kept["paper"]])
    defined = not np.isnan(value)
    paper["image_balanced_accuracy_oracle"], paper["oracle_threshold"] = (value, best) if defined else (None, None)
    accuracy, _ = metrics.accuracy_oracle(labels[kept["paper"]], scores[kept["paper"]])
    paper["image_accuracy_oracle"] = None if np.isnan(accuracy) else accuracy
    value, _ = metrics.f1_max(labels[kept["paper"]], scores[kept["paper"]])
    paper["image_f1_max"] = None if np.isnan(value) else value
    value = metrics.balanced_accuracy(labels[kept["clean"]], scores[kept["clean"]], cut)
    clean["image_balanced_accuracy"] = None if np.isnan(value) else value


def normal_threshold(detector, normals_evidence, name):
    """Threshold of a pixel: the 95th percentile of the held-out normals' pixels, with its uncertainty."""
    maps = [detector.map_from(e, name) for e in normals_evidence]
    return thresholds.normal_quantile(np.concatenate([m.ravel() for m in maps]))


def _metrics(labels, scores, masks, maps, samples):
    """Areas, the intervals of AUROC and AUPR by so many draws of a bootstrap, none where it is 0."""
    out = {"images": len(labels), "undefined": {}}
    reason = metrics.why_undefined(labels)
    out["image_auroc"] = None if reason else metrics.image_auroc(labels, scores)
    out["image_ap"] = None if reason else metrics.image_ap(labels, scores)
    if reason:
        out["undefined"]["image"] = reason
    elif samples:
        out["image_auroc_low"], out["image_auroc_high"] = statistics.bootstrap_image_auroc(labels, scores, samples)
    if maps is None:
        return out
    reason = "no masks" if masks is None else metrics.why_undefined(masks, unit="pixel")
    if reason:
        out["undefined"]["pixel"] = reason
        return out | {"pixel_auroc": None, "pixel_aupr": None}
    out["pixel_auroc"], out["pixel_aupr"] = metrics.pixel_auroc_aupr(masks, maps)
    if samples:
        for name, (low, high) in statistics.bootstrap_pixel_metrics(masks, maps, samples).items():
            out[f"{name}_low"], out[f"{name}_high"] = low, high
    return out


def _without_repeats(arrays):
    """Indices of the test images that are not byte-identical to a training image."""
    repeated = set(arrays.duplicates)
    return np.array([i for i, name in enumerate(arrays.test_names) if name not in repeated], int)
