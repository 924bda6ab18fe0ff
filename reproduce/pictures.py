"""Pictures of scored images: heat maps, overlays, contact sheets; all colours on one scale, none of red against green.

The scale is fixed before the first image is scored, from the model's threshold for pixels t alone: darkest at 0,
brightest at 2 t, t in the middle (at t - |t| and t + |t| for t below 0, at -1 and 1 for t = 0). Pictures of one model
can therefore be compared, within a run and between runs; values beyond the ends are cut.
"""

import heapq
import math
import threading
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganspect.evaluation.plots import BLACK, BLUE, VERMILION, coloured, outlined
from ganspect.reproduce.inputs import SHEET
from ganspect.training.files import atomic_write

PER_SHEET, MOST_SHEETS, COLUMNS, THUMBNAIL = 60, 20, 10, 160
_STRIP = 1 << 20  # pixels that are worked on at once
_SHARE = 0.5  # of the brightest colour in an overlay
_LINE, _MARGIN = 15, 5  # pixels
_TABLE = coloured(np.arange(256)[None], 0, 255)[0]  # [256, 3]


def scale_of(pixel_threshold):
    """Values of the darkest and of the brightest colour, the threshold midway."""
    reach = abs(pixel_threshold) or 1.0
    return pixel_threshold - reach, pixel_threshold + reach


def heat_map(values, low, high):
    """A map in colours: float `[H, W]` to uint8 `[H, W, 3]`; little more memory than the result."""
    picture = np.empty((*values.shape, 3), np.uint8)
    for rows, _ in _strips(values.shape):
        picture[rows] = _TABLE[_levels(values[rows], low, high)]
    return picture


def overlay(image, values, low, high, threshold, region=None):
    """An image under its heat map, which is transparent where it is dark; pixels from `threshold` on outlined.

    Args:
        image: uint8 `[H, W, C]`, C = 1 or 3.
        values: float `[H, W]`.
        low, high: values of the darkest and of the brightest colour.
        threshold: on the map.
        region: bool `[H, W]`, outlined too, or None. Outside it nothing is drawn.

    Returns:
        uint8 `[H, W, 3]`.
    """
    picture = np.empty((*values.shape, 3), np.uint8)
    for rows, around in _strips(values.shape):  # outlines need the neighbouring rows
        inside = None if region is None else region[around]
        levels, called = _levels(values[around], low, high), values[around] >= threshold
        if inside is not None:
            levels, called = np.where(inside, levels, np.uint8(0)), called & inside
        share = levels[..., None] * np.float32(_SHARE / 255)
        mixed = image[around] * (1 - share) + _TABLE[levels] * share  # [h, W, 3]
        first = rows.start - around.start
        drawn = outlined(np.rint(mixed).astype(np.uint8), called, inside)
        picture[rows] = drawn[first : first + rows.stop - rows.start]
    return picture


def _levels(values, low, high):
    share = (np.nan_to_num(np.asarray(values, np.float32), nan=low) - low) / (high - low)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def _strips(shape):
    """Rows, and the same rows with a neighbour on each side."""
    step = max(1, _STRIP // max(1, shape[1]))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        yield slice(start, stop), slice(max(start - 1, 0), min(stop + 1, shape[0]))


def thumbnail(image, values, low, high, threshold, region=None):
    """A small overlay, at most `THUMBNAIL` pixels a side. Arguments and result as of `overlay`.

    When it is reduced, each of its pixels has the highest value of those it stands for: small defects are still seen.
    """
    height, width = values.shape
    share = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(height * share)), max(1, round(width * share))
    if size == (height, width):
        whole = overlay(image, values, low, high, threshold, region)
        times = THUMBNAIL // max(height, width)  # small images are enlarged as far as they fit
        return whole.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else whole
    starts = [np.arange(n) * full // n for n, full in zip(size, (height, width), strict=True)]
    small = _blocks(values, starts)
    inside = None if region is None else _blocks(region, starts)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.resize(size[::-1], Image.Resampling.BILINEAR, reducing_gap=2.0)
    reduced = np.asarray(picture).reshape(*size, -1)
    return overlay(reduced, small, low, high, threshold, inside)


def _blocks(values, starts):
    return np.maximum.reduceat(np.maximum.reduceat(values, starts[0], axis=0), starts[1], axis=1)


def save_png(path, pixels):
    """Writes a picture, whole or not at all; makes its folder.

    Raises:
        OSError: it cannot be written.
    """

    with atomic_write(path, "wb") as file:
        Image.fromarray(pixels).save(file, "PNG", compress_level=3)


def save_map(path, values):
    """Writes a map as float32 `.npy`, whole or not at all; makes its folder.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(path, "wb") as file:
        np.save(file, np.asarray(values, np.float32))


class ContactSheets:
    """Thumbnails sorted by score, the most anomalous first, `PER_SHEET` on a sheet and at most `MOST_SHEETS` sheets.

    Of more images only the most anomalous are kept, which bounds the memory.
    """

    def __init__(self):
        self._kept, self.count, self._lock = [], 0, threading.Lock()

    def add(self, score, number, picture, name, anomalous):
        """Adds an image; several threads may.

        Args:
            score: of the image.
            number: its place in the input; of equal scores the first counts as more anomalous.
            picture: uint8 `[H, W, 3]`, at most `THUMBNAIL` a side.
            name: printed under it.
            anomalous: its label.
        """
        entry = (score, -number, picture, name, anomalous)
        with self._lock:
            self.count += 1
            if len(self._kept) < self.room:
                heapq.heappush(self._kept, entry)
            else:
                heapq.heappushpop(self._kept, entry)

    @property
    def room(self):
        """Most images that are drawn."""
        return PER_SHEET * MOST_SHEETS

    def order(self):
        """Names of the images as they are drawn."""
        return [entry[3] for entry in self._sorted()]

    def _sorted(self):
        return sorted(self._kept, key=lambda entry: entry[:2], reverse=True)

    def write(self, folder):
        """Writes contact_sheet.png, contact_sheet_2.png, ...; removes sheets of an earlier run beyond these.

        Returns:
            How many sheets.
        """
        folder, entries = Path(folder), self._sorted()
        sheets = math.ceil(len(entries) / PER_SHEET)
        for i in range(sheets):
            name = f"contact_sheet_{i + 1}.png" if i else "contact_sheet.png"
            save_png(folder / name, _sheet(entries[i * PER_SHEET : (i + 1) * PER_SHEET]))
        for path in folder.glob("contact_sheet*.png"):
            found = SHEET.fullmatch(path.name)
            if found and int(found[1] or 1) > sheets:
                path.unlink()
        return sheets


def _sheet(entries):
    """One sheet, uint8 `[H, W, 3]`."""
    across, down = min(COLUMNS, len(entries)), math.ceil(len(entries) / COLUMNS)
    cell = THUMBNAIL + 2 * _MARGIN
    below = 3 * _LINE + _MARGIN
    page = Image.new("RGB", (across * cell, down * (cell + below)), "white")
    draw, font = ImageDraw.Draw(page), _font()
    for i, (score, _, picture, name, anomalous) in enumerate(entries):
        left, top = i % COLUMNS * cell, i // COLUMNS * (cell + below)
        height, width = picture.shape[:2]
        x, y = left + (cell - width) // 2, top + (cell - height) // 2
        colour = VERMILION if anomalous else BLUE
        draw.rectangle((x - 3, y - 3, x + width + 2, y + height + 2), outline=colour, width=3 if anomalous else 1)
        page.paste(Image.fromarray(picture), (x, y))
        lines = (_fitting(draw, font, name), f"{score:.5g}", "anomalous" if anomalous else "normal")
        for k, (text, shade) in enumerate(zip(lines, (BLACK, BLACK, colour), strict=True)):
            draw.text((left + _MARGIN, top + cell + k * _LINE), text, fill=shade, font=font)
    return np.asarray(page)


def _font():
    try:
        return ImageFont.load_default(size=12)
    except (ImportError, OSError):  # Pillow without FreeType
        return ImageFont.load_default()


def _fitting(draw, font, name):
    """The end of a name that fits under a thumbnail, in printable characters of the fonts at hand."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    if not isinstance(font, ImageFont.FreeTypeFont):
        name = name.encode("latin-1", "replace").decode("latin-1")
    text = name[-60:]
    while len(text) > 1 and draw.textlength(text if text == name else f"...{text}", font=font) > THUMBNAIL:
        text = text[1:]
    return text if text == name else f"...{text}"
