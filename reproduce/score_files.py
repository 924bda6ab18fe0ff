"""Scores files with an exported model: decoded ahead in threads, in batches of one size, pictures written behind.

What is held at any time is bounded: decoded images that wait, batches that fill, pictures that are written.
"""

import csv
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ganspect.data.images import DataError, decode_image, read_bytes, read_mask, to_array
from ganspect.reproduce import pictures
from ganspect.reproduce.ahead import Ahead, Behind
from ganspect.reproduce.inputs import find, printable
from ganspect.reproduce.served import first_line
from ganspect.training.files import atomic_write

SMALL = 1 / 4  # of the side that a model sees: what it sees of smaller images is mostly interpolation
COLUMNS = ("path", "score", "calibrated_score", "threshold", "label", "milliseconds", "error", "output")
BATCH, BATCH_PIXELS = 16, 1 << 19  # most images and most pixels of a batch, unless asked otherwise
WAITING = 64e6  # bytes: of decoded images ahead, of batches that fill, and of pictures behind, each


@dataclass
class Row:
    """One line of predictions.csv.

    Args:
        path: of the image, valid text.
        score: higher = more anomalous; None where it could not be scored.
        calibrated_score: 0 for a typical normal image, 1 at the model's threshold.
        threshold: what `label` compares the score with.
        label: "normal", "anomalous", or empty.
        milliseconds: time in the model; of a batch, its share.
        error: what went wrong, or empty.
        output: name of pictures and maps, below heatmaps/, overlays/ and maps/, without ending.
    """

    path: str
    score: float | None = None
    calibrated_score: float | None = None
    threshold: float | None = None
    label: str = ""
    milliseconds: float | None = None
    error: str = ""
    output: str = ""

    def cells(self):
        """Text in the order of `COLUMNS`; numbers with the nine digits that give a float32 back."""
        values = (getattr(self, name) for name in COLUMNS)
        return ["" if v is None else f"{v:.9g}" if isinstance(v, float) else v for v in values]


def write_rows(path, rows):
    """Writes predictions.csv in UTF-8, whole or not at all; bytes of names that are no UTF-8 are written `\\xff`."""
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([cell.replace("\0", "?") for cell in row.cells()] for row in rows)


class Regions:
    """Regions of interest: one for all images, or a folder of files that are named like the images.

    In a folder a file below it at the image's place comes first (`sub/a.png` for `sub/a.jpg`), then `a.png`.

    Args:
        path: file or folder.

    Raises:
        ValueError: nothing there, no image in it, or two files for one name.
    """

    def __init__(self, path):
        self.path, self._named = Path(path), None
        if self.path.is_dir():
            items = [item for item in find([path], os.devnull).items if not item.error]
            self._named = {}
            for item in items:
                name = os.path.splitext(os.path.relpath(item.path, path))[0]
                if name in self._named:
                    raise ValueError(f"two regions of interest for {printable(name)} in {printable(os.fspath(path))}")
                self._named[name] = item.path
            if not items:
                raise ValueError(f"no region of interest in {printable(os.fspath(path))}")
        else:
            try:
                data = read_bytes(path)
                read_mask(path, data=data)
            except DataError as error:
                raise ValueError(f"region of interest {error}") from error
            # one picture for all: resized once for each size of image
            self._single = lru_cache(maxsize=2)(lambda size: read_mask(path, size, data=data))

    def of(self, item, base, size):
        """The region of an image.

        Args:
            item: `inputs.Item`.
            base: folder that output names are relative to.
            size: (height, width) to resize to, nearest neighbour.

        Returns:
            bool `[H, W]`.

        Raises:
            DataError: there is none, it is empty, or cannot be decoded.
        """
        if self._named is None:
            region, path = self._single(size), self.path
        else:
            stem = os.path.splitext(os.path.relpath(os.path.abspath(item.path), base or os.curdir))[0]
            path = self._named.get(stem) or self._named.get(os.path.basename(stem))
            if path is None:
                raise DataError(item.path, f"no region of interest named {printable(os.path.basename(stem))}")
            region = read_mask(path, size)
        if not region.any():
            raise DataError(path, "the region of interest is empty")
        return region


@dataclass
class Loaded:
    """A decoded image on its way: its place, pixels `[H, W, C]`, region `[H, W]` or None; or why there is none."""

    index: int
    image: np.ndarray | None = None
    region: np.ndarray | None = None
    error: str = ""

    @property
    def weight(self):
        """Bytes."""
        return sum(array.nbytes for array in (self.image, self.region) if array is not None)


class FileScorer:
    """Scores the files that `find` found.

    Args:
        model: `Served`, loaded.
        output: folder of results.
        regions: `Regions`, or None.
        base: folder that output names are relative to.
        threshold: for labels; None for the model's own.
        tiling: `Tiling` for images larger than a tile, or None.
        batch_size: images of one size at once; None: what `BATCH` and `BATCH_PIXELS` allow. A batch is never larger
            than `WAITING` allows, one image excepted.
        images, maps: whether to write pictures, and raw maps.
    """

    def __init__(self, model, output, regions=None, base="", threshold=None, tiling=None, batch_size=None,
                 images=True, maps=False):  # fmt: skip
        self.model, self.output, self.regions, self.base = model, Path(output), regions, base
        self.warned = []  # (what is odd about a file that was scored all the same, its path)
        self.own_threshold = threshold is None
        self.threshold = model.threshold if threshold is None else threshold
        self.tiling, self.batch_size, self.images, self.maps = tiling, batch_size, images, maps
        self.limits = pictures.scale_of(model.pixel_threshold)
        self.sheets = pictures.ContactSheets()
        self.rows = []

    def run(self, items, done=lambda: None):
        """Scores everything; `rows` is complete at any time, so that what is known survives an interruption.

        Args:
            items: list of `inputs.Item`.
            done: called after each file.

        Returns:
            `Row`s, one for each item, in their order.
        """
        self.rows = [Row(item.shown, error=item.error or "not scored: interrupted") for item in items]
        self.items = items
        waiting = [i for i, item in enumerate(items) if not item.error]
        threads = 1 if self.tiling else 2  # two images that are too large for memory are not decoded at once
        ahead = Ahead(waiting, self._load, lambda loaded: loaded.weight, threads, WAITING)
        behind = Behind(2, WAITING)
        try:
            for _ in range(len(items) - len(waiting)):
                done()
            for batch in self._batches(ahead, done):
                self._score(batch, behind)
                for _ in batch:
                    done()
            behind.finish()
        finally:
            ahead.close()
            behind.close()
        return self.rows

    def _load(self, index):
        """Decodes one file; whatever is wrong with it ends up in `error`."""
        item = self.items[index]
        try:
            decoded = decode_image(item.path)
            self.warned.extend((text, item.path) for text in decoded.warnings)
            image = to_array(decoded.image, self.model.channels)
            height, width = image.shape[:2]
            least = self.model.smallest
            if height < least[0] or width < least[1]:
                reason = f"too small: {width}x{height} pixels, the model needs at least {least[1]}x{least[0]}"
                return Loaded(index, error=reason)
            if min(height, width) < SMALL * self.model.seen:
                text = f"a side is less than a quarter of the {self.model.seen} pixels that the model sees"
                self.warned.append((text, item.path))
            region = self.regions.of(item, self.base, (height, width)) if self.regions else None
            return Loaded(index, image, region)
        except DataError as error:
            return Loaded(index, error=error.reason if error.path == Path(item.path) else str(error))
        except Exception as error:
            return Loaded(index, error=f"cannot be decoded ({first_line(error)})")

    def _batches(self, ahead, done):
        """Images of equal size together; those of rare sizes wait, as long as not too many do."""
        filling, held = {}, 0
        for loaded in ahead:
            if loaded.error:
                self.rows[loaded.index].error = _line(loaded.error)
                done()
                continue
            size = loaded.image.shape[:2]
            if self._tiled(size):
                yield [loaded]
                continue
            filling.setdefault(size, []).append(loaded)
            held += loaded.weight
            full = size if len(filling[size]) >= self._batch_of(size) else None
            while full or held > WAITING:
                full = full or max(filling, key=lambda s: sum(x.weight for x in filling[s]))
                batch, full = filling.pop(full), None
                held -= sum(x.weight for x in batch)
                yield batch
                del batch
            del loaded
        for size in list(filling):
            yield filling.pop(size)

    def _batch_of(self, size):
        return self.batch_size or max(1, min(BATCH, BATCH_PIXELS // (size[0] * size[1])))

    def _tiled(self, size):
        return self.tiling is not None and max(size) > self.tiling.tile

    def _score(self, batch, behind):
        """Scores a batch; where the model fails, each of its images alone."""
        start = time.perf_counter()
        try:
            if self._tiled(batch[0].image.shape[:2]):
                answers = [self.model.answer_tiled(batch[0].image, self.tiling, batch[0].region)]
            else:
                images = np.stack([x.image for x in batch]) if len(batch) > 1 else batch[0].image[None]
                regions = np.stack([x.region for x in batch]) if self.regions else None
                answers = self.model.answer(images, regions)
                del images, regions
        except Exception as error:  # TensorFlow raises many kinds; the other images shall be scored
            if len(batch) > 1:
                for one in batch:
                    self._score([one], behind)
            else:
                self.rows[batch[0].index].error = _line(f"the model failed ({first_line(error)})")
            return
        milliseconds = (time.perf_counter() - start) * 1000 / len(batch)
        for loaded, answer in zip(batch, answers, strict=True):
            self._note(loaded, answer, milliseconds)
            if self.rows[loaded.index].score is not None and (self.images or self.maps):
                weight = loaded.weight + 8 * answer.anomaly_map.nbytes  # the map and the pictures that are made of it
                behind.add(lambda x=loaded, values=answer.anomaly_map: self._write(x, values), weight)

    def _note(self, loaded, answer, milliseconds):
        """Fills the row of one image."""
        row = self.rows[loaded.index]
        if not np.isfinite(answer.score):
            row.error = f"the score is {answer.score}" + (
                ": the region is lost inside" if loaded.region is not None else ""
            )
            return
        anomalous = answer.anomalous if self.own_threshold else self.model.reaches(answer.score, self.threshold)
        row.score, row.calibrated_score, row.threshold = answer.score, answer.calibrated_score, self.threshold
        row.label, row.milliseconds, row.error = "anomalous" if anomalous else "normal", milliseconds, ""
        row.output = self.items[loaded.index].output

    def _write(self, loaded, values):
        """Pictures and map of one image; what cannot be written is an error of its row, which keeps its score."""
        row = self.rows[loaded.index]
        scale = (*self.limits, self.model.pixel_threshold, loaded.region)
        try:
            if self.maps:
                pictures.save_map(self.output / "maps" / f"{row.output}.npy", values)
            if self.images:
                name = f"{row.output}.png"
                pictures.save_png(self.output / "heatmaps" / name, pictures.heat_map(values, *self.limits))
                pictures.save_png(self.output / "overlays" / name, pictures.overlay(loaded.image, values, *scale))
                small = pictures.thumbnail(loaded.image, values, *scale)
                self.sheets.add(row.score, loaded.index, small, row.output, row.label == "anomalous")
        except Exception as error:  # a full disk, a name too long, no memory
            row.error = _line(f"scored, but its pictures cannot be written ({first_line(error)})")


def _line(text):
    """Valid text in one line."""
    return printable(" ".join(text.split()))
