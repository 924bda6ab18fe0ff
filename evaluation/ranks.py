"""Exact order of anomaly scores by integer keys: what every rank metric here stands on.

A finite IEEE float, read as an unsigned integer with its sign bit flipped (all bits, when negative), sorts as the
float does. Integers sort several times faster than floats and compare exactly, so nothing is binned or rounded.
"""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHUNK = 1 << 20  # distinct scores handled at a time
DEFAULT_MEMORY = 2 << 30  # bytes of keys held at a time: 500 million float32 pixels


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
    def itemsize(self) -> int:
        return 8 if self.wide else 4


def as_images(labels, scores) -> tuple[Sequence, Sequence]:
    """Both arguments as sequences of arrays: `[N]` numbers become one array, a sequence of arrays stays as it is."""
    if len(labels) == 0 or np.ndim(next(iter(labels))) == 0:
        labels = np.asarray(labels)
        if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
            raise ValueError("labels must be 0 (normal) or 1 (anomalous)")
        return [labels], [np.asarray(scores)]
    return labels, scores


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
        scores, shape = as_scores(values), np.shape(mask)
        if scores.shape != shape:
            raise ValueError(f"image {index}: labels have shape {shape}, scores {scores.shape}")
        bad = scores.size - int(np.count_nonzero(np.isfinite(scores)))
        if bad:
            broken[index] = bad
            continue
        wide = wide or needs_float64(scores)
        anomalous += int(np.count_nonzero(mask))
        total += scores.size
    if broken:
        where = f" (image index {', '.join(map(str, list(broken)[:10]))}{', ...' if len(broken) > 10 else ''})"
        raise ValueError(f"{sum(broken.values())} scores are not finite{where if len(masks) > 1 else ''}")
    return Survey(total - anomalous, anomalous, wide)


def sorted_classes(
    masks: Sequence, maps: Sequence, found: Survey, memory: float = DEFAULT_MEMORY
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sorted keys of the two classes, in blocks of falling score.

    One block when the keys fit in `memory`. Otherwise the keys' top 16 bits are counted in a first pass, neighbouring
    values of those bits are joined to blocks that fit, and a second pass writes each block's keys to a temporary file,
    from which it is read and sorted when its turn comes: with memory mapped maps, nothing larger than a block is ever
    held. A block of a single value of those bits that does not fit (a constant map) is sorted on disk, and there are at
    most about 256 blocks, which are as large as that takes. Equal keys are always in one block.

    Args:
        masks: as in `survey`.
        maps: as in `survey`.
        found: the result of `survey`.
        memory: bytes of keys held at a time.

    Yields:
        `(normal, anomalous)` keys, each sorted ascending; every key of a block is below those of the block before.
    """
    dtype = np.uint64 if found.wide else np.uint32
    if found.itemsize * (found.normal + found.anomalous) <= memory:
        classes = [np.empty(count, dtype) for count in (found.normal, found.anomalous)]
        filled = [0, 0]
        for parts in _keys_by_class(masks, maps, found.wide):
            for which, chosen in enumerate(parts):
                classes[which][filled[which] : filled[which] + len(chosen)] = chosen
                filled[which] += len(chosen)
        for keys in classes:
            keys.sort()
        yield tuple(classes)
        return
    shift = 8 * found.itemsize - 16
    memory = max(memory, found.itemsize * (found.normal + found.anomalous) / 128)
    starts = _block_starts(masks, maps, found, memory, shift)
    with tempfile.TemporaryDirectory(prefix="ganspect-sort-") as folder:
        _spill(masks, maps, found.wide, starts, shift, folder)
        for block in reversed(range(len(starts))):
            yield tuple(_read_sorted(Path(folder) / f"{block}-{which}", dtype, memory) for which in (0, 1))


def _keys_by_class(masks, maps, wide):
    """Yields (normal keys, anomalous keys) of each image."""
    for mask, values in zip(masks, maps, strict=True):
        keys, positive = order_keys(as_scores(values), wide).ravel(), np.asarray(mask).ravel() != 0
        yield keys[~positive], keys[positive]


def _block_starts(masks, maps, found: Survey, memory: float, shift: int) -> np.ndarray:
    """The lowest top 16 bits of each block, ascending, so that the keys of a block fit in `memory` where they can."""
    counts = np.zeros(1 << 16, np.int64)
    for parts in _keys_by_class(masks, maps, found.wide):
        for keys in parts:
            counts += np.bincount(keys >> shift, minlength=1 << 16)
    starts, held = [], math.inf
    for prefix in np.flatnonzero(counts):
        if (held + counts[prefix]) * found.itemsize > memory:
            starts.append(prefix)
            held = 0
        held += counts[prefix]
    return np.array(starts)


def _spill(masks, maps, wide, starts: np.ndarray, shift: int, folder) -> None:
    """Appends the keys of each class to the file of their block."""
    with contextlib.ExitStack() as stack:
        files = {
            (block, which): stack.enter_context(open(Path(folder) / f"{block}-{which}", "wb"))
            for block in range(len(starts))
            for which in (0, 1)
        }
        for parts in _keys_by_class(masks, maps, wide):
            for which, keys in enumerate(parts):
                blocks = np.searchsorted(starts, keys >> shift, "right") - 1
                order = np.argsort(blocks, kind="stable")
                ends = np.cumsum(np.bincount(blocks, minlength=len(starts)))
                for block, (start, end) in enumerate(zip(np.append(0, ends[:-1]), ends, strict=True)):
                    if end > start:
                        keys[order[start:end]].tofile(files[block, which])


def _read_sorted(path: Path, dtype, memory: float) -> np.ndarray:
    """The keys of a file, sorted: in memory where they fit, else in the file itself."""
    size = path.stat().st_size
    if size <= memory:
        keys = np.fromfile(path, dtype)
    else:
        keys = np.memmap(path, dtype, "r+")
    keys.sort()
    return keys


@dataclass(frozen=True)
class Steps:
    """Counts at the distinct anomalous scores v of a block, ascending in v; int64 `[K]` each."""

    keys: np.ndarray
    ties: np.ndarray  # anomalous = v
    true_positives: np.ndarray  # anomalous >= v, from this block
    false_positives: np.ndarray  # normal >= v
    false_above: np.ndarray  # normal > v


def steps(normal: np.ndarray, anomalous: np.ndarray) -> Iterator[Steps]:
    """Counts at every distinct anomalous score, in chunks.

    Args:
        normal: sorted keys `[N]`.
        anomalous: sorted keys `[P]`.
    """
    if not len(anomalous):
        return
    starts = np.flatnonzero(np.concatenate([[True], anomalous[1:] != anomalous[:-1]]))
    ends = np.append(starts[1:], len(anomalous))
    for first in range(0, len(starts), CHUNK):
        start, end = starts[first : first + CHUNK], ends[first : first + CHUNK]
        keys = anomalous[start]
        left = np.searchsorted(normal, keys, "left")
        right = left.copy()
        if len(normal):
            tied = normal[np.minimum(left, len(normal) - 1)] == keys
            right[tied] = np.searchsorted(normal, keys[tied], "right")
        yield Steps(keys, end - start, len(anomalous) - start, len(normal) - left, len(normal) - right)
