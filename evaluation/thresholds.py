"""Thresholds learnt from normal images alone."""

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Threshold:
    """A quantile of normal scores with its 95 % confidence interval; a bound is infinite where n is too small."""

    value: float
    low: float
    high: float
    n: int
    quantile: float = 0.95

    @property
    def note(self) -> str:
        """The uncertainty in words, for tables and logs."""
        if np.isfinite(self.low) and np.isfinite(self.high):
            return f"95 % interval {self.low:.6g} to {self.high:.6g} from {self.n} normal images"
        sides = [side for side, bound in (("lower", self.low), ("upper", self.high)) if not np.isfinite(bound)]
        return f"{self.n} normal images are too few for {' or '.join(f'a 95 % {side} bound' for side in sides)}"


def normal_quantile(scores, quantile: float = 0.95) -> Threshold:
    """A quantile of held-out normal scores (linear between order statistics) and how well they determine it.

    The interval lies between two order statistics and holds for any continuous distribution: the number of n scores
    below the true quantile is binomial(n, quantile) (Conover, Practical Nonparametric Statistics, section 3.2). It
    assumes independent scores: one per image, not pixels. For the 95th percentile its upper bound is finite from 72
    scores on.

    Args:
        scores: real `[n]`, finite, n >= 1.
        quantile: in (0, 1).

    Raises:
        ValueError: on no scores, scores that are not finite, or a quantile outside (0, 1).
    """
    scores = np.sort(np.asarray(scores, np.float64).ravel())
    n = len(scores)
    if not n:
        raise ValueError("no normal scores to take a threshold from")
    bad = n - int(np.count_nonzero(np.isfinite(scores)))
    if bad:
        raise ValueError(f"{bad} of {n} normal scores are not finite")
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie in (0, 1), not {quantile}")
    below, above = stats.binom.ppf([0.025, 0.975], n, quantile).astype(int)  # ranks from 1: below, above + 1
    low = float(scores[below - 1]) if below >= 1 else -np.inf
    high = float(scores[above]) if above < n else np.inf
    return Threshold(float(np.quantile(scores, quantile)), low, high, n, quantile)


@dataclass(frozen=True)
class RateThreshold:
    """A threshold for a rate of false alarms among images like the held-out normal ones.

    Args:
        value: an image is anomalous from this score on; just above a score of a normal image.
        rate: asked for.
        expected: rate of false alarms to expect, over draws of the held-out images and of the next image.
        bound: the true rate is at most this with 95 % confidence.
        n: held-out images.
        reached: whether so many images can bear the rate: n >= 1 / rate - 1.
    """

    value: float
    rate: float
    expected: float
    bound: float
    n: int
    reached: bool

    @property
    def note(self) -> str:
        """The rate and its uncertainty in words."""
        text = (
            f"false alarms to expect: {100 * self.expected:.3g} % of normal images, at most {100 * self.bound:.3g} % "
        )
        text += f"with 95 % confidence, from {self.n} held-out images"
        if self.reached:
            return text
        return (
            f"{self.n} held-out images cannot bear a rate of {100 * self.rate:g} %: {self.needed} or more can; {text}"
        )

    @property
    def needed(self) -> int:
        """Held-out images that the rate takes."""
        return int(np.ceil(1 / self.rate - 1 - 1e-9))


def rate_threshold(scores, rate: float = 0.05, confidence: float = 0.95) -> RateThreshold:
    """The lowest threshold that exceeds at most a share of normal images, from held-out ones.

    Above the k-th smallest of n scores, k = ceil((1 - rate) (n + 1)), lies the next score with a probability of
    (n + 1 - k) / (n + 1), whatever the distribution (split conformal prediction; Vovk et al. 2005). For given held-out
    images the rate is distributed as Beta(n + 1 - k, k), which gives the bound (Wilks 1941). It assumes that the next
    normal images are like the held-out ones.

    Args:
        scores: real `[n]`, finite, n >= 1.
        rate: of false alarms, in (0, 1). Where n is too small for it, the threshold lies above all scores.
        confidence: of the bound.

    Raises:
        ValueError: on no scores, scores that are not finite, or a rate outside (0, 1).
    """
    scores = np.sort(np.asarray(scores, np.float32).ravel())
    n = len(scores)
    if not n or not np.isfinite(scores).all():
        raise ValueError("a threshold needs finite scores of normal images")
    if not 0 < rate < 1:
        raise ValueError(f"the rate of false alarms must lie in (0, 1), not {rate}")
    k = int(np.ceil((1 - rate) * (n + 1) - 1e-9))
    reached, k = k <= n, min(k, n)
    value = float(np.nextafter(scores[k - 1], np.float32(np.inf)))
    bound = float(stats.beta.ppf(confidence, n + 1 - k, k))
    return RateThreshold(value, rate, (n + 1 - k) / (n + 1), bound, n, reached)


def rates_above(scores, threshold: float, confidence: float = 0.95) -> tuple[float, float]:
    """The rate of false alarms of a threshold that was not chosen by `rate_threshold`.

    By the order statistics of the scores (see `rate_threshold`): with k of n scores below the threshold, the next
    normal image reaches it with a probability of at most (n + 1 - k) / (n + 1).

    Args:
        scores: real `[n]`, of held-out normal images.
        threshold: an image is anomalous from this score on.
        confidence: of the bound.

    Returns:
        `(expected, bound)`: the rate to expect, at most, and the one that the true rate stays below.
    """
    scores = np.asarray(scores, np.float64).ravel()
    n, k = len(scores), int(np.count_nonzero(scores < threshold))
    return (n + 1 - k) / (n + 1), float(stats.beta.ppf(confidence, n + 1 - k, k)) if k else 1.0
