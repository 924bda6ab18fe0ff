"""Images that do not fit in memory: the same arrays, in files without a name, which end with the process.

The files lie in the folder for temporary files (TMPDIR), which should be on a disk. `GANSPECT_IMAGE_MEMORY`, in MB, is
how much the images of one category, and the stack that training draws from, may take in memory each; otherwise it is a
quarter of the machine's.
"""

import os
import tempfile
import threading

import numpy as np

VARIABLE = "GANSPECT_IMAGE_MEMORY"
SHARE = 4
BLOCK = 1 << 30  # bytes of a file, which many images share: each mapping of its own would take a file descriptor


def memory_limit() -> int:
    """Bytes that the images of a category may take.

    Raises:
        OSError: the variable is no number of MB.
    """
    given = os.environ.get(VARIABLE)
    try:
        if given:
            return int(float(given) * 1e6)
    except (ValueError, OverflowError):
        raise OSError(f"{VARIABLE} takes a number of MB, not {given!r}") from None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // SHARE


def zeros(shape, dtype="uint8", limit: int | None = None) -> np.ndarray:
    """Zeros in memory, or where they would take more than `limit` bytes (`memory_limit`) an `np.memmap`."""
    if int(np.prod(shape, dtype="int64")) * np.dtype(dtype).itemsize <= (memory_limit() if limit is None else limit):
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile() as file:  # the mapping keeps it
        return np.memmap(file, dtype, "w+", shape=tuple(shape))


def is_on_disk(array) -> bool:
    """Whether an array comes from `zeros` and is not in memory."""
    return isinstance(array, np.memmap)


class Shelf:
    """Keeps arrays in memory until there is no more room, and the others on disk.

    Args:
        limit: bytes; `memory_limit` when not given.
    """

    def __init__(self, limit: int | None = None):
        self.left = memory_limit() if limit is None else limit
        self.lock = threading.Lock()
        self.block, self.used = None, 0

    def put(self, array: np.ndarray) -> np.ndarray:
        """The array, or a copy of it on disk."""
        with self.lock:
            self.left -= array.nbytes
            if self.left >= 0:
                return array
            copy = self._room(array.nbytes).view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    def _room(self, size: int) -> np.ndarray:
        """So many bytes of a file."""
        if self.block is None or self.used + size > len(self.block):
            self.block, self.used = zeros((max(BLOCK, size),), limit=0), 0
        first, self.used = self.used, -(-(self.used + size) // 64) * 64  # every array begins at a multiple of 64
        return self.block[first : first + size]
