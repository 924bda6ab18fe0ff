"""Exact order of anomaly scores by integer keys: what every rank metric here stands on.

A finite IEEE float, read as an unsigned integer with its sign bit flipped (all bits, when negative), sorts as the
float does. Integers sort several times faster than floats and compare exactly, so nothing is binned or rounded.
Where keys go to disk (`sorting`), counts stay the same integers and sums are exact (`ExactSum`): the memory limit
changes no bit of a result.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ganspect.evaluation.sorting import DEFAULT_MEMORY, Block, SortedKeys

NORMAL, ANOMALOUS = 0, 1
CHUNK = 1 << 16  # keys handled at a time
PIECE = 1 << 18  # pixels read at a time


def as_scores(values) -> np.ndarray:
    """Scores as float32 where that loses nothing by type, else float64.

    Args:
        values: real numbers of any shape. Integers are exact up to 2^53.

    Raises:
        TypeError: for complex numbers, strings and objects.
    """
    scores = np.asarray(values)
    if scores.dtype in (np.float32, np.float64):
        return scores
    if scores.dtype.kind in "biu":
        return scores.astype(np.float64)
    if scores.dtype.itemsize <= 2 and scores.dtype.kind in "fV":  # float16, bfloat16
        return scores.astype(np.float32)
    raise TypeError(f"scores must be real numbers of at most 64 bits, not {scores.dtype}")


def needs_float64(scores: np.ndarray) -> bool:
    """Whether rounding to float32 would change any of these finite scores."""
    if scores.dtype == np.float32:
        return False
    with np.errstate(over="ignore", under="ignore"):
        return not np.array_equal(scores.astype(np.float32), scores)


def order_keys(scores: np.ndarray, wide: bool = False) -> np.ndarray:
    """Unsigned integers that compare as the finite scores do; -0.0 equals 0.0.

    Args:
        scores: float32 or float64, any shape.
        wide: 64-bit keys, for scores that float32 cannot hold.

    Returns:
        uint32 (uint64 when wide), same shape, a new array.
    """
    real, signed, unsigned = (np.float64, np.int64, np.uint64) if wide else (np.float32, np.int32, np.uint32)
    bits = np.add(scores, 0.0, dtype=real, casting="same_kind")  # + 0.0 turns -0.0 into 0.0
    bits = np.atleast_1d(bits).view(signed)
    top = 8 * bits.itemsize - 1
    flip = (bits >> top).view(unsigned)  # all ones where negative
    flip |= unsigned(1 << top)
    keys = bits.view(unsigned)
    keys ^= flip
    return keys.reshape(np.shape(scores))


def key_scores(keys: np.ndarray) -> np.ndarray:
    """The scores (float64) that `order_keys` turned into these keys."""
    top = np.array(1 << (8 * keys.itemsize - 1), keys.dtype)
    bits = np.where(keys & top, keys ^ top, ~keys)
    return bits.view(np.float32 if keys.itemsize == 4 else np.float64).astype(np.float64)


@dataclass(frozen=True)
class Survey:
    """What one pass over the images finds: pixel counts by class, and the key width they need."""

    normal: int
    anomalous: int
    wide: bool

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint64 if self.wide else np.uint32)


def as_images(labels, scores) -> tuple[Sequence, Sequence]:
    """Both arguments as sequences of arrays: `[N]` numbers become one array, a sequence of arrays stays as it is."""
    if len(labels) == 0 or np.ndim(next(iter(labels))) == 0:
        labels = np.asarray(labels)
        if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
            raise ValueError("labels must be 0 (normal) or 1 (anomalous)")
        return [labels], [np.asarray(scores)]
    return labels, scores


def pieces(mask, values) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One image as flat slices of at most `PIECE` pixels: `(mask, scores)`."""
    mask, values = np.asarray(mask).ravel(), np.asarray(values).ravel()
    for first in range(0, len(mask), PIECE):
        yield mask[first : first + PIECE], as_scores(values[first : first + PIECE])


def survey(masks: Sequence, maps: Sequence) -> Survey:
    """Check every image and count its classes.

    Args:
        masks: arrays, nonzero where anomalous.
        maps: arrays of scores, each of its mask's shape.

    Raises:
        ValueError: on differing lengths or shapes, and on scores that are not finite, naming how many and in which
            images.
    """
    if len(masks) != len(maps):
        raise ValueError(f"{len(masks)} label arrays but {len(maps)} score arrays")
    anomalous, total, wide, broken = 0, 0, False, {}
    for index, (mask, values) in enumerate(zip(masks, maps, strict=True)):
        if np.shape(mask) != np.shape(values):
            raise ValueError(f"image {index}: labels have shape {np.shape(mask)}, scores {np.shape(values)}")
        for some, scores in pieces(mask, values):
            bad = scores.size - int(np.count_nonzero(np.isfinite(scores)))
            if bad:
                broken[index] = broken.get(index, 0) + bad
                continue
            wide = wide or needs_float64(scores)
            anomalous += int(np.count_nonzero(some))
            total += scores.size
    if broken:
        where = f" (image index {', '.join(map(str, list(broken)[:10]))}{', ...' if len(broken) > 10 else ''})"
        raise ValueError(f"{sum(broken.values())} scores are not finite{where if len(masks) > 1 else ''}")
    return Survey(total - anomalous, anomalous, wide)


def sorted_classes(masks: Sequence, maps: Sequence, found: Survey, memory: float = DEFAULT_MEMORY) -> Iterator[Block]:
    """Sorted keys of the two classes, NORMAL and ANOMALOUS, in blocks of falling score.

    Args:
        masks: as in `survey`.
        maps: as in `survey`.
        found: the result of `survey`.
        memory: bytes of keys held at a time, see `sorting.SortedKeys`.
    """
    with SortedKeys((found.normal, found.anomalous), found.dtype, memory) as store:
        for mask, values in zip(masks, maps, strict=True):
            for some, scores in pieces(mask, values):
                keys, positive = order_keys(scores, found.wide), some != 0
                store.add(NORMAL, keys[~positive])
                store.add(ANOMALOUS, keys[positive])
        yield from store.blocks()


@dataclass(frozen=True)
class Steps:
    """Counts over all images at some distinct anomalous scores v, ascending in v; int64 `[K]` each."""

    keys: np.ndarray
    ties: np.ndarray  # anomalous = v
    true_positives: np.ndarray  # anomalous >= v
    false_positives: np.ndarray  # normal >= v
    false_above: np.ndarray  # normal > v


def steps(block: Block) -> Iterator[Steps]:
    """Counts at every distinct anomalous score of a block, in chunks."""
    anomalous, first = block.classes[ANOMALOUS], 0
    while first < len(anomalous):
        last = min(first + CHUNK, len(anomalous)) - 1
        end = int(np.searchsorted(anomalous, anomalous[last], "right"))  # a tie stays in one chunk
        chunk = anomalous[first:end]
        starts = first + np.flatnonzero(np.concatenate([[True], chunk[1:] != chunk[:-1]]))
        keys = anomalous[starts]
        yield Steps(
            keys,
            np.diff(starts, append=end) * block.repeats[ANOMALOUS],
            block.above[ANOMALOUS] + (len(anomalous) - starts) * block.repeats[ANOMALOUS],
            *block.at_and_above(NORMAL, keys),
        )
        first = end


class ExactSum:
    """Sums of values in [0, 1] in units of 2^-62, in integers: the order of adding changes no bit.

    Args:
        cells: number of sums.
    """

    def __init__(self, cells: int = 1):
        self._units = [0] * cells

    def add(self, values: np.ndarray, times=1, cells: np.ndarray | None = None):
        """Add `times * value` for each value, to the first sum or to those at `cells`; fewer than 2^32 a call."""
        scaled = values * 2.0**31
        high = scaled.astype(np.int64)
        low = np.rint((scaled - high) * 2.0**31).astype(np.int64)
        for part, shift in ((high * times, 31), (low * times, 0)):
            if cells is None:
                self._units[0] += int(part.sum()) << shift
                continue
            sums = np.zeros(len(self._units), np.int64)
            np.add.at(sums, cells, part)
            for cell in np.flatnonzero(sums):
                self._units[cell] += int(sums[cell]) << shift

    def total(self, cell: int = 0) -> float:
        return math.ldexp(self._units[cell], -62)
