"""Exact rank metrics of anomaly detection, per image and per pixel.

Ties are treated as scikit-learn treats them: half a win each in AUROC, one common threshold in average precision.
Where only one class is present a metric is NaN, and `why_undefined` says why.

Peak memory of the pixel metrics, beyond the arguments: 4 bytes a pixel (8 when some float64 score is not a float32),
plus about 10 bytes per anomalous pixel and 20 per pixel of the largest image. Where a function takes `memory`, it never
holds more than that many bytes of keys.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ganspect.evaluation import ranks


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


def _all_steps(labels, scores) -> tuple[ranks.Survey, ranks.Steps | None]:
    """Counts at every distinct anomalous score, ascending; None when one class is missing."""
    labels, scores = ranks.as_images(labels, scores)
    found = ranks.survey(labels, scores)
    if not found.normal or not found.anomalous:
        return found, None
    ((normal, anomalous),) = ranks.sorted_classes(labels, scores, found, math.inf)
    parts = list(ranks.steps(normal, anomalous))
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in ranks.Steps.__annotations__]
    return found, ranks.Steps(*columns)


def _best(values: np.ndarray, keys: np.ndarray) -> tuple[float, float]:
    """The largest value and its threshold, the highest one among equals."""
    index = len(values) - 1 - int(np.argmax(values[::-1]))
    return float(values[index]), float(ranks.key_scores(keys[index : index + 1])[0])


def f1_max(labels, scores) -> tuple[float, float]:
    """Best F1 = 2 TP / (2 TP + FP + FN) over all thresholds, chosen with the labels.

    Args:
        labels: 0/1 `[N]`, or masks as in `pixel_auroc`.
        scores: `[N]`, or maps of the same shapes.

    Returns:
        `(value, threshold)`: score >= threshold is anomalous; both NaN when one class is missing.
    """
    found, step = _all_steps(labels, scores)
    if step is None:
        return math.nan, math.nan
    values = 2 * step.true_positives / (step.true_positives + step.false_positives + found.anomalous)
    return _best(values, step.keys)


def balanced_accuracy_oracle(labels, scores) -> tuple[float, float]:
    """Best (TPR + TNR) / 2 over all thresholds, chosen with the labels. Args and result as `f1_max`."""
    found, step = _all_steps(labels, scores)
    if step is None:
        return math.nan, math.nan
    values = (step.true_positives / found.anomalous + 1 - step.false_positives / found.normal) / 2
    return _best(values, step.keys)


def accuracy_oracle(labels, scores) -> tuple[float, float]:
    """Best accuracy over all thresholds, chosen with the labels. Args and result as `f1_max`.

    The threshold is infinite where calling everything normal is best.
    """
    found, step = _all_steps(labels, scores)
    if step is None:
        return math.nan, math.nan
    correct = step.true_positives + found.normal - step.false_positives
    total = found.normal + found.anomalous
    if found.normal > correct.max():
        return found.normal / total, math.inf
    return _best(correct / total, step.keys)


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


def pixel_f1_max(masks: Sequence, maps: Sequence) -> tuple[float, float]:
    """Best pixel F1 and its threshold, over all pixels pooled. Args as `pixel_auroc`, result as `f1_max`."""
    return f1_max(masks, maps)


def pixel_aupro(masks: Sequence, maps: Sequence, limit: float = 0.30) -> float:
    """Area under the per-region overlap curve up to a false positive rate, divided by that rate.

    The overlap of each defect (8-connected component of a mask) is averaged over all defects of all images; the rate
    is over all normal pixels, defect-free images included (Bergmann et al., MVTec AD, IJCV 2021). Exact: a pixel of a
    defect of s pixels among K raises the curve by 1 / (s K) where its score is passed, linearly across ties.

    Args:
        masks: as in `pixel_auroc`, two-dimensional.
        maps: as in `pixel_auroc`.
        limit: in (0, 1].

    Returns:
        In [0, 1]; NaN when one class is missing.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit must lie in (0, 1], not {limit}")
    found = ranks.survey(masks, maps)
    if not found.normal or not found.anomalous:
        return math.nan
    ((normal, _),) = ranks.sorted_classes(masks, maps, found, math.inf)
    regions, gained = 0, []
    for mask, values in zip(masks, maps, strict=True):
        components, count = ndimage.label(np.asarray(mask) != 0, np.ones((3, 3)))
        if not count:
            continue
        regions += count
        inside = components > 0
        weight = 1 / np.bincount(components.ravel())[components[inside]]
        keys = ranks.order_keys(ranks.as_scores(values)[inside], found.wide)
        start = 1 - np.searchsorted(normal, keys, "right") / found.normal
        end = 1 - np.searchsorted(normal, keys, "left") / found.normal
        gained.append(float(np.sum(weight * _mean_shortfall(limit, start, end))))
    return math.fsum(gained) / (regions * limit)


def _mean_shortfall(limit: float, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Mean of max(0, limit - f) for f uniform on [start, end]."""
    reached = np.clip(limit, start, end)
    width = np.where(end > start, end - start, 1)
    ramp = (reached - start) / width * (limit - (start + reached) / 2)
    return np.where(end > start, ramp, np.maximum(limit - start, 0))


def roc_curve(labels, scores, points: int = 512) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of the ROC curve, thinned for plotting, each one exact.

    Args:
        labels: as in `f1_max`.
        scores: as in `f1_max`.
        points: at most about this many, evenly spread in both rates.

    Returns:
        `(false_positive_rate, true_positive_rate, thresholds)`, float64, thresholds falling from infinity.

    Raises:
        ValueError: when one class is missing.
    """
    found, thresholds, caught, wrong = _thinned(labels, scores, points)
    return wrong / found.normal, caught / found.anomalous, thresholds


def precision_recall_curve(labels, scores, points: int = 512) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of the precision-recall curve, thinned for plotting, each one exact. Args and errors as `roc_curve`.

    Returns:
        `(precision, recall, thresholds)`, float64, thresholds falling from infinity (where precision is 1).
    """
    found, thresholds, caught, wrong = _thinned(labels, scores, points)
    precision = np.ones(len(caught))
    np.divide(caught, caught + wrong, out=precision, where=caught + wrong > 0)
    return precision, caught / found.anomalous, thresholds


def _thinned(labels, scores, points) -> tuple[ranks.Survey, np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds at even ranks of each class, falling, with the exact counts at or above them."""
    labels, scores = ranks.as_images(labels, scores)
    found = ranks.survey(labels, scores)
    if not found.normal or not found.anomalous:
        raise ValueError("a curve needs both classes")
    ((normal, anomalous),) = ranks.sorted_classes(labels, scores, found, math.inf)
    even = [
        np.linspace(0, len(keys) - 1, min(len(keys), max(points // 2, 2))).astype(np.int64)
        for keys in (normal, anomalous)
    ]
    chosen = np.unique(np.concatenate([normal[even[0]], anomalous[even[1]]]))[::-1]
    caught, wrong = (np.append(0, len(keys) - np.searchsorted(keys, chosen)) for keys in (anomalous, normal))
    return found, np.append(np.inf, ranks.key_scores(chosen)), caught, wrong
