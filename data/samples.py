"""One scanner for every folder layout: typed samples with their labels, masks and regions of interest.

| layout | recognised by | training normals | test |
|---|---|---|---|
| MVTec | `train/good` | `train/good` | `test/<defect>`, masks `ground_truth/<defect>/<stem>_mask.*` |
| MVTec, normals named so (BTAD) | `train/ok`, `train/normal` | the same | as above |
| NanoTWICE | `Normal`, `Anomalous` | `Normal` | `Anomalous/images`, masks `Anomalous/gt/<stem>_gt.*` |
| casting | `train/ok_front` | `train/ok_front` | `test/ok_front`, `test/def_front`; no masks |
| cloud, as published | `noncloud`, `cloud` | `noncloud`, all but its last 15th by name | that 15th, `cloud`; no masks |
| cloud, the study's | `noncloud_train`, `noncloud_test`, `cloud` | `noncloud_train` | `noncloud_test`, `cloud` |
| cloud, arranged | `train/noncloud`, `test/noncloud`, `test/cloud` | `train/noncloud` | the two folders of `test` |
| plain folder | images directly inside | all of them | none |

The cloud archive is known from public code that loads `noncloud/noncloud` and `cloud/cloud`; the study's notebooks load
the second arrangement. Each of these folders must hold images, directly or, as published, in a folder of the same name;
case, `-`, `_` and spaces in their names do not matter. The archive has no split: which 100 of the 1500 images without
clouds the study tested on is not known, and taking the last by name is [inf].

In MVTec's layout the name of a folder of normal images may be any of `NORMAL_NAMES`, in any case. NanoTWICE is also
recognised by `Normal` alone in a folder of its name.

Masks and regions of interest (`roi/<split>/<defect>/<stem>.*` in the category's folder) are matched by stem, whatever
the extension. A single `roi.*` in the category's folder is the region of every image that has none in `roi/`: camera
and object at a fixed place. It is never an image, in a plain folder neither. An image's label is its folder, never its
mask. Nothing is decoded here: `check` does that.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ganspect.data.images import EXTENSIONS, FORMATS, DataError
from ganspect.data.known import MVTEC_CATEGORIES, OFFICIAL_COUNTS, SOURCES, Source

__all__ = [
    "NORMAL_NAMES",
    "OFFICIAL_COUNTS",
    "SOURCES",
    "Category",
    "DataError",
    "Sample",
    "Source",
    "find_categories",
    "held_out",
    "layout_of",
    "region_stem",
    "scan",
    "scan_kinds",
]

_GRAY_MODES = ("1", "L", "LA", "I", "F")

# folders of the cloud set: training normals, test normals, clouds; split ones first
_CLOUD_ARCHIVE = ("noncloud", "noncloud", "cloud")
_CLOUD_PLACES = (
    ("noncloudtrain", "noncloudtest", "cloud"),
    ("train/noncloud", "test/noncloud", "test/cloud"),
    _CLOUD_ARCHIVE,
)
NORMAL_NAMES = ("good", "ok", "normal")  # of folders of normal images, in lower case
_REGION_SUFFIXES = ("_roi", "_mask")
# Folders beside those of kinds that hold no test images, in lower case; image files that no reader here takes.
_PARTS = ("train", "training", "val", "valid", "validation", "test")  # of a set
_NO_KINDS = ("ground_truth", "groundtruth", "gt", "mask", "masks", "label", "labels", "annotations", "roi")
_UNREAD = (".gif", ".jp2", ".jpe", ".jfif", ".heic", ".heif", ".avif", ".pgm", ".ppm", ".dcm", ".npy", ".raw", ".exr")
_CLOUD_SHARE = 15  # one image in 15 is a normal test image where the archive is not split: 100 of 1500, as in the study


@dataclass(frozen=True)
class Sample:
    """One image and what belongs to it; `name` (posix path below the category's root) is used in score files."""

    path: Path
    split: str  # "train" or "test"
    defect: str  # folder name; "good" for normal
    label: int  # 0 normal, 1 anomalous
    mask_path: Path | None
    roi_path: Path | None
    name: str


@dataclass(frozen=True)
class Category:
    """The images of one category, and what the scanner noticed.

    `notes` must be printed beside any figure; `problems` (mask missing, stem used twice) are errors and `ignored`
    (files and folders left out) warnings of `check`.
    """

    dataset: str
    name: str
    root: Path
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    channels: int = 3  # 1 where the files are gray
    problems: tuple[tuple[Path, str], ...] = ()
    ignored: tuple[tuple[Path, str], ...] = ()

    @property
    def train(self) -> tuple[Sample, ...]:
        """Training images, all normal, in order of their names."""
        return tuple(sample for sample in self.samples if sample.split == "train")

    @property
    def test(self) -> tuple[Sample, ...]:
        """Test images in order of their names."""
        return tuple(sample for sample in self.samples if sample.split == "test")

    @property
    def has_masks(self) -> bool:
        """Whether any image has a ground-truth mask."""
        return any(sample.mask_path for sample in self.samples)


class _Folder:
    """The images found so far below one root, with the problems and the leftovers."""

    def __init__(self, root: Path):
        self.root, self.samples, self.problems, self.ignored, self.notes = root, [], [], [], []

    def add(self, folder: str, split: str, defect: str, masks: str | None = None, regions: Sequence[str] = ()):
        """Take every image of `folder`, matching masks and regions of interest by stem; `regions`: further places."""
        images = [path for path in self._files(folder) if folder or not _is_region_of_all(path)]
        found = self._by_stem([masks], ("_mask", "_gt")) if masks else {}
        regions = self._by_stem([f"roi/{split}/{defect}", *regions], _REGION_SUFFIXES)
        for path in images:
            mask, roi = (self._one(path, candidates) for candidates in (found, regions))
            name = path.relative_to(self.root).as_posix()
            self.samples.append(Sample(path, split, defect, int(defect != "good"), mask, roi, name))
        self._stems(images, bool(found or regions))
        self._orphans(images, found, "mask without an image")
        self._orphans(images, regions, "region of interest without an image")

    def leave_out(self, parent: str, known: Sequence[str], why: str):
        """Note the sub-folders of `parent` that are not read."""
        for child in _folders(self.root / parent):
            if child.name not in known:
                self.ignored.append((child, why))

    def _files(self, folder: str):
        """The image files of one folder in order of their names; anything else is noted."""
        place = self.root / folder
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            known = path.suffix.lower() in EXTENSIONS
            if path.name.startswith("."):
                continue
            if known and path.is_symlink() and not path.exists():
                self.problems.append((path, "a link to a file that is not there"))
            elif path.is_dir() and folder and _holds_images(path):
                self.ignored.append((path, "not read: a folder inside a folder of images"))
            elif path.is_file() and known:
                yield path
            elif path.is_file() and (folder or path.suffix.lower() in _UNREAD):
                self.ignored.append((path, "not read: extension unknown"))

    def _by_stem(self, folders: Sequence[str], suffixes: Sequence[str]) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in (path for folder in folders for path in self._files(folder)):
            found.setdefault(_bare_stem(path, suffixes), []).append(path)
        return found

    def _one(self, path: Path, found: dict[str, list[Path]]) -> Path | None:
        candidates = found.get(path.stem, [])
        if len(candidates) > 1:
            names = ", ".join(candidate.name for candidate in candidates)
            self.problems.append((path, f"more than one mask or region of interest: {names}"))
        return candidates[0] if candidates else None

    def _stems(self, images: list[Path], matched: bool):
        """Two images with one stem cannot both own the mask of that stem."""
        seen: dict[str, Path] = {}
        for path in images if matched else ():
            first = seen.setdefault(path.stem, path)
            if first != path:
                self.problems.append((path, f"same stem as {first.name}: their masks cannot be told apart"))

    def _orphans(self, images: list[Path], found: dict[str, list[Path]], why: str):
        stems = {path.stem for path in images}
        self.ignored.extend((path, why) for stem in found if stem not in stems for path in found[stem])

    def share_region(self):
        """Give the single `roi.*` of the root to every image that has no region of its own."""
        files = sorted(filter(_is_region_of_all, self.root.iterdir()))
        without = [sample for sample in self.samples if sample.roi_path is None]
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            self.problems.append((files[0], f"more than one region of interest for all images: {names}"))
        if files and not without:
            self.ignored.extend((path, "not read: every image has a region of interest of its own") for path in files)
        elif files:
            own = len(self.samples) - len(without)
            self.samples = [
                replace(sample, roi_path=files[0]) if sample.roi_path is None else sample for sample in self.samples
            ]
            if own:
                note = f"regions of interest: {own} images have their own, {files[0].name} is that of the other"
                self.notes.append(f"{note} {len(without)}")

    def require(self, attribute: str, what: str, wanted):
        """An error for every sample that `wanted` selects and that lacks what others of its split have."""
        splits = {sample.split for sample in self.samples if getattr(sample, attribute)}
        for sample in filter(wanted, self.samples):
            if sample.split in splits and getattr(sample, attribute) is None:
                self.problems.append((sample.path, f"no {what} of this stem, while other images have one"))


def _read_mvtec(folder: _Folder):
    normal = _normals(folder.root / "train").name
    folder.add(f"train/{normal}", "train", "good", regions=_also("train", normal))
    for child in _folders(folder.root / "test"):
        kind = _kind(child)
        masks = f"ground_truth/{child.name}"
        folder.add(f"test/{child.name}", "test", kind, masks, _also("test", child.name))
    folder.ignored += _loose(folder.root / "test")
    folder.leave_out("train", (normal,), f"not read: only train/{normal} is trained on")
    folder.leave_out("ground_truth", [p.name for p in _folders(folder.root / "test")], "masks of no test folder")


def _loose(test: Path) -> list[tuple[Path, str]]:
    """Images directly in `test/`, of which nobody says what they show."""
    images = sorted(filter(_is_image, test.iterdir())) if test.is_dir() else []
    return [(path, "not read: test images are expected in test/<kind>") for path in images]


def _also(split: str, name: str) -> tuple[str, ...]:
    """Where regions of normal images may lie beside `roi/<split>/good`."""
    return (f"roi/{split}/{name}",) if name.lower() in NORMAL_NAMES and name != "good" else ()


def _kind(folder: Path) -> str:
    """ "good" for a folder of normal images by its name, else its name."""
    return "good" if folder.name.lower() in NORMAL_NAMES else folder.name


def _normals(parent: Path) -> Path | None:
    """The folder of normal images inside: the first in the order of `NORMAL_NAMES`."""
    names = {child.name.lower(): child for child in _folders(parent)}
    return next((names[name] for name in NORMAL_NAMES if name in names), None)


def _read_nanotwice(folder: _Folder):
    folder.add("Normal", "train", "good")
    folder.add("Anomalous/images", "test", "anomalous", "Anomalous/gt")


def _read_casting(folder: _Folder):
    folder.add("train/ok_front", "train", "good")
    folder.add("test/ok_front", "test", "good")
    folder.add("test/def_front", "test", "def_front")
    folder.leave_out("train", ("ok_front",), "not read: only train/ok_front is trained on")


def _read_cloud(folder: _Folder):
    train, normal, cloud = (path.relative_to(folder.root).as_posix() for path in _cloud_folders(folder.root))
    folder.add(train, "train", "good", regions=() if train != normal else ("roi/test/good",))
    if train != normal:
        folder.add(normal, "test", "good")
    else:
        total = len(folder.samples)
        kept = total - max(1, total // _CLOUD_SHARE)
        folder.samples[kept:] = [replace(sample, split="test") for sample in folder.samples[kept:]]
        folder.notes.append(
            f"normal test images: the last {total - kept} of {total} by name (the published set is not split; "
            "which ones the study took is not known)"
        )
    folder.add(cloud, "test", "cloud")
    read = {Path(place) for place in (train, normal, cloud)}
    for parent in sorted({above for place in read for above in (place, *place.parents)}):
        known = [child.name for child in _folders(folder.root / parent) if _on_the_way(parent / child.name, read)]
        folder.leave_out(parent.as_posix(), (*known, "roi"), "not read: not a folder of the cloud set")


def _on_the_way(place: Path, read: set[Path]) -> bool:
    """Whether a folder is read, or one that is read lies below it."""
    return any(place == other or place in other.parents for other in read)


def _read_plain(folder: _Folder):
    folder.add("", "train", "good")
    for child in _folders(folder.root):
        if child.name != "roi" and _holds_images_below(child):
            folder.ignored.append((child, "not read: only images directly inside a plain folder are"))


_READERS = {
    "mvtec": _read_mvtec,
    "nanotwice": _read_nanotwice,
    "casting": _read_casting,
    "cloud": _read_cloud,
    "folder": _read_plain,
}


def layout_of(path) -> str | None:
    """ "mvtec", "nanotwice", "casting", "cloud", "folder" (images directly inside), or None."""
    root = Path(path)
    for folder, layout in (("train/good", "mvtec"), ("train/ok_front", "casting")):
        if (root / folder).is_dir():
            return layout
    if (root / "Normal").is_dir() and ((root / "Anomalous").is_dir() or root.resolve().name.lower() == "nanotwice"):
        return "nanotwice"
    if _normals(root / "train"):
        return "mvtec"
    if _cloud_folders(root):
        return "cloud"
    return "folder" if root.is_dir() and any(map(_is_plain_image, root.iterdir())) else None


def region_stem(path: Path) -> str:
    """The stem of the image that a file below `roi/` belongs to: `a` for `a.png`, `a_roi.png` and `a_mask.png`."""
    return _bare_stem(path, _REGION_SUFFIXES)


def scan(path, dataset: str | None = None, name: str | None = None) -> Category:
    """Read one category, its layout recognised from its folders (table above).

    Args:
        path: the category's folder (`.../mvtec_ad/pill`, `.../nanotwice`, `.../casting`, `.../cloud`, any folder of
            images).
        dataset: the data set's name; guessed when not given.
        name: the category's name; guessed when not given.

    Raises:
        DataError: no such folder, or none of the layouts.
    """
    root = _descend(Path(path))
    layout = layout_of(root)
    if layout is None:
        raise DataError(path, _not_a_category(root))
    folder = _Folder(root)
    _READERS[layout](folder)
    folder.share_region()
    folder.require("mask_path", "mask", lambda sample: sample.label == 1)
    folder.require("roi_path", "region of interest", lambda sample: True)
    guess = _key(root, layout)
    return Category(
        dataset or guess[0],
        name or guess[1],
        root,
        tuple(sorted(folder.samples, key=lambda sample: sample.name)),
        (*folder.notes, *_notes(folder.samples)),
        1 if layout == "nanotwice" else _native_channels(folder.samples),
        tuple(folder.problems),
        tuple(folder.ignored),
    )


def find_categories(data_root) -> dict[tuple[str, str], Path]:
    """Every category below a root: folders and packs, as `{(data set, category): path}`.

    The root may hold data sets (`mvtec_ad/<category>`, `nanotwice`, `casting/casting_data`, `cloud`,
    `synthetic/<category>`, `<data set>/<category>.npz`), be one of them, or be one category or a plain folder of images
    itself.

    Raises:
        DataError: no such folder, or a file.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(root, _not_a_category(root))
    whole = _descend(root)
    layout = layout_of(whole)
    if layout not in (None, "folder", "cloud"):
        return {_key(whole, layout): whole}
    found = _categories_of(root)
    for child in filter(_is_readable, _folders(root)):  # a disk has a folder lost+found that is root's
        place = _descend(child)
        if layout_of(place) in ("nanotwice", "casting", "cloud"):
            found[_key(place, layout_of(place))] = place
        elif layout_of(place) != "mvtec":
            for key, path in _categories_of(child).items():
                found.setdefault(key, path)
    if layout == "cloud":  # its folders may have been unpacked among other data sets
        found[_key(whole, layout)] = whole
    if not found and layout_of(root) == "folder":
        return {_key(root, "folder"): root}
    return found


def held_out(train: Sequence[Sample]) -> tuple[list, list]:
    """(kept, held out for thresholds) of the training images: the last 10 % by name, at least 20 where there are 100.

    The share is rounded to the nearest image, and is one image where there are two to fourteen; a single image is kept.
    """
    ordered = sorted(train, key=lambda sample: sample.name)
    count = held_out_count(len(ordered))
    return ordered[: len(ordered) - count], ordered[len(ordered) - count :]


def held_out_count(n: int) -> int:
    """How many of n training images are held out."""
    if n < 2:
        return 0
    return max(1, (n + 5) // 10, 20 if n >= 100 else 0)


def _categories_of(parent: Path) -> dict[tuple[str, str], Path]:
    """The MVTec-layout categories and the packs directly inside a data set's folder."""
    folders = {child.name: child for child in filter(_is_readable, _folders(parent)) if layout_of(child) == "mvtec"}
    packs = {path.stem: path for path in sorted(parent.glob("*.npz"))}
    paths = {**packs, **folders}
    known = bool(folders) and all(name in MVTEC_CATEGORIES for name in folders)
    return {("mvtec_ad" if known else parent.resolve().name, name): paths[name] for name in sorted(paths)}


def _key(root: Path, layout: str) -> tuple[str, str]:
    """(data set, category) as the folder names tell."""
    root = root.resolve()
    fixed = {
        "nanotwice": ("nanotwice", "nanofibres"),
        "casting": ("casting", "casting"),
        "cloud": ("cloud", "cloud"),
        "folder": ("folder", root.name),
    }
    if layout in fixed:
        return fixed[layout]
    return ("mvtec_ad" if root.name in MVTEC_CATEGORIES else root.parent.name or "folder"), root.name


def _descend(root: Path) -> Path:
    """The folder inside, where a published archive wraps the data once or twice."""
    for _ in range(2):
        if (root / "casting_data").is_dir() and layout_of(root) in (None, "folder"):
            root = root / "casting_data"
    return _cloud_below(root) or root


def _cloud_below(root: Path, levels: int = 2) -> Path | None:
    """The cloud set's folder: this one, or below it where each folder on the way holds nothing else."""
    layout = layout_of(root)
    if layout is not None or not levels:
        return root if layout == "cloud" else None
    inside = _folders(root)
    return _cloud_below(inside[0], levels - 1) if len(inside) == 1 else None


def _cloud_folders(root: Path) -> tuple[Path, Path, Path] | None:
    """The folders that hold the cloud set's training normals, test normals and clouds (the first two may be one)."""
    for places in _CLOUD_PLACES:
        found = tuple(_with_images(root, place) for place in places)
        if all(found) and not (places == _CLOUD_ARCHIVE and root.resolve().name.lower() in ("train", "test")):
            return found
    return None


def _with_images(root: Path, place: str) -> Path | None:
    """The first folder below root at `a/b`, however spelt, that holds images, or its namesake inside does."""
    folders = [root]
    for name in place.split("/"):
        folders = _spelt(folders, name)
    return next(filter(_holds_images, folders + _spelt(folders, name)), None)


def _spelt(parents: list[Path], name: str) -> list[Path]:
    """The sub-folders of this name, whatever its case, hyphens, underscores and spaces."""
    inside = [child for parent in parents if parent.is_dir() for child in sorted(parent.iterdir())]
    return [child for child in inside if re.sub("[-_ ]", "", child.name.lower()) == name and child.is_dir()]


def _not_a_category(root: Path) -> str:
    if root.suffix == ".npz":
        return "a pack, not a folder of images: it is read by load_pack"
    if not root.exists():
        return "no such folder"
    if not root.is_dir():
        return "a file, not a folder of images"
    inside = ", ".join(sorted(p.name for p in root.iterdir() if not p.name.startswith("."))[:8]) or "nothing"
    return (
        f"no known layout (found: {inside}). Expected train/good, ok or normal (MVTec), Normal and "
        f"Anomalous (NanoTWICE), train/ok_front (casting), noncloud and cloud with images (cloud), "
        f"or images directly inside ({' '.join(EXTENSIONS)})"
    )


def _notes(samples: list[Sample]) -> tuple[str, ...]:
    """Remarks that tables print beside their figures."""
    normals = [sample for sample in samples if sample.split == "test" and sample.label == 0]
    substitutes = sum(sample.path.name.startswith("sub_") for sample in normals)
    notes = []
    if substitutes:
        notes.append(
            f"substitute normals: {substitutes} of {len(normals)} normal test images stand in for the official ones"
        )
    if not normals and any(sample.label for sample in samples):
        notes.append("no normal test images: image metrics are undefined")
    return tuple(notes)


def _native_channels(samples: list[Sample]) -> int:
    """1 where the headers of all readable images say gray, else 3."""
    found = False
    for sample in samples:
        try:
            with Image.open(sample.path, formats=FORMATS) as image:
                mode = image.mode.split(";")[0]
        except Exception:  # `check` reports it with its reason
            continue
        if mode not in _GRAY_MODES:
            return 3
        found = True
    return 1 if found else 3


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(child for child in parent.iterdir() if child.is_dir() and not child.name.startswith("."))


def _is_readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(map(_is_image, folder.iterdir()))


def _holds_images_below(folder: Path) -> bool:
    """Whether a folder or one anywhere below it holds images; links to folders are not followed."""
    return any(_is_image(Path(place, name)) for place, _, names in os.walk(folder) for name in names)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _is_region_of_all(path: Path) -> bool:
    """Whether a file of a category's root is the region of interest of all its images."""
    return path.stem.lower() == "roi" and _is_image(path)


def _is_plain_image(path: Path) -> bool:
    return _is_image(path) and not _is_region_of_all(path)


def _bare_stem(path: Path, suffixes: Sequence[str]) -> str:
    suffix = next((s for s in suffixes if path.stem.endswith(s)), "")
    return path.stem.removesuffix(suffix)


def scan_kinds(path) -> Category | None:
    """A folder with a folder of images for each kind, or `test/<kind>`, as a category of test images; None if neither.

    The images of a folder named as in `NORMAL_NAMES`, in any case, are normal, those of others anomalous. Masks are
    matched in `ground_truth/<kind>`, as in MVTec's layout, and regions of interest in `roi/test/<kind>`. Folders that
    are named as masks are (`masks`, `gt`, ...) are no kinds, nor are those named as parts of a set are (`train`, `val`,
    `test`), and are noted.
    """
    root = Path(path)
    if not root.is_dir():
        return None
    folder, base = _Folder(root), root / "test" if (root / "test").is_dir() and _folders(root / "test") else root
    folder.ignored += _loose(root / "test")
    for child in _folders(base):
        if child.name.lower() in _PARTS:
            folder.ignored.append((child, "not read: expected test/<kind>, or a folder for each kind"))
            continue
        if child.name.lower() in _NO_KINDS or not _holds_images(child):
            if child.name not in ("ground_truth", "roi") and _holds_images(child):
                folder.ignored.append((child, "not read: masks are expected in ground_truth/<kind>"))
            continue
        kind = _kind(child)
        folder.add(
            child.relative_to(root).as_posix(), "test", kind, None if kind == "good" else f"ground_truth/{child.name}"
        )
    if not folder.samples:
        return None
    folder.share_region()
    folder.require("mask_path", "mask", lambda sample: sample.label == 1)
    folder.require("roi_path", "region of interest", lambda sample: True)
    return Category(
        "folder",
        root.name,
        root,
        tuple(sorted(folder.samples, key=lambda sample: sample.name)),
        channels=_native_channels(folder.samples),
        problems=tuple(folder.problems),
        ignored=tuple(folder.ignored),
    )
