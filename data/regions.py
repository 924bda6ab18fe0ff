"""Regions of interest: made by a recipe where the user has drawn none, written as files, or kept beside the images.

A region is bool `[H, W]`, true inside. A recipe declares how an image's region is found: by brightness (`threshold`,
follows the object), or at a fixed place (`polygon`, `ring`: camera and object do not move). Places are fractions of the
image, so that they hold at any size; margins are pixels of the image that the recipe is given.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.filters import threshold_otsu

from ganspect.data.arrays import CategoryArrays, write_atomically
from ganspect.data.images import EXTENSIONS, DataError, read_image, read_mask
from ganspect.data.known import CROP_ROWS
from ganspect.data.samples import Category, Sample, region_stem, scan

__all__ = [
    "RegionRecipe",
    "WrittenRegions",
    "add_regions",
    "polygon_region",
    "ring_region",
    "threshold_region",
    "with_regions",
    "write_regions",
]

_SETTINGS = {
    "threshold": ("level", "bright", "margin", "largest", "fill"),
    "polygon": ("points",),
    "ring": ("centre", "outer", "inner"),
}
_SHOWN = 5


def threshold_region(
    image: np.ndarray,
    level: float | None = None,
    bright: bool = True,
    margin: int = 0,
    largest: bool = True,
    fill: bool = True,
) -> np.ndarray:
    """The pixels brighter (or not brighter) than a level: an object on a plain background.

    Args:
        image: uint8 `[H, W, C]`; its gray level is the mean over the channels.
        level: gray level in 0..255; Otsu's, which parts the image's own levels best, where not given. An image of one
            gray level alone has nothing to part: without a level all of it is inside.
        bright: inside is gray > level; otherwise gray <= level.
        margin: pixels by which the region grows, or shrinks where negative, measured to the centres of pixels. The
            image's border is no edge: a region that touches it does not shrink there.
        largest: keep only the largest part (8-connected; the first one in reading order among equals).
        fill: close holes, before the margin.

    Returns:
        bool `[H, W]`; empty where no pixel is inside the level, or where shrinking leaves none.
    """
    sums, channels = np.asarray(image).sum(axis=2, dtype=np.int64), np.shape(image)[2]
    gray = sums / channels
    if level is None:
        if sums.min() == sums.max():
            return np.ones(sums.shape, bool)
        counts = np.bincount(
            sums.ravel()
        )  # one bin for each level: the centre of a wider one would part its own pixels
        level = threshold_otsu(hist=(counts, np.arange(len(counts)))) / channels
    region = gray > level if bright else gray <= level
    if largest:
        parts, count = ndimage.label(region, np.ones((3, 3)))
        region = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count else region
    region = ndimage.binary_fill_holes(region) if fill else region
    if margin == 0 or region.all() or not region.any():  # without an edge there is no distance to it
        return region
    if margin > 0:
        return ndimage.distance_transform_edt(~region) <= margin
    return ndimage.distance_transform_edt(region) > -margin


def polygon_region(height: int, width: int, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """The pixels whose centres lie in a polygon.

    Args:
        height: pixels.
        width: pixels.
        points: at least three corners (x, y), fractions of width and height in [0, 1].

    Returns:
        bool `[H, W]`.

    Raises:
        ValueError: fewer than three points, or one outside the image.
    """
    corners = _points(points)
    rows_columns = corners[:, ::-1] * (height, width) - 0.5  # pixel i has its centre at i + 0.5 pixels
    return polygon2mask((height, width), rows_columns)


def ring_region(height: int, width: int, centre: tuple[float, float], outer: float, inner: float = 0.0) -> np.ndarray:
    """The pixels whose centres lie between two circles; a disc where `inner` is 0.

    Args:
        height: pixels.
        width: pixels.
        centre: (x, y), fractions of width and height in [0, 1].
        outer: radius of the outer circle, a fraction of the image's smaller side.
        inner: radius of the inner circle, likewise.

    Returns:
        bool `[H, W]`.

    Raises:
        ValueError: a centre outside the image, or radii that are not 0 <= inner < outer.
    """
    (x, y) = _points([centre], 1)[0]
    if not 0 <= inner < outer < math.inf:
        raise ValueError(f"a ring needs 0 <= inner < outer, not inner {inner} and outer {outer}")
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(rows + 0.5 - y * height, columns + 0.5 - x * width) / min(height, width)
    return (distance <= outer) & (distance >= inner)


@dataclass(frozen=True)
class RegionRecipe:
    """How an image's region of interest is found: `RegionRecipe("threshold", margin=2)(image)`.

    The settings are those of `threshold_region`, `polygon_region` or `ring_region`.

    Raises:
        ValueError: an unknown kind, a setting of another kind, or one that its function refuses.
    """

    kind: str  # "threshold", "polygon" or "ring"
    level: float | None = None  # threshold: gray level, Otsu's where None
    bright: bool = True
    margin: int = 0  # pixels
    largest: bool = True
    fill: bool = True
    points: tuple[tuple[float, float], ...] = ()  # polygon: (x, y), fractions of width and height
    centre: tuple[float, float] = (0.5, 0.5)  # ring: (x, y), fractions of width and height
    outer: float = 0.5  # fractions of the smaller side
    inner: float = 0.0
    remark: str = ""  # how the recipe was chosen; in the note of the regions that it makes

    def __post_init__(self):
        if self.kind not in _SETTINGS:
            raise ValueError(f"a region is one of {', '.join(_SETTINGS)}, not {self.kind!r}")
        for kind, names in _SETTINGS.items():
            for name in names if kind != self.kind else ():
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(f"{name} is a setting of a {kind} region, not of a {self.kind} region")
        if self.level is not None and not 0 <= self.level <= 255:
            raise ValueError(f"level is a gray level in 0..255, not {self.level}")
        self(np.zeros((2, 2, 1), np.uint8))  # refuses wrong places and radii

    @property
    def fixed(self) -> bool:
        """Whether the region is at one place whatever the image shows."""
        return self.kind != "threshold"

    @property
    def text(self) -> str:
        """What the recipe does, in words, for the notes beside figures."""
        if self.kind == "polygon":
            corners = " ".join(f"{x:g},{y:g}" for x, y in self.points)
            return f"the polygon {corners} (x,y in fractions of width and height)"
        if self.kind == "ring":
            place = f"around {self.centre[0]:g},{self.centre[1]:g} (x,y in fractions of width and height)"
            radii = f"{self.inner:g} to {self.outer:g}" if self.inner else f"up to {self.outer:g}"
            return f"the {'ring' if self.inner else 'disc'} {place}, {radii} of the smaller side"
        level = "Otsu's level" if self.level is None else f"gray level {self.level:g}"
        parts = [f"pixels {'above' if self.bright else 'at or below'} {level}"]
        parts += ["largest part"] * self.largest + ["holes filled"] * self.fill
        if self.margin:
            pixels = f"{abs(self.margin)} pixel{'s' if abs(self.margin) > 1 else ''}"
            parts.append(f"{'grown' if self.margin > 0 else 'shrunk'} by {pixels}")
        return ", ".join(parts)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """bool `[H, W]` of a uint8 image `[H, W, C]`; of a fixed region only the image's size matters."""
        settings = {name: getattr(self, name) for name in _SETTINGS[self.kind]}
        if self.kind == "threshold":
            return threshold_region(image, **settings)
        make = polygon_region if self.kind == "polygon" else ring_region
        return make(*image.shape[:2], **settings)


def add_regions(arrays: CategoryArrays, recipe: RegionRecipe) -> CategoryArrays:
    """The category with a region for every image: the user's own where there is one, else the recipe's.

    A note says what was made. The category itself where every image has its own region already.
    """
    made = 0
    filled = {}
    empty = []
    for split, field, names in (("train", "train_rois", "train_names"), ("test", "rois", "test_names")):
        images = getattr(arrays, split)
        own = getattr(arrays, field) or [None] * len(images)
        filled[field] = [recipe(image) if region is None else region for image, region in zip(images, own, strict=True)]
        new = [i for i, region in enumerate(own) if region is None]
        made += len(new)
        empty += [getattr(arrays, names)[i] for i in new if not filled[field][i].any()]
    if not made:
        return arrays
    total = len(arrays.train) + len(arrays.test)
    which = "" if made == total else f" for {made} of {total} images, the others have their own"
    chosen = f" ({recipe.remark})" if recipe.remark else ""
    notes = [*arrays.notes, f"regions of interest made{chosen}{which}: {recipe.text}"]
    if empty:
        notes.append(f"regions of interest made empty: {_listed(empty)}")
    return replace(arrays, **filled, notes=tuple(notes))


def with_regions(images: Sequence[np.ndarray], rois: Sequence[np.ndarray | None] | None) -> list[np.ndarray]:
    """The images with their regions as a last channel, so that whatever turns and cuts an image does so to its region.

    Args:
        images: uint8 `[H, W, C]` each, of any sizes.
        rois: bool `[H, W]` each; None for an image, or for all, means that everything is inside.

    Returns:
        uint8 `[H, W, C + 1]` each, the last channel 255 inside and 0 outside.

    Raises:
        ValueError: unequal lengths, or a region that is not of its image's size.
    """
    stacked = []
    for image, roi in zip(images, [None] * len(images) if rois is None else rois, strict=True):
        roi = np.ones(image.shape[:2], bool) if roi is None else np.asarray(roi, bool)
        if roi.shape != image.shape[:2]:
            raise ValueError(f"region {roi.shape} of an image {image.shape[:2]}")
        stacked.append(np.concatenate([image, roi[:, :, None] * np.uint8(255)], axis=2))  # [H, W, C + 1]
    return stacked


@dataclass(frozen=True)
class WrittenRegions:
    """What `write_regions` did."""

    recipe: RegionRecipe
    root: Path  # the folder that holds roi/ or roi.png
    files: tuple[Path, ...]  # every region's file
    new: int  # how many of them were not there before
    shares: np.ndarray  # float64 [len(files)], share of each region's pixels that is inside

    @property
    def text(self) -> str:
        """For the terminal: the files, the recipe, the share inside, and a warning where a region tells nothing."""
        single = self.files == (self.root / "roi.png",)
        place = self.files[0] if single else self.root / "roi"
        what = "1 region for all images" if single else f"{len(self.files)} regions"
        lines = [f"{place}: {what} ({self.new} written, {len(self.files) - self.new} there already)"]
        lines.append(f"  recipe   {self.recipe.text}")
        low, middle, high = (f"{100 * f(self.shares):.1f} %" for f in (np.min, np.median, np.max))
        spread = low if single else f"{low} to {high}, median {middle}"
        lines.append(f"  inside   {spread} of the pixels")
        for value, word in ((0, "empty"), (1, "the whole image")):
            names = [path.relative_to(self.root).as_posix() for path in np.array(self.files)[self.shares == value]]
            lines += [f"  warning  {word}: {_listed(names)}"] if names else []
        return "\n".join(lines)


def write_regions(category_path, recipe: RegionRecipe, output=None, single: bool = False) -> WrittenRegions:
    """Write the recipe's region of every image of a category, where `scan` looks for them.

    Nothing is written before all regions are made and no file is in their way; each file is written whole or not at
    all, and a file that is there already is never replaced.

    Args:
        category_path: a category's folder, of any layout that `scan` knows.
        recipe: how the regions are found, on the files' own pixels.
        output: folder for `roi/<split>/<defect>/<stem>.png`; the category's own folder when not given.
        single: write one `roi.png` for all images instead: a fixed recipe and images of one size only.

    Raises:
        DataError: an image cannot be read; two images share a stem; sizes differ; another region is there.
        ValueError: `single` with a recipe that follows the image.
    """
    category = scan(category_path)
    root = category.root if output is None else Path(output)
    if single:
        regions = {root / "roi.png": _single(category, recipe)}
    else:
        regions = {}
        for sample in category.samples:
            path = root / "roi" / sample.split / sample.defect / f"{sample.path.stem}.png"
            if path in regions:
                raise DataError(sample.path, "another image of this folder has the same stem: one region for two")
            regions[path] = recipe(read_image(sample.path, category.channels))
    if not regions:
        raise DataError(category.root, "no images")
    new = [path for path, region in regions.items() if not _is_there(path, region)]
    for path in new:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(regions[path] * np.uint8(255)).save(buffer, "PNG")
        write_atomically(path, buffer.getbuffer())
    shares = np.array([region.mean() for region in regions.values()])
    return WrittenRegions(recipe, root, tuple(regions), len(new), shares)


def _single(category: Category, recipe: RegionRecipe) -> np.ndarray:
    """The one region of images that all have the same size (where NanoTWICE's are cut, after the cut)."""
    if not recipe.fixed:
        raise ValueError("one region for all images is at a fixed place: a polygon or a ring, no threshold")
    rows = CROP_ROWS.get(category.dataset)
    sizes: dict[tuple[int, ...], Sample] = {}
    for sample in category.samples:
        image = read_image(sample.path, 1, crop_rows=rows)
        sizes.setdefault(image.shape[:2], sample)
    if len(sizes) > 1:
        named = ", ".join(f"{sample.name} is {width}x{height}" for (height, width), sample in sizes.items())
        raise DataError(category.root, f"one region for all images needs images of one size: {named}")
    return recipe(np.zeros((*next(iter(sizes), (1, 1)), 1), np.uint8))


def _is_there(path: Path, region: np.ndarray) -> bool:
    """Whether the file holds this very region already; an error where something else is in its way."""
    if path.parent.is_dir():
        for other in sorted(path.parent.iterdir()):
            if other != path and other.suffix.lower() in EXTENSIONS and region_stem(other) == path.stem:
                raise DataError(other, f"a region of the same image is there: {path.name} is not written")
    if not path.exists():
        return False
    if not np.array_equal(read_mask(path), region):
        raise DataError(path, "exists with other contents: delete it, or choose another output folder")
    return True


def _points(points, least: int = 3) -> np.ndarray:
    """float64 `[N, 2]` of (x, y) fractions, checked."""
    corners = np.asarray(points, np.float64)
    if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < least:
        raise ValueError(f"at least {least} points (x, y) are needed" if least > 1 else f"no point (x, y): {points}")
    if not ((corners >= 0) & (corners <= 1)).all():  # also true for NaN
        raise ValueError(f"points are fractions of width and height in [0, 1], not {corners.tolist()}")
    return corners


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} image{'s' if len(names) > 1 else ''} ({', '.join(names[:_SHOWN])}{more})"
