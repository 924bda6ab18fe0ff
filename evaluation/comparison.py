"""Two methods on the same test images: is the difference more than the choice of images?

Both tests answer for test images like these and for the two trainings at hand; they say nothing of other seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ganspect.evaluation import metrics, ranks, statistics
from ganspect.evaluation.sorting import DEFAULT_MEMORY


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods, b - a.

    Args:
        a, b: the metric of each.
        low, high: 95 % interval of the difference.
        p_value: two-sided, of no difference.
    """

    a: float
    b: float
    low: float
    high: float
    p_value: float

    @property
    def difference(self) -> float:
        """b - a."""
        return self.b - self.a


def delong(labels, scores_a, scores_b) -> Comparison:
    """DeLong's test of two correlated AUROCs (DeLong, DeLong, Clarke-Pearson 1988), by midranks (Sun and Xu 2014).

    Args:
        labels: bool or 0/1 `[N]`, 1 = anomalous.
        scores_a, scores_b: real `[N]`, of the same images, higher = more anomalous; ties count half.

    Returns:
        `Comparison` of the AUROCs. Where all images of a class agree on the difference, its estimated variance is zero:
        with no difference (equal rankings, or two perfect separations) p is 1 and the interval has no width; with one
        (a perfect separation against constant scores) the test knows nothing of its error, and interval and p are NaN.
        All NaN with fewer than two images of a class.

    Raises:
        ValueError: for labels other than 0 and 1, unequal lengths, or scores that are not finite.
    """
    (labels,), (first,) = ranks.as_images(labels, scores_a)
    (_,), (second,) = ranks.as_images(labels, scores_b)
    for scores in (first, second):
        ranks.survey([labels], [scores])
    anomalous = labels != 0
    m, n = int(anomalous.sum()), int((~anomalous).sum())
    if min(m, n) < 2:
        return Comparison(*[math.nan] * 5)
    of_anomalous, of_normal, areas = [], [], []
    for scores in (first, second):
        joint = stats.rankdata(scores)  # midranks
        won = (joint[anomalous] - stats.rankdata(scores[anomalous])) / n  # of each anomalous image, V10
        lost = 1 - (joint[~anomalous] - stats.rankdata(scores[~anomalous])) / m  # V01
        of_anomalous.append(won)
        of_normal.append(lost)
        areas.append(float(won.mean()))
    spread = np.var(of_anomalous[1] - of_anomalous[0], ddof=1) / m + np.var(of_normal[1] - of_normal[0], ddof=1) / n
    error = math.sqrt(max(spread, 0.0))
    difference = areas[1] - areas[0]
    if error < 1e-12:
        return Comparison(*areas, *((0.0, 0.0, 1.0) if abs(difference) < 1e-12 else (math.nan,) * 3))
    half = float(stats.norm.ppf(0.975)) * error
    p_value = float(2 * stats.norm.sf(abs(difference) / error))
    return Comparison(*areas, difference - half, difference + half, p_value)


def paired_bootstrap(metric: Callable, labels, scores_a, scores_b, samples: int = 1000, seed: int = 0) -> Comparison:
    """A paired bootstrap of any metric: images are redrawn together for both methods, within their class.

    Args:
        metric: maps `(labels, scores)` to a value; for metrics of pixels `(masks, maps)`.
        labels: bool or 0/1 `[N]`; or masks `[H, W]` each, an image with a marked pixel being anomalous.
        scores_a, scores_b: real `[N]`; or maps of the masks' shapes.
        samples: number of draws.
        seed: of the draws.

    Returns:
        `Comparison`: percentile interval; p is twice the smaller share of draws on one side of zero, ties counted half,
        at least 1 / (samples + 1) (Efron and Tibshirani 1993, chapter 15). Draws in which the metric is undefined are
        left out; all NaN where it is undefined altogether.

    Raises:
        ValueError: unequal lengths.
    """
    if not len(labels) == len(scores_a) == len(scores_b):
        raise ValueError(f"{len(labels)} labels, {len(scores_a)} and {len(scores_b)} scores")
    groups = np.array([bool(np.any(label)) for label in labels])
    members = [np.flatnonzero(groups == side) for side in (False, True)]
    generator, differences = np.random.default_rng(seed), []
    for _ in range(samples):
        chosen = np.concatenate([generator.choice(some, len(some)) for some in members if len(some)])
        drawn = [_taken(values, chosen) for values in (labels, scores_a, scores_b)]
        differences.append(metric(drawn[0], drawn[2]) - metric(drawn[0], drawn[1]))
    return _from_draws(metric(labels, scores_a), metric(labels, scores_b), differences)


def paired_bootstrap_of_pixels(
    masks: Sequence, maps_a: Sequence, maps_b: Sequence, samples: int = 1000, seed: int = 0, memory=DEFAULT_MEMORY
) -> dict[str, Comparison]:
    """`paired_bootstrap` of pixel AUROC and AUPR, each map read and sorted once instead of in every draw.

    The metrics themselves are exact; those of the draws are taken from rank bins, see `statistics.pixel_statistics`.

    Args:
        masks: `[H, W]` each, nonzero = anomalous.
        maps_a, maps_b: of the masks' shapes, higher = more anomalous.
        samples: number of draws.
        seed: of the draws.
        memory: as in `metrics.pixel_auroc`.

    Returns:
        `{"pixel_auroc": Comparison, "pixel_aupr": Comparison}`.

    Raises:
        ValueError: as `metrics.pixel_auroc`.
    """
    groups = np.array([np.any(mask) for mask in masks], bool)
    sides = [statistics.pixel_statistics(masks, maps, memory) for maps in (maps_a, maps_b)]
    exact = [metrics.pixel_auroc_aupr(masks, maps, memory) for maps in (maps_a, maps_b)]
    found = {}
    for name, a, b in zip(sides[0], *exact, strict=True):
        drawn = statistics.draws(groups, samples, seed)
        found[name] = _from_draws(a, b, np.concatenate([sides[1][name](w) - sides[0][name](w) for w in drawn]))
    return found


def _from_draws(a: float, b: float, differences) -> Comparison:
    a, b, found = float(a), float(b), np.array([d for d in differences if np.isfinite(d)])
    if not len(found) or math.isnan(b - a):
        return Comparison(a, b, math.nan, math.nan, math.nan)
    ties = np.mean(found == 0) / 2
    share = min(np.mean(found < 0), np.mean(found > 0)) + ties
    low, high = np.quantile(found, [0.025, 0.975])
    return Comparison(a, b, float(low), float(high), float(min(1.0, max(2 * share, 1 / (len(found) + 1)))))


def _taken(values: Sequence, chosen: np.ndarray):
    """The chosen items of an array, or of a list of arrays of any sizes."""
    return values[chosen] if isinstance(values, np.ndarray) else [values[i] for i in chosen]
