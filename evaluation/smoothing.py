"""Smoothing of anomaly maps."""

import numpy as np
from scipy import ndimage


def mean_filter(array: np.ndarray, size: int = 48) -> np.ndarray:
    """Mean over a size x size window, the map continued by reflection with its edge pixel repeated (FCBiGAN).

    An even window at row i covers i - size/2 to i + size/2 - 1 (i-24..i+23 for 48). The window slides with a running
    sum in double precision, so a pixel 10^15 times the others leaves rounding errors behind in its row and column.

    Args:
        array: real `[H, W]`, finite, of any size, also smaller than the window.
        size: window in pixels, at least 1.

    Returns:
        `[H, W]`, float32 for float32, else float64.

    Raises:
        ValueError: if the array is not two-dimensional, empty, or has pixels that are not finite.
    """
    array = np.asarray(array)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"expected one map [H, W], got shape {array.shape}")
    if array.dtype != np.float32:
        array = array.astype(np.float64)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise ValueError(f"{bad} pixels are not finite")
    return ndimage.uniform_filter(array, size, mode="reflect")
