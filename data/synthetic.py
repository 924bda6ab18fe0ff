"""The synthetic data set: five categories in the MVTec layout, written from a seed, no download.

Every image is a function of (seed, category, split, defect, index, size) alone, drawn by NumPy's generator, so a subset
equals the same part of a larger set. `textures` and `objects` draw the pictures.
"""

import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ganspect.data.check import digest_of
from ganspect.data.drawing import Scene
from ganspect.data.images import DataError
from ganspect.data.objects import DISC_DEFECTS, TABLET_DEFECTS, disc, tablet
from ganspect.data.textures import CLOUD_DEFECTS, FIBRE_DEFECTS, WEAVE_DEFECTS, clear_ground, fibres, weave

# category: its scene and its kinds of defects
SCENES: dict[str, tuple[Scene, tuple[str, ...]]] = {
    "fibres": (fibres, tuple(FIBRE_DEFECTS)),
    "weave": (weave, WEAVE_DEFECTS),
    "object": (tablet, tuple(TABLET_DEFECTS)),
    "disc": (disc, ("burr", *DISC_DEFECTS)),
    "cloud": (clear_ground, tuple(CLOUD_DEFECTS)),
}
CATEGORIES = tuple(SCENES)
VERSION = 1  # of the pictures: raise it when a scene changes
MANIFEST = "manifest.json"


def defects_of(category: str) -> tuple[str, ...]:
    """The kinds of defects of a category."""
    return SCENES[category][1]


def render(category: str, split: str, defect: str, index: int, size: int = 128, seed: int = 0):
    """Draw one image.

    Args:
        category: one of `CATEGORIES`.
        split: "train" or "test".
        defect: "good" or one of `defects_of(category)`.
        index: 0, 1, 2, ...
        size: pixels a side, a multiple of 8, at least 32.
        seed: of the whole set.

    Returns:
        (image uint8 `[size, size]` or `[size, size, 3]`, mask bool `[size, size]`, region of interest bool or None).
    """
    parts = (category, split, defect)
    rng = np.random.default_rng([seed, index, size, *(zlib.crc32(part.encode()) for part in parts)])
    image, mask, roi = SCENES[category][0](rng, size, defect)
    return np.floor(np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), mask, roi


def make(
    root, categories=CATEGORIES, size: int = 128, train: int = 24, good: int = 8, per_defect: int = 6, seed: int = 0
) -> Path:
    """Write categories as `<root>/synthetic/<category>` in the MVTec layout, with `roi/` for object and disc.

    A category that is there already with the same settings is left alone. One with other settings is replaced only when
    all its files are still exactly as this function wrote them.

    Args:
        root: data root; made when missing.
        categories: some of `CATEGORIES`.
        size: pixels a side, a multiple of 8, at least 32.
        train: training images of each category.
        good: normal test images.
        per_defect: test images of each kind of defect.
        seed: another seed gives another set.

    Returns:
        `<root>/synthetic`.

    Raises:
        ValueError: an unknown category, or a size that is no multiple of 8 from 32 on.
        DataError: the place is taken by something else, or by a copy that was changed since.
    """
    unknown = sorted(set(categories) - set(CATEGORIES))
    if unknown:
        raise ValueError(f"unknown synthetic categories {', '.join(unknown)}; there are {', '.join(CATEGORIES)}")
    if size < 32 or size % 8:
        raise ValueError(f"size must be a multiple of 8 from 32 on, not {size}")
    folder = Path(root) / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"train": train, "good": good, "per_defect": per_defect}
    for category in categories:
        settings = {"version": VERSION, "category": category, "size": size, "seed": seed, **counts}
        if not _is_there(folder / category, settings):
            _write_category(folder, category, settings)
    return folder


def _is_there(place: Path, settings: dict) -> bool:
    """Whether the category exists with these settings; False also when an untouched older one may be replaced."""
    if not place.exists():
        return False
    try:
        manifest = json.loads((place / MANIFEST).read_text())
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(place, "exists and was not written by `ganspect data make`: choose another folder") from None
    present = {p.relative_to(place).as_posix(): p for p in place.rglob("*") if p.is_file() and p.name != MANIFEST}
    if present.keys() != files.keys() or any(digest_of(p.read_bytes()) != files[name] for name, p in present.items()):
        raise DataError(place, "was changed since it was written: delete it, or choose another folder")
    return manifest["settings"] == settings


def _write_category(folder: Path, category: str, settings: dict):
    """Write a category beside its place, then move it there; what it replaces goes last."""
    work = Path(tempfile.mkdtemp(dir=folder, prefix=f".{category}."))
    try:
        place, fresh = folder / category, work / "new"
        files = {name: _save(fresh / name, pixels) for name, pixels in _pictures(category, settings)}
        text = json.dumps({"settings": settings, "files": files}, indent=1, sort_keys=True)
        (fresh / MANIFEST).write_text(text + "\n")
        if place.exists():
            os.replace(place, work / "old")
        try:
            os.replace(fresh, place)
        except OSError:
            if not _is_there(place, settings):  # else another process has just written the same
                raise
    finally:
        shutil.rmtree(work)


def _pictures(category: str, settings: dict):
    """Yield (name, pixels) of every file of a category."""
    plan = [("train", "good", settings["train"]), ("test", "good", settings["good"])]
    plan += [("test", defect, settings["per_defect"]) for defect in defects_of(category)]
    for split, defect, count in plan:
        for index in range(count):
            image, mask, roi = render(category, split, defect, index, settings["size"], settings["seed"])
            yield f"{split}/{defect}/{index:03d}.png", image
            if defect != "good":
                yield f"ground_truth/{defect}/{index:03d}_mask.png", mask.astype(np.uint8) * 255
            if roi is not None:
                yield f"roi/{split}/{defect}/{index:03d}.png", roi.astype(np.uint8) * 255


def _save(path: Path, pixels: np.ndarray) -> str:
    """Write a PNG and return its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return digest_of(path.read_bytes())
