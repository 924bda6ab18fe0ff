"""Exact rank metrics of anomaly detection, per image and per pixel.

Ties are treated as scikit-learn treats them: half a win each in AUROC, one common threshold in average precision.
Where only one class is present a metric is NaN, and `why_undefined` says why.

Peak memory of the pixel metrics, beyond the arguments: 4 bytes a pixel (8 when some float64 score is not a float32),
plus about 10 bytes per anomalous pixel and 20 per pixel of the largest image. Beyond `memory` bytes of keys (2 GiB by
default) they are sorted in chunks on disk, in the system's folder for temporary files, with the same result to the bit
and never more than `memory` held; with memory-mapped maps, that is all.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from ganspect.evaluation import ranks
from ganspect.evaluation.pimo import per_image_aupimo, pixel_aupimo

__all__ = [
    "accuracy_oracle",
    "balanced_accuracy",
    "balanced_accuracy_oracle",
    "f1_max",
    "image_ap",
    "image_auroc",
    "per_image_aupimo",
    "pixel_aupimo",
    "pixel_aupr",
    "pixel_aupro",
    "pixel_auroc",
    "pixel_auroc_aupr",
    "pixel_f1_max",
    "precision_recall_curve",
    "roc_curve",
    "why_undefined",
]


def why_undefined(labels, unit: str = "image") -> str | None:
    """Why rank metrics of these labels are NaN, or None when they are defined.

    Args:
        labels: 0/1 or bool, `[N]`, or a sequence of masks.
        unit: what one label belongs to, `image` or `pixel`.
    """
    arrays = labels if len(labels) and np.ndim(next(iter(labels))) else [labels]
    total = sum(np.size(array) for array in arrays)
    anomalous = sum(int(np.count_nonzero(array)) for array in arrays)
    if total == 0:
        return f"no {unit}s"
    if anomalous == 0:
        return f"only normal {unit}s: no anomalous one"
    if anomalous == total:
        return f"only anomalous {unit}s: no normal one"
    return None


def image_auroc(labels, scores) -> float:
    """Area under the ROC curve: the chance that an anomalous image scores above a normal one (Mann-Whitney).

    Args:
        labels: bool or 0/1 `[N]`, 1 = anomalous.
        scores: real `[N]`, higher = more anomalous.

    Returns:
        In [0, 1]; ties count half; NaN when one class is missing.

    Raises:
        ValueError: for labels other than 0 and 1, unequal lengths, or scores that are not finite.
    """
    return _auroc_ap(*ranks.as_images(labels, scores))[0]


def image_ap(labels, scores) -> float:
    """Average precision, sum over thresholds of (R_n - R_(n-1)) P_n, as scikit-learn's `average_precision_score`.

    Args and errors as `image_auroc`; constant scores give the share of anomalous images.
    """
    return _auroc_ap(*ranks.as_images(labels, scores))[1]


def pixel_auroc(masks: Sequence, maps: Sequence, memory: float = ranks.DEFAULT_MEMORY) -> float:
    """Area under the ROC curve over all pixels of all images, pooled.

    Args:
        masks: `[N, H, W]` or a sequence of `[H, W]` of any sizes; nonzero = anomalous. Flat selections of pixels (a
            region of interest) are as welcome.
        maps: anomaly maps of the same shapes, higher = more anomalous.
        memory: bytes of sort keys held at a time; beyond it the maps are read several times.

    Returns:
        In [0, 1]; NaN when one class is missing.

    Raises:
        ValueError: on unequal shapes, or scores that are not finite, naming how many and in which images.
    """
    return _auroc_ap(masks, maps, memory)[0]


def pixel_aupr(masks: Sequence, maps: Sequence, memory: float = ranks.DEFAULT_MEMORY) -> float:
    """Average precision over all pixels of all images, pooled. Args and errors as `pixel_auroc`."""
    return _auroc_ap(masks, maps, memory)[1]


def pixel_auroc_aupr(masks: Sequence, maps: Sequence, memory: float = ranks.DEFAULT_MEMORY) -> tuple[float, float]:
    """`(pixel_auroc, pixel_aupr)` from one sort. Args and errors as `pixel_auroc`."""
    return _auroc_ap(masks, maps, memory)


def _auroc_ap(masks, maps, memory=ranks.DEFAULT_MEMORY) -> tuple[float, float]:
    found = ranks.survey(masks, maps)
    if not found.normal or not found.anomalous:
        return math.nan, math.nan
    twice_wins, precisions, true_above, false_above = 0, [], 0, 0
    for normal, anomalous in ranks.sorted_classes(masks, maps, found, memory):
        for step in ranks.steps(normal, anomalous):
            caught, wrong = true_above + step.true_positives, false_above + step.false_positives
            # normal scores below v count twice, equal ones once
            losses = wrong + (false_above + step.false_above)
            twice_wins += int(np.sum(step.ties * (2 * found.normal - losses)))
            precisions.append(float(np.sum(step.ties * (caught / (caught + wrong)))))
        true_above += len(anomalous)
        false_above += len(normal)
    auroc = twice_wins / (2 * found.normal * found.anomalous)
    return auroc, math.fsum(precisions) / found.anomalous


def _best(labels, scores, memory, value_of: Callable) -> tuple[ranks.Survey, float, float]:
    """The largest `value_of(true positives, false positives, found)` over the anomalous scores as thresholds.

    Returns:
        `(found, value, threshold)`, of equal values the one with the highest threshold; NaN when one class is missing.
    """
    labels, scores = ranks.as_images(labels, scores)
    found = ranks.survey(labels, scores)
    value, threshold, true_above, false_above = math.nan, math.nan, 0, 0
    if not found.normal or not found.anomalous:
        return found, value, threshold
    for normal, anomalous in ranks.sorted_classes(labels, scores, found, memory):
        best, place = -math.inf, None
        for step in ranks.steps(normal, anomalous):
            values = value_of(true_above + step.true_positives, false_above + step.false_positives, found)
            index = len(values) - 1 - int(np.argmax(values[::-1]))
            if values[index] >= best:
                best, place = float(values[index]), step.keys[index : index + 1]
        if place is not None and not best <= value:  # NaN at first
            value, threshold = best, float(ranks.key_scores(place)[0])
        true_above += len(anomalous)
        false_above += len(normal)
    return found, value, threshold


def f1_max(labels, scores, memory: float = ranks.DEFAULT_MEMORY) -> tuple[float, float]:
    """Best F1 = 2 TP / (2 TP + FP + FN) over all thresholds, chosen with the labels.

    Args:
        labels: 0/1 `[N]`, or masks as in `pixel_auroc`.
        scores: `[N]`, or maps of the same shapes.
        memory: as in `pixel_auroc`.

    Returns:
        `(value, threshold)`: score >= threshold is anomalous; both NaN when one class is missing.
    """
    return _best(labels, scores, memory, lambda tp, fp, found: 2 * tp / (tp + fp + found.anomalous))[1:]


def balanced_accuracy_oracle(labels, scores, memory: float = ranks.DEFAULT_MEMORY) -> tuple[float, float]:
    """Best (TPR + TNR) / 2 over all thresholds, chosen with the labels. Args and result as `f1_max`."""
    return _best(labels, scores, memory, lambda tp, fp, found: (tp / found.anomalous + 1 - fp / found.normal) / 2)[1:]


def accuracy_oracle(labels, scores, memory: float = ranks.DEFAULT_MEMORY) -> tuple[float, float]:
    """Best accuracy over all thresholds, chosen with the labels. Args and result as `f1_max`.

    The threshold is infinite where calling everything normal is best.
    """
    found, value, threshold = _best(
        labels, scores, memory, lambda tp, fp, found: (tp + found.normal - fp) / (found.normal + found.anomalous)
    )
    nothing_called = found.normal / max(1, found.normal + found.anomalous)
    return (nothing_called, math.inf) if nothing_called > value else (value, threshold)


def balanced_accuracy(labels, scores, threshold: float) -> float:
    """(TPR + TNR) / 2 at a given threshold; score >= threshold is anomalous.

    Args:
        labels: bool or 0/1 `[N]`.
        scores: real `[N]`.
        threshold: infinite is allowed, NaN is not.

    Returns:
        In [0, 1]; NaN when one class is missing.
    """
    if math.isnan(threshold):
        raise ValueError("the threshold is NaN")
    (labels,), (scores,) = ranks.as_images(labels, scores)
    found = ranks.survey([labels], [scores])
    if not found.normal or not found.anomalous:
        return math.nan
    called = ranks.as_scores(scores).astype(np.float64) >= threshold  # float32 would round the threshold
    anomalous = labels != 0
    return float((np.mean(called[anomalous]) + np.mean(~called[~anomalous])) / 2)


def pixel_f1_max(masks: Sequence, maps: Sequence, memory: float = ranks.DEFAULT_MEMORY) -> tuple[float, float]:
    """Best pixel F1 and its threshold, over all pixels pooled. Args as `pixel_auroc`, result as `f1_max`."""
    return f1_max(masks, maps, memory)


def pixel_aupro(masks: Sequence, maps: Sequence, limit: float = 0.30, memory: float = ranks.DEFAULT_MEMORY) -> float:
    """Area under the per-region overlap curve up to a false positive rate, divided by that rate.

    The overlap of each defect (8-connected component of a mask) is averaged over all defects of all images; the rate
    is over all normal pixels, defect-free images included (Bergmann et al., MVTec AD, IJCV 2021). Exact: a pixel of a
    defect of s pixels among K raises the curve by 1 / (s K) where its score is passed, linearly across ties.

    Args:
        masks: as in `pixel_auroc`, two-dimensional.
        maps: as in `pixel_auroc`.
        limit: in (0, 1].
        memory: as in `pixel_auroc`; besides, 20 bytes for each anomalous pixel.

    Returns:
        In [0, 1]; NaN when one class is missing.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit must lie in (0, 1], not {limit}")
    found = ranks.survey(masks, maps)
    if not found.normal or not found.anomalous:
        return math.nan
    keys, weights, regions = _region_pixels(masks, maps, found.wide)
    gained, above, end = [], 0, len(keys)
    for normal, anomalous in ranks.sorted_classes(masks, maps, found, memory):
        part = slice(end - len(anomalous), end)
        passed = [len(normal) - np.searchsorted(normal, keys[part], side) for side in ("right", "left")]
        rates = [(above + count) / found.normal for count in passed]
        gained.append(float(np.sum(weights[part] * _mean_shortfall(limit, *rates))))
        above, end = above + len(normal), part.start
    return math.fsum(gained) / (regions * limit)


def _region_pixels(masks, maps, wide) -> tuple[np.ndarray, np.ndarray, int]:
    """Keys of the defects' pixels, ascending, the share that each has of its defect, and the number of defects."""
    keys, weights, regions = [], [], 0
    for mask, values in zip(masks, maps, strict=True):
        components, count = ndimage.label(np.asarray(mask) != 0, np.ones((3, 3)))
        if count:
            inside = components > 0
            weights.append(1 / np.bincount(components.ravel())[components[inside]])
            keys.append(ranks.order_keys(ranks.as_scores(values)[inside], wide))
            regions += count
    keys, weights = np.concatenate(keys), np.concatenate(weights)
    order = np.argsort(keys)
    return keys[order], weights[order], regions


def _mean_shortfall(limit: float, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Mean of max(0, limit - f) for f uniform on [start, end]."""
    reached = np.clip(limit, start, end)
    width = np.where(end > start, end - start, 1)
    ramp = (reached - start) / width * (limit - (start + reached) / 2)
    return np.where(end > start, ramp, np.maximum(limit - start, 0))


def roc_curve(
    labels, scores, points: int = 512, memory: float = ranks.DEFAULT_MEMORY
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of the ROC curve, thinned for plotting, each one exact.

    Args:
        labels: as in `f1_max`.
        scores: as in `f1_max`.
        points: at most about this many, evenly spread in both rates.
        memory: as in `pixel_auroc`.

    Returns:
        `(false_positive_rate, true_positive_rate, thresholds)`, float64, thresholds falling from infinity.

    Raises:
        ValueError: when one class is missing.
    """
    found, thresholds, caught, wrong = _thinned(labels, scores, points, memory)
    return wrong / found.normal, caught / found.anomalous, thresholds


def precision_recall_curve(
    labels, scores, points: int = 512, memory: float = ranks.DEFAULT_MEMORY
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of the precision-recall curve, thinned for plotting, each one exact. Args and errors as `roc_curve`.

    Returns:
        `(precision, recall, thresholds)`, float64, thresholds falling from infinity (where precision is 1).
    """
    found, thresholds, caught, wrong = _thinned(labels, scores, points, memory)
    precision = np.ones(len(caught))
    np.divide(caught, caught + wrong, out=precision, where=caught + wrong > 0)
    return precision, caught / found.anomalous, thresholds


def _thinned(labels, scores, points, memory) -> tuple[ranks.Survey, np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds at even ranks of each class, falling, with the exact counts at or above them."""
    labels, scores = ranks.as_images(labels, scores)
    found = ranks.survey(labels, scores)
    if not found.normal or not found.anomalous:
        raise ValueError("a curve needs both classes")
    totals = (found.normal, found.anomalous)
    even = [np.linspace(0, n - 1, min(n, max(points // 2, 2))).astype(np.int64) for n in totals]
    above, thresholds, counts = [0, 0], [np.array([np.inf])], [[np.array([0])], [np.array([0])]]
    for classes in ranks.sorted_classes(labels, scores, found, memory):
        chosen = []
        for keys, total, passed, places in zip(classes, totals, above, even, strict=True):
            places = places - (total - passed - len(keys))  # ascending ranks in this block
            chosen.append(keys[places[(places >= 0) & (places < len(keys))]])
        chosen = np.unique(np.concatenate(chosen))[::-1]
        thresholds.append(ranks.key_scores(chosen))
        for which, keys in enumerate(classes):
            counts[which].append(above[which] + len(keys) - np.searchsorted(keys, chosen))
            above[which] += len(keys)
    wrong, caught = map(np.concatenate, counts)
    return found, np.concatenate(thresholds), caught, wrong
