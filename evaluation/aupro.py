"""Area under the per-region overlap curve, exactly.

The curve rises by a small amount wherever the threshold passes a defect's pixel. Each such pixel is credited by itself,
with the part of the range of false positive rates in which it is found: every distinct score is a threshold.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ganspect.evaluation import ranks
from ganspect.evaluation.ranks import ANOMALOUS, NORMAL
from ganspect.evaluation.sorting import DEFAULT_MEMORY, TAG, SortedKeys


def pixel_aupro(
    masks: Sequence,
    maps: Sequence,
    limit: float = 0.30,
    memory: float = DEFAULT_MEMORY,
    regions: Sequence | None = None,
) -> float:
    """Area under the per-region overlap curve up to a false positive rate, divided by that rate.

    The overlap of each defect (8-connected component of a mask) is averaged over all defects of all images; the rate
    is over all normal pixels, defect-free images included (Bergmann et al., MVTec AD, IJCV 2021). Exact: a pixel of a
    defect of s pixels among K raises the curve by 1 / (s K) where its score is passed, linearly across ties. A defect
    of one pixel weighs as much as any other; a defect that is not in its mask (lost when the mask was resized) cannot
    count, and its image's pixels are normal ones.

    Args:
        masks: as in `pixel_auroc`, two-dimensional.
        maps: as in `pixel_auroc`.
        limit: in (0, 1].
        memory: as in `pixel_auroc`; here 4 bytes more for each anomalous pixel.
        regions: bool `[H, W]` each, or None; pixels outside are left out, and a defect is what of it lies inside.

    Returns:
        In [0, 1]; NaN when one class is missing.

    Raises:
        ValueError: a limit outside (0, 1].
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit must lie in (0, 1], not {limit}")
    regions = [None] * len(masks) if regions is None else regions
    found = ranks.survey(*([_inside(a, r) for a, r in zip(part, regions, strict=True)] for part in (masks, maps)))
    if not found.normal or not found.anomalous:
        return math.nan
    gained = ranks.ExactSum()
    with SortedKeys((found.normal, found.anomalous), found.dtype, memory, tagged=True) as store:
        count = _add(store, masks, maps, regions, found.wide)
        for block in store.blocks():
            for first in range(0, len(block.tags), ranks.CHUNK):
                chunk = np.s_[first : first + ranks.CHUNK]
                end, start = (n / found.normal for n in block.at_and_above(NORMAL, block.classes[ANOMALOUS][chunk]))
                gained.add(_mean_shortfall(limit, start, end) / block.tags[chunk])
    return gained.total() / (count * limit)


def _inside(array, region):
    """The pixels in a region, flat; the array as it is where there is none."""
    return array if region is None else np.asarray(array)[region]


def _add(store: SortedKeys, masks, maps, regions, wide: bool) -> int:
    """Adds all keys, those of defects with the defect's size; returns the number of defects."""
    defects = 0
    for mask, values, region in zip(masks, maps, regions, strict=True):
        marked = np.asarray(mask) != 0
        components, count = ndimage.label(marked if region is None else marked & region, np.ones((3, 3)))
        defects += count
        sizes = np.bincount(components.ravel()).astype(TAG)
        for numbers, scores in ranks.pieces(_inside(components, region), _inside(values, region)):
            keys, found = ranks.order_keys(scores, wide), numbers != 0
            store.add(NORMAL, keys[~found])
            store.add(ANOMALOUS, keys[found], sizes[numbers[found]])
    return defects


def _mean_shortfall(limit: float, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Mean of max(0, limit - f) for f uniform on [start, end]."""
    reached = np.clip(limit, start, end)
    width = np.where(end > start, end - start, 1)
    ramp = (reached - start) / width * (limit - (start + reached) / 2)
    return np.where(end > start, ramp, np.maximum(limit - start, 0))
