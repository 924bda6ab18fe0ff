"""AUPIMO: how much of each anomalous image is found while next to nothing is marked on normal ones.

J. P. C. Bertoldo, D. Ameln, A. Vaidya, S. Akcay, *AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High
Speed and Low Tolerance*, BMVC 2024. The false positive rate is that of normal images alone, averaged over them; the
recall is that of one anomalous image; the area lies under the recall over the logarithm of the rate between 1e-5 and
1e-4, divided by the width.
"""

import math
from collections.abc import Sequence

import numpy as np

from ganspect.evaluation import ranks

LOW, HIGH = 1e-5, 1e-4  # of the false positive rate, as in the paper


def why_undefined(masks: Sequence) -> str | None:
    """Why AUPIMO of these masks is NaN, or None when it is defined. Args as `per_image_aupimo`."""
    anomalous = [bool(np.any(mask)) for mask in masks]
    if all(anomalous):
        return "no image without anomalous pixels" if anomalous else "no images"
    return None if any(anomalous) else "no image with anomalous pixels"


def per_image_aupimo(masks: Sequence, maps: Sequence, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """AUPIMO of each anomalous image.

    Exact, over all thresholds: a pixel of a defect counts from the false positive rate on that marking it costs, its
    own score's ties included (the paper and its code sample thresholds). Where the normal images have fewer than
    1 / high pixels altogether, it is the recall without a single false positive.

    Memory: beyond the arguments, one image and about twice the `high` share of the normal images' pixels, 500 times
    less than other metrics hold at the default: there is no limit to set.

    Args:
        masks: `[H, W]` each, nonzero = anomalous; an image without such pixels is normal.
        maps: anomaly maps of the same shapes, higher = more anomalous.
        low, high: 0 < low < high <= 1.

    Returns:
        float64 `[N]` in [0, 1]; NaN for normal images, and for all where there is no normal image (`why_undefined`).

    Raises:
        ValueError: on unequal shapes, scores that are not finite, or wrong bounds.
    """
    if not 0 < low < high <= 1:
        raise ValueError(f"the bounds must be 0 < low < high <= 1, not {low} and {high}")
    found = ranks.survey(masks, maps)
    anomalous = np.array([bool(np.any(mask)) for mask in masks], bool)
    out = np.full(len(masks), math.nan)
    normal = np.flatnonzero(~anomalous)
    if not len(normal):
        return out
    keys, rates = _false_positive_rates([maps[i] for i in normal], high, found.wide)
    for i in np.flatnonzero(anomalous):
        marked = ranks.order_keys(ranks.as_scores(maps[i]), found.wide)[np.asarray(masks[i]) != 0]
        rate = rates[len(keys) - np.searchsorted(keys, marked, "left")]  # of marking this pixel
        out[i] = np.mean(np.clip(np.log(high / np.maximum(rate, low)) / math.log(high / low), 0, 1))
    return out


def pixel_aupimo(masks: Sequence, maps: Sequence, low: float = LOW, high: float = HIGH) -> float:
    """The mean of `per_image_aupimo` over the anomalous images; NaN where either kind of image is missing."""
    values = per_image_aupimo(masks, maps, low, high)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _false_positive_rates(maps: Sequence, high: float, wide: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ascending keys of the highest pixels of normal images, and the rate at which the highest 0, 1, 2, ... are passed.

    No pixel below those that together exceed `high` is marked at that rate: they are dropped as images come in.
    """
    keys, weights, kept = np.empty(0, np.uint64 if wide else np.uint32), np.empty(0), 0
    for values in maps:
        flat = ranks.order_keys(ranks.as_scores(values), wide).ravel()
        count = min(len(flat), math.floor(high * len(maps) * len(flat)) + 1)
        keys = np.append(keys, np.partition(flat, len(flat) - count)[len(flat) - count :])
        weights = np.append(weights, np.full(count, 1 / (len(maps) * len(flat))))
        if len(keys) > 2 * kept:
            keys, weights = _highest(keys, weights, high)
            kept = len(keys)
    keys, weights = _highest(keys, weights, high)
    return keys, np.append(0, np.cumsum(weights[::-1]))


def _highest(keys: np.ndarray, weights: np.ndarray, high: float) -> tuple[np.ndarray, np.ndarray]:
    """The highest keys, ascending, that together weigh more than `high`, or all."""
    order = np.argsort(keys)[::-1]
    count = np.searchsorted(np.cumsum(weights[order]), high, "right") + 1
    return keys[order[:count]][::-1], weights[order[:count]][::-1]
