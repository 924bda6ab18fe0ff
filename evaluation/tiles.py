"""Maps of large images from overlapping tiles: where tiles lie, and with which weights their maps are joined.

A pixel of a local method's map depends on pixels at most `context` away. Of a tile's map, only pixels whose whole
surroundings lie in the tile, or are cut by the image's own border, equal those of the whole image's map; the others
get the weight 0. Where several tiles give a pixel, weights that rise from the margins inwards join them, and add up to
1 everywhere, so that the joined map is that of the whole image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tiling:
    """A grid of square tiles.

    Args:
        tile: side of a tile, pixels. Tiles at the image's lower and right border may be up to `alignment` - 1 shorter;
            an image that is smaller than a tile is one tile.
        overlap: pixels that neighbouring tiles share at least.
        context: pixels around a pixel that its anomaly depends on; 0 for a method that is not local.
        alignment: tiles begin at multiples of it, pixels.
        smallest: least side that the method takes, pixels.

    Raises:
        ValueError: the overlap is below 2 `context`, or the tile too small for the overlap or for the method; the
            message names the least possible value.
    """

    tile: int
    overlap: int
    context: int = 0
    alignment: int = 1
    smallest: int = 1

    def __post_init__(self):
        if self.overlap < 2 * self.context:
            raise ValueError(
                f"an overlap of {self.overlap} pixels is too small: the model needs at least {2 * self.context}, twice "
                f"the {self.context} pixels around a pixel that its anomaly depends on"
            )
        least = max(self.overlap + self.alignment, self.smallest + self.alignment - 1)
        if self.tile < least:
            raise ValueError(
                f"a tile of {self.tile} pixels is too small: with an overlap of {self.overlap} the model needs at "
                f"least {least}"
            )

    def starts(self, length: int) -> list[int]:
        """First pixels of the tiles along a side of `length` pixels, ascending multiples of `alignment` from 0 on."""
        last = -(-max(length - self.tile, 0) // self.alignment) * self.alignment
        step = (self.tile - self.overlap) // self.alignment * self.alignment
        return [*range(0, last, step), last]

    def weights(self, length: int) -> list[tuple[slice, np.ndarray]]:
        """The tiles along a side of `length` pixels.

        Returns:
            For each tile its pixels and their weights, float64, >= 0; the weights of all tiles add up to 1 at each
            pixel.
        """
        spans = [slice(start, min(start + self.tile, length)) for start in self.starts(length)]
        raw, total = [], np.zeros(length)
        for span in spans:
            size = span.stop - span.start
            weight = np.full(size, self.overlap - 2 * self.context + 1.0)
            if span.start > 0:
                weight = np.minimum(weight, np.arange(size) - self.context + 1)
            if span.stop < length:
                weight = np.minimum(weight, size - self.context - np.arange(size))
            raw.append(np.maximum(weight, 0))
            total[span] += raw[-1]
        return [(span, weight / total[span]) for span, weight in zip(spans, raw, strict=True)]

    def cover(self, height: int, width: int) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """All tiles of an image, row by row.

        Yields:
            `(rows, columns, weights)`: slices of the image, and float32 `[h, w]` for the tile's map.
        """
        columns = self.weights(width)
        for rows, vertical in self.weights(height):
            for across, horizontal in columns:
                yield rows, across, (vertical[:, None] * horizontal).astype(np.float32)
