"""Uncertainty of measured values: over test images for one seed, and over seeds."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import stats

from ganspect.evaluation import ranks
from ganspect.evaluation.sorting import DEFAULT_MEMORY

BINS = 4096  # rank bins taken from each class's own quantiles
WEIGHTS_AT_A_TIME = 1 << 19


def seed_interval(values) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval by Student's t.

    Args:
        values: one result per seed, `[n]`, n >= 1.

    Returns:
        `(mean, low, high)`; the bounds are NaN for one seed, all three where some value is NaN. The bounds are not
        clipped to [0, 1].

    Raises:
        ValueError: when there are no values.
    """
    values = np.asarray(values, np.float64).ravel()
    if not len(values):
        raise ValueError("no values")
    mean = float(values.mean())
    if len(values) == 1:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray], groups, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic over images drawn again with replacement.

    Images are redrawn within their group (normal, anomalous), since a test set's composition was chosen, not sampled:
    every draw has as many of each as the test set.

    Args:
        statistic: maps weights `[B, n]` (how often each image was drawn) to values `[B]`.
        groups: `[n]`, the group of each image.
        samples: number of draws.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        `(low, high)`; NaN where the statistic is undefined. Where the classes separate perfectly in the sample, the
        interval has no width: it says nothing of defects unlike those in the test set.
    """
    values = [statistic(weights) for weights in draws(groups, samples, seed)]
    values = np.concatenate(values) if values else np.empty(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def draws(groups, samples: int = 1000, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each image is drawn, with replacement and within its group: float64 `[B, n]` in blocks of draws.

    Args as `bootstrap_interval`.
    """
    groups = np.asarray(groups).ravel()
    generator = np.random.default_rng(seed)
    block = max(1, WEIGHTS_AT_A_TIME // max(len(groups), 3 * BINS))
    for first in range(0, samples, block):
        count = min(block, samples - first)
        weights = np.empty((count, len(groups)))
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            weights[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), count)
        yield weights


def subset_draws(
    labels, scores, metric: Callable, normals: int = 100, anomalies: int = 100, draws: int = 200, seed: int = 0
) -> np.ndarray:
    """A metric of the images on random smaller test sets, drawn without replacement from this one.

    For a published value measured on some images of a larger set: how far it may lie from the value on all of them by
    the choice of images alone. The draws depend on the labels, the numbers and the seed, not on scores or metric, so
    that metrics of one model, and models on one test set, are compared on the same images.

    Args:
        labels: bool or 0/1 `[N]`, 1 = anomalous.
        scores: real `[N]`, higher = more anomalous.
        metric: maps `(labels, scores)` to a value, or to a tuple that begins with it, as `accuracy_oracle` does.
        normals: normal images in a draw; all of them where there are no more.
        anomalies: anomalous images in a draw; all of them where there are no more.
        draws: number of draws; one where every draw would be the whole test set.
        seed: of the draws.

    Returns:
        float64 `[draws]` or `[1]`; NaN where the metric is undefined.

    Raises:
        ValueError: for labels other than 0 and 1, unequal lengths, or a negative number of images.
    """
    (labels,), (scores,) = ranks.as_images(labels, scores)
    if labels.shape != scores.shape:
        raise ValueError(f"{labels.size} labels but {scores.size} scores")
    if min(normals, anomalies) < 0:
        raise ValueError(f"cannot draw {normals} normal and {anomalies} anomalous images")
    classes = [(np.flatnonzero(labels == side), count) for side, count in ((0, normals), (1, anomalies))]
    if all(len(members) <= count for members, count in classes):
        draws = 1
    generator, values = np.random.default_rng(seed), np.empty(draws)
    for index in range(draws):
        chosen = [generator.choice(members, min(count, len(members)), replace=False) for members, count in classes]
        chosen = np.sort(np.concatenate(chosen))  # the images in their own order
        found = metric(labels[chosen], scores[chosen])
        values[index] = found[0] if isinstance(found, tuple) else found
    return values


def bootstrap_image_auroc(labels, scores, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of `image_auroc`, exact in every draw.

    Args:
        labels: bool or 0/1 `[N]`.
        scores: real `[N]`.
        samples: as in `bootstrap_interval`.
        seed: as in `bootstrap_interval`.

    Returns:
        `(low, high)`; NaN when one class is missing.
    """
    (labels,), (scores,) = ranks.as_images(labels, scores)
    if labels.all() or not labels.any():
        ranks.survey([labels], [scores])
        return math.nan, math.nan
    return bootstrap_interval(auroc_statistic(labels, scores), labels != 0, samples, seed)


def auroc_statistic(labels, scores) -> Callable[[np.ndarray], np.ndarray]:
    """`image_auroc` as a function of how often each image was drawn, weights `[B, n]` -> `[B]`, exact in every draw.

    Args:
        labels: bool or 0/1 `[n]`.
        scores: real `[n]`.
    """
    (labels,), (scores,) = ranks.as_images(labels, scores)
    found = ranks.survey([labels], [scores])
    keys = ranks.order_keys(ranks.as_scores(scores), found.wide)
    order = np.argsort(keys)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(keys[order]) != 0]))
    anomalous = (labels != 0)[order]

    def statistic(weights):
        weights = weights[:, order]
        positive = np.add.reduceat(weights * anomalous, starts, axis=1)
        return _auroc(np.add.reduceat(weights, starts, axis=1) - positive, positive)

    return statistic


def bootstrap_metric(labels, scores, metric: Callable, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of any metric of the images, redrawn within their class as in `bootstrap_interval`.

    Args:
        labels: bool or 0/1 `[N]`.
        scores: real `[N]`.
        metric: maps `(labels, scores)` to a value, or to a tuple that begins with it, as `f1_max` does.
        samples: number of draws.
        seed: of the draws.

    Returns:
        `(low, high)`; NaN where the metric is undefined.
    """
    (labels,), (scores,) = ranks.as_images(labels, scores)
    classes = [np.flatnonzero(labels == side) for side in (0, 1)]
    generator, values = np.random.default_rng(seed), np.empty(samples)
    for index in range(samples):
        chosen = np.concatenate([generator.choice(members, len(members)) for members in classes if len(members)])
        found = metric(labels[chosen], scores[chosen])
        values[index] = found[0] if isinstance(found, tuple) else found
    values = values[np.isfinite(values)]
    return tuple(map(float, np.quantile(values, [0.025, 0.975]))) if len(values) else (math.nan, math.nan)


def bootstrap_image_metrics(
    labels, scores, threshold: float, samples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """What `bootstrap_metric` gives for every metric of images but AUROC, from one set of draws, all at once.

    Args:
        labels: 0/1 `[N]`.
        scores: real `[N]`.
        threshold: of "image_balanced_accuracy"; NaN leaves it out.
        samples, seed: as in `bootstrap_metric`; the draws are the same.

    Returns:
        `{metric: (low, high)}`; NaN when one class is missing.
    """
    (labels,), (scores,) = ranks.as_images(labels, scores)
    found = ranks.survey([labels], [scores])
    keys = ranks.order_keys(ranks.as_scores(scores), found.wide)
    order = np.argsort(keys)[::-1]  # the highest scores first
    starts = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]]))
    weights = np.zeros((samples, len(labels)))
    generator, classes = np.random.default_rng(seed), [np.flatnonzero(labels == side) for side in (0, 1)]
    for row in weights:
        chosen = np.concatenate([generator.choice(members, len(members)) for members in classes if len(members)])
        row += np.bincount(chosen, minlength=len(labels))
    positive = np.add.reduceat((weights * (labels != 0))[:, order], starts, axis=1)
    negative = np.add.reduceat((weights * (labels == 0))[:, order], starts, axis=1)
    caught, wrong = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)  # [samples, distinct scores]
    anomalous, normal = caught[:, -1:], wrong[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        right = np.maximum((caught + normal - wrong).max(axis=1), normal[:, 0])  # or all are called normal
        precision = np.where(caught + wrong > 0, caught / (caught + wrong), 0.0)
        values = {
            "image_ap": np.sum(positive * precision, axis=1) / anomalous[:, 0],
            "image_f1_max": (2 * caught / (caught + wrong + anomalous)).max(axis=1),
            "image_accuracy_oracle": right / (normal + anomalous)[:, 0],
            "image_balanced_accuracy_oracle": ((caught / anomalous + 1 - wrong / normal) / 2).max(axis=1),
        }
        if not math.isnan(threshold):
            called = ranks.as_scores(scores).astype(np.float64) >= threshold
            rates = (
                weights @ (side & good) / (weights @ side)
                for side, good in ((labels != 0, called), (labels == 0, ~called))
            )
            values["image_balanced_accuracy"] = sum(rates) / 2
    if not found.normal or not found.anomalous:
        return dict.fromkeys(values, (math.nan, math.nan))
    return {name: tuple(map(float, np.quantile(some, [0.025, 0.975]))) for name, some in values.items()}


def bootstrap_pixel_metrics(
    masks: Sequence, maps: Sequence, samples: int = 1000, seed: int = 0, memory: float = DEFAULT_MEMORY
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of `pixel_auroc` and `pixel_aupr` over the test images.

    Images are redrawn whole, since pixels of one image are not independent, and reduced as in `pixel_statistics`.

    Args:
        masks: as in `metrics.pixel_auroc`.
        maps: as in `metrics.pixel_auroc`.
        samples: as in `bootstrap_interval`.
        seed: as in `bootstrap_interval`.
        memory: as in `pixel_statistics`.

    Returns:
        `{"pixel_auroc": (low, high), "pixel_aupr": (low, high)}`; NaN when one class is missing.
    """
    groups = np.array([np.any(mask) for mask in masks], bool)
    found = pixel_statistics(masks, maps, memory)
    return {name: bootstrap_interval(statistic, groups, samples, seed) for name, statistic in found.items()}


def pixel_statistics(
    masks: Sequence, maps: Sequence, memory: float = DEFAULT_MEMORY
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """`pixel_auroc` and `pixel_aupr` as functions of how often each image was drawn, weights `[B, n]` -> `[B]`.

    Each image is reduced once to counts in rank bins, cut at 4096 quantiles of the normal and 4096 of the anomalous
    pixels' pooled scores, the latter and heavily tied scores alone in theirs; a draw adds up histograms. Against the
    exact metrics the binning errs by less than 1e-5 in AUROC and 1e-4 in AUPR (by nothing where 4096 quantiles reach
    every distinct score), small beside any interval.

    Args:
        masks: as in `metrics.pixel_auroc`.
        maps: as in `metrics.pixel_auroc`.
        memory: bytes of sort keys held while the bins are chosen, as in `metrics.pixel_auroc`; the counts take about
            200 kB an image besides.

    Returns:
        `{"pixel_auroc": function, "pixel_aupr": function}`; they give NaN when one class is missing.
    """
    found = ranks.survey(masks, maps)
    if not found.normal or not found.anomalous:
        return dict.fromkeys(("pixel_auroc", "pixel_aupr"), lambda weights: np.full(len(weights), math.nan))
    normal, anomalous, single = _histograms(masks, maps, found.wide, _rank_bins(masks, maps, found, memory))
    return {
        "pixel_auroc": lambda weights: _auroc(weights @ normal, weights @ anomalous),
        "pixel_aupr": lambda weights: _ap(weights @ normal, weights @ anomalous, single),
    }


def _rank_bins(masks, maps, found: ranks.Survey, memory: float = DEFAULT_MEMORY) -> np.ndarray:
    """Lower edges of the bins, ascending keys."""
    totals = (found.normal, found.anomalous)
    even = [np.linspace(0, total - 1, min(total, BINS)).astype(np.int64) for total in totals]
    chosen = ([], [])
    for block in ranks.sorted_classes(masks, maps, found, memory):
        for which, keys in enumerate(chosen):
            keys.append(block.at_ranks(which, even[which], totals[which]))
    edges = []
    for keys, alone in zip(chosen, (1, 0), strict=True):
        values, repeats = np.unique(np.concatenate(keys), return_counts=True)
        edges += [values, values[repeats > alone] + values.dtype.type(1)]  # the next key ends a bin of one score
    return np.unique(np.concatenate(edges))


def _histograms(masks, maps, wide: bool, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal and anomalous pixels per image and bin, float64 `[n, bins]`, and which bins hold one distinct score."""
    counts, at_edge = np.zeros((2, len(masks), len(edges))), np.zeros(len(edges), np.int64)
    for index, (mask, values) in enumerate(zip(masks, maps, strict=True)):
        for some, scores in ranks.pieces(mask, values):
            keys, positive = ranks.order_keys(scores, wide), some != 0
            for which, chosen in enumerate((keys[~positive], keys[positive])):
                chosen.sort()
                starts = np.searchsorted(chosen, edges)
                counts[which, index] += np.diff(np.append(starts, len(chosen)))
                at_edge += np.searchsorted(chosen, edges, "right") - starts
    return counts[0], counts[1], counts.sum(axis=(0, 1)) == at_edge


def _auroc(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """AUROC `[B]` of counts `[B, bins]` in ascending bins, a shared bin counting half."""
    below = np.cumsum(normal, axis=1) - normal / 2
    pairs = normal.sum(axis=1) * anomalous.sum(axis=1)
    wins = np.sum(anomalous * below, axis=1)
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _ap(normal: np.ndarray, anomalous: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Average precision `[B]` of counts in ascending bins: a tie is one threshold, a wider bin counts at its middle."""
    share = np.where(single, 0.0, 0.5)
    caught = np.cumsum(anomalous[:, ::-1], axis=1)[:, ::-1] - share * anomalous
    called = caught + np.cumsum(normal[:, ::-1], axis=1)[:, ::-1] - share * normal
    precision = np.divide(caught, called, out=np.zeros_like(caught), where=called > 0)
    total = anomalous.sum(axis=1)
    return np.divide(np.sum(anomalous * precision, axis=1), total, out=np.full(len(total), np.nan), where=total > 0)
