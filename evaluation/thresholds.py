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
