"""Exact rank metrics of anomaly detection, per image and per pixel.

Ties are treated as scikit-learn treats them: half a win each in AUROC, one common threshold in average precision.
Where only one class is present a metric is NaN, and `why_undefined` says why.

Memory. Pixel metrics take `memory`, the bytes of sort keys that they hold at a time: 4 a pixel, 8 when some
float64 score is not a float32. Where all pixels' keys fit, they are sorted in memory; beyond it, in pieces on disk (see
`sorting`), with the same result to the last bit. Besides the keys and the arguments, about 15 MB are in use, plus for
`pixel_aupro` about 16 bytes per pixel of the largest image; a map that is not contiguous or not an array of numbers is
copied while it is read. Maps are read one by one, twice: any sequence that loads them when asked will do. AUPIMO needs
so few keys that it takes no limit (see `pimo`).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from ganspect.evaluation import ranks
from ganspect.evaluation.aupro import pixel_aupro
from ganspect.evaluation.pimo import per_image_aupimo, pixel_aupimo
from ganspect.evaluation.ranks import ANOMALOUS, DEFAULT_MEMORY, NORMAL

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


def pixel_auroc(masks: Sequence, maps: Sequence, memory: float = DEFAULT_MEMORY) -> float:
    """Area under the ROC curve over all pixels of all images, pooled.

    Args:
        masks: `[N, H, W]` or a sequence of `[H, W]` of any sizes; nonzero = anomalous. Flat selections of pixels (a
            region of interest) are as welcome.
        maps: anomaly maps of the same shapes, higher = more anomalous.
        memory: bytes of sort keys held at a time; beyond it they are sorted on disk, with the same result.

    Returns:
        In [0, 1]; NaN when one class is missing.

    Raises:
        ValueError: on unequal shapes, or scores that are not finite, naming how many and in which images.
    """
    return _auroc_ap(masks, maps, memory)[0]


def pixel_aupr(masks: Sequence, maps: Sequence, memory: float = DEFAULT_MEMORY) -> float:
    """Average precision over all pixels of all images, pooled. Args and errors as `pixel_auroc`."""
    return _auroc_ap(masks, maps, memory)[1]


def pixel_auroc_aupr(masks: Sequence, maps: Sequence, memory: float = DEFAULT_MEMORY) -> tuple[float, float]:
    """`(pixel_auroc, pixel_aupr)` from one sort. Args and errors as `pixel_auroc`."""
    return _auroc_ap(masks, maps, memory)


def _auroc_ap(masks, maps, memory=DEFAULT_MEMORY) -> tuple[float, float]:
    found = ranks.survey(masks, maps)
    if not found.normal or not found.anomalous:
        return math.nan, math.nan
    twice_wins, precisions = 0, ranks.ExactSum()
    for block in ranks.sorted_classes(masks, maps, found, memory):
        for step in ranks.steps(block):
            # normal scores below v count twice, equal ones once
            losses = step.false_positives + step.false_above
            twice_wins += int(np.sum(step.ties * (2 * found.normal - losses)))
            precisions.add(step.true_positives / (step.true_positives + step.false_positives), step.ties)
    return twice_wins / (2 * found.normal * found.anomalous), precisions.total() / found.anomalous


def _best(labels, scores, memory, value_of: Callable) -> tuple[float, float, ranks.Survey]:
    """The largest value over all thresholds at anomalous scores and its threshold, the highest one among equals.

    `value_of` maps the survey and `Steps` to values `[K]`. NaN when one class is missing.
    """
    labels, scores = ranks.as_images(labels, scores)
    found = ranks.survey(labels, scores)
    best, key = -math.inf, None
    if not found.normal or not found.anomalous:
        return math.nan, math.nan, found
    for block in ranks.sorted_classes(labels, scores, found, memory):
        for step in ranks.steps(block):
            values = value_of(found, step)
            index = len(values) - 1 - int(np.argmax(values[::-1]))
            if (values[index], step.keys[index]) > (best, -1 if key is None else key):
                best, key = values[index], step.keys[index]
    return float(best), float(ranks.key_scores(np.array([key]))[0]), found


def f1_max(labels, scores, memory: float = DEFAULT_MEMORY) -> tuple[float, float]:
    """Best F1 = 2 TP / (2 TP + FP + FN) over all thresholds, chosen with the labels.

    Args:
        labels: 0/1 `[N]`, or masks as in `pixel_auroc`.
        scores: `[N]`, or maps of the same shapes.
        memory: as in `pixel_auroc`.

    Returns:
        `(value, threshold)`: score >= threshold is anomalous; both NaN when one class is missing.
    """

    def f1(found, step):
        return 2 * step.true_positives / (step.true_positives + step.false_positives + found.anomalous)

    return _best(labels, scores, memory, f1)[:2]


def balanced_accuracy_oracle(labels, scores, memory: float = DEFAULT_MEMORY) -> tuple[float, float]:
    """Best (TPR + TNR) / 2 over all thresholds, chosen with the labels. Args and result as `f1_max`."""

    def mean_rate(found, step):
        return (step.true_positives / found.anomalous + 1 - step.false_positives / found.normal) / 2

    return _best(labels, scores, memory, mean_rate)[:2]


def accuracy_oracle(labels, scores, memory: float = DEFAULT_MEMORY) -> tuple[float, float]:
    """Best accuracy over all thresholds, chosen with the labels. Args and result as `f1_max`.

    The threshold is infinite where calling everything normal is best.
    """

    def accuracy(found, step):
        return (step.true_positives + found.normal - step.false_positives) / (found.normal + found.anomalous)

    best, threshold, found = _best(labels, scores, memory, accuracy)
    all_normal = found.normal / max(found.normal + found.anomalous, 1)
    return (all_normal, math.inf) if all_normal > best else (best, threshold)


def balanced_accuracy(labels, scores, threshold: float) -> float:
    """(TPR + TNR) / 2 at a given threshold; score >= threshold is anomalous.

    Args:
        labels: bool or 0/1 `[N]`.
        scores: real `[N]`.
        threshold: infinite is allowed, NaN is not.

    Returns:
        In [0, 1]; NaN when one class is missing.

    Raises:
        ValueError: the threshold is NaN.
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


def pixel_f1_max(masks: Sequence, maps: Sequence, memory: float = DEFAULT_MEMORY) -> tuple[float, float]:
    """Best pixel F1 and its threshold, over all pixels pooled. Args as `pixel_auroc`, result as `f1_max`."""
    return f1_max(masks, maps, memory)


def roc_curve(
    labels, scores, points: int = 512, memory: float = DEFAULT_MEMORY
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
    labels, scores, points: int = 512, memory: float = DEFAULT_MEMORY
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
    even = [np.linspace(0, count - 1, min(count, max(points // 2, 2))).astype(np.int64) for count in totals]
    levels, caught, wrong = [np.array([np.inf])], [np.array([0])], [np.array([0])]
    for block in ranks.sorted_classes(labels, scores, found, memory):
        picked = [
            block.at_ranks(which, even[which], total) for which, total in enumerate((found.normal, found.anomalous))
        ]
        chosen = np.unique(np.concatenate(picked))[::-1]
        levels.append(ranks.key_scores(chosen))
        for counts, which in ((caught, ANOMALOUS), (wrong, NORMAL)):
            counts.append(block.at_and_above(which, chosen)[0])
    return found, *(np.concatenate(parts) for parts in (levels, caught, wrong))
