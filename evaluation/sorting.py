"""Keys of several classes in sorted order: in memory up to a limit, beyond it in sorted runs on disk.

Up to the limit the keys are held and sorted in place: 4 bytes each, 8 when wide, and 4 more with a tag. Beyond it,
buffers within the limit are filled, sorted and written to a temporary file, each key once; then blocks of falling keys,
of half the limit each (the block in use and the next one fit together), are gathered from all sorted runs. A key so
frequent that it alone exceeds a block is only counted. The file has no name on POSIX systems, so nothing is left of it
however the process ends. It lies where `tempfile` puts it: set TMPDIR where `/tmp` is small or held in memory.
"""

import math
import os
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DEFAULT_MEMORY = 2 << 30  # bytes of keys held at a time: 500 million float32 pixels
SMALLEST = 256  # keys of a buffer or a block, whatever the limit
TAG = np.dtype(np.uint32)


@dataclass(frozen=True)
class Block:
    """All keys in some range; every key of a block is below those of the block before.

    Args:
        classes: keys of each class, ascending (the last class in any order where it carries tags).
        above: how many keys of each class lie above the range.
        repeats: how many keys each entry of a class stands for; not one only where a single key fills the block.
        tags: uint32 of each key of the last class, where it has them. A single key that exceeds the limit then comes in
            several blocks, which repeat the other classes and share `above`.
    """

    classes: tuple[np.ndarray, ...]
    above: tuple[int, ...]
    repeats: tuple[int, ...]
    tags: np.ndarray | None = None

    def at_and_above(self, which: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many keys of a class, of all blocks, are >= and > each of these keys of this block; int64."""
        members = self.classes[which]
        left = np.searchsorted(members, keys, "left")
        right = left.copy()
        if len(members):
            tied = members[np.minimum(left, len(members) - 1)] == keys
            right[tied] = np.searchsorted(members, keys[tied], "right")
        at, above = (self.above[which] + (len(members) - side) * self.repeats[which] for side in (left, right))
        return at, above

    def at_ranks(self, which: int, ranks: np.ndarray, total: int) -> np.ndarray:
        """The keys at those ranks (ascending over all blocks, from 0) of a class of `total` keys that lie in here."""
        repeats = self.repeats[which]
        places = ranks - (total - self.above[which] - len(self.classes[which]) * repeats)
        return self.classes[which][places[(places >= 0) & (places < len(self.classes[which]) * repeats)] // repeats]


class SortedKeys:
    """Collects keys class by class and gives them back in sorted blocks; a context manager that frees its file.

    Args:
        counts: exact number of keys of each class.
        dtype: of the keys, uint32 or uint64.
        memory: bytes of keys held at a time.
        tagged: whether keys of the last class carry a tag; they are not sorted within a block then.
    """

    def __init__(self, counts: tuple[int, ...], dtype, memory: float = DEFAULT_MEMORY, tagged: bool = False):
        self._dtype, self._tagged, self._memory = np.dtype(dtype), tagged, memory
        size = self._dtype.itemsize
        total = sum(counts) * size + counts[-1] * TAG.itemsize * tagged
        self._file = tempfile.TemporaryFile() if total > memory else None  # noqa: SIM115
        share = 1.0
        if self._file:
            share = memory / (total + counts[-1] * (8 + size) * tagged)  # tags are sorted by an index and a copy
        room = [min(count, max(SMALLEST, math.floor(count * share))) for count in counts]
        self._keys = [np.empty(length, self._dtype) for length in room]
        self._tags = np.empty(room[-1], TAG) if tagged else None
        self._filled = [0] * len(counts)
        self._runs: list[list[_Run]] = [[] for _ in counts]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._file:
            self._file.close()

    def add(self, which: int, keys: np.ndarray, tags: np.ndarray | None = None):
        """Add keys of a class, `[n]`, with their tags if it has them."""
        buffer, first = self._keys[which], 0
        while first < len(keys):
            start = self._filled[which]
            count = min(len(keys) - first, len(buffer) - start)
            if not count:
                raise ValueError("more keys than were counted: the maps changed while they were read")
            buffer[start : start + count] = keys[first : first + count]
            if tags is not None:
                self._tags[start : start + count] = tags[first : first + count]
            first += count
            self._filled[which] += count
            if self._file and self._filled[which] == len(buffer):
                self._write(which)

    def blocks(self) -> Iterator[Block]:
        """The keys in blocks of falling order, once all are added."""
        if self._file:
            yield from self._gathered()
            return
        for keys in self._keys[:-1] if self._tagged else self._keys:
            keys.sort()
        classes = tuple(self._keys)
        yield Block(classes, (0,) * len(classes), (1,) * len(classes), self._tags)

    def _write(self, which: int):
        """Appends a class's buffer to the file as one sorted run, tags behind the keys."""
        count = self._filled[which]
        keys, self._filled[which] = self._keys[which][:count], 0
        if not count:
            return
        self._runs[which].append(_Run(self._file, self._file.tell(), count, self._dtype))
        if self._tagged and which == len(self._runs) - 1:
            order = np.argsort(keys)
            self._file.write(keys[order].data)
            self._file.write(self._tags[:count][order].data)
        else:
            keys.sort()
            self._file.write(keys.data)

    def _gathered(self) -> Iterator[Block]:
        for which in range(len(self._runs)):
            self._write(which)
        self._file.flush()
        self._keys = self._tags = None
        room = max(SMALLEST, int(self._memory / 2 / (self._dtype.itemsize + TAG.itemsize * self._tagged)))
        above = [0] * len(self._runs)
        while any(run.end for runs in self._runs for run in runs):
            key, crowded = _cut([run for runs in self._runs for run in runs], room, 8 * self._dtype.itemsize)
            counts = [sum(run.end - run.start for run in runs) for runs in self._runs]
            blocks = self._of_one_key(key, counts, above, room) if crowded else self._of_many(counts, above)
            yield from blocks
            above = [some + more for some, more in zip(above, counts, strict=True)]
            for run in (run for runs in self._runs for run in runs):
                run.end = run.start

    def _of_many(self, counts, above) -> Iterator[Block]:
        classes, tags = [], None
        for runs, count in zip(self._runs, counts, strict=True):
            keys, first = np.empty(count, self._dtype), 0
            for run in runs:
                first += run.read(keys[first:])
            classes.append(keys)
        if self._tagged:
            tags, first = np.empty(counts[-1], TAG), 0
            for run in self._runs[-1]:
                first += run.read_tags(tags[first:])
        for keys in classes[:-1] if self._tagged else classes:
            keys.sort()
        yield Block(tuple(classes), tuple(above), (1,) * len(classes), tags)

    def _of_one_key(self, key, counts, above, room) -> Iterator[Block]:
        classes = [np.full(min(count, 1), key, self._dtype) for count in counts]
        if not self._tagged:
            yield Block(tuple(classes), tuple(above), tuple(counts))
            return
        for run in self._runs[-1]:
            for first in range(run.start, run.end, room):
                tags = np.empty(min(room, run.end - first), TAG)
                run.read_tags(tags, first)
                keys = np.full(len(tags), key, self._dtype)
                yield Block((*classes[:-1], keys), tuple(above), (*counts[:-1], 1), tags)


class _Run:
    """Sorted keys in a file, read singly by index; those in [start, end) are the next to be gathered."""

    def __init__(self, file, offset: int, count: int, dtype: np.dtype):
        self.file, self.offset, self.count, self.size = file, offset, count, dtype.itemsize
        self.start = self.end = count

    def __len__(self):
        return self.count

    def __getitem__(self, index: int) -> int:
        key = os.pread(self.file.fileno(), self.size, self.offset + index * self.size)
        return int.from_bytes(key, sys.byteorder)

    def read(self, into: np.ndarray) -> int:
        """Fills the beginning of an array with the keys in [start, end); returns their number."""
        return self._read(into, self.end - self.start, self.offset + self.start * self.size)

    def read_tags(self, into: np.ndarray, first: int | None = None) -> int:
        """The same for the tags, from `first` on as many as the array holds."""
        first = self.start if first is None else first
        count = min(len(into), self.end - first)
        return self._read(into, count, self.offset + self.count * self.size + first * TAG.itemsize)

    def _read(self, into, count, offset) -> int:
        self.file.seek(offset)
        if self.file.readinto(into[:count].data) != count * into.itemsize:
            raise OSError("the temporary file of sort keys is shorter than what was written")
        return count


def _cut(runs: list[_Run], room: int, bits: int) -> tuple[int, bool]:
    """Sets `start` in each run so that [start, end) are all keys from some key on, at most `room` of them.

    Returns:
        That key, and whether it is crowded: the highest key left, alone in the block because it exceeds the room.
    """
    low, high = 0, 1 << bits  # keys >= low are too many, keys >= high are not
    lower, upper = [0] * len(runs), [run.end for run in runs]
    if sum(upper) <= room:
        high, upper = 0, lower
    while high - low > 1:
        middle = (low + high) // 2
        bounds = zip(runs, lower, upper, strict=True)
        at = [bisect_left(run, middle, first, last) for run, first, last in bounds]
        if sum(run.end - start for run, start in zip(runs, at, strict=True)) <= room:
            high, upper = middle, at
        else:
            low, lower = middle, at
    crowded = high > 0 and all(run.end == start for run, start in zip(runs, upper, strict=True))
    for run, start in zip(runs, lower if crowded else upper, strict=True):
        run.start = start
    return (low if crowded else high), crowded
