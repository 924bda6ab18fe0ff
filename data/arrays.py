"""A category in memory, and the pack: the same as one compressed file, read without TensorFlow or image decoders."""

import io
import os
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ganspect.data.check import THREADS, digest_of, fingerprint_of, repeated_in_test
from ganspect.data.images import DataError, decode_image, image_size, read_bytes, read_mask, to_array
from ganspect.data.known import CROP_ROWS
from ganspect.data.on_disk import Shelf
from ganspect.data.samples import Category, Sample, held_out_count, scan

PACK_FORMAT = 1


@dataclass(frozen=True)
class CategoryArrays:
    """Decoded images with their labels, masks and regions of interest, in order of their names.

    Images may differ in size. Masks have their image's size.
    """

    dataset: str
    name: str
    channels: int
    train: list[np.ndarray]  # uint8 [H, W, C]
    train_names: list[str]
    test: list[np.ndarray]  # uint8 [H, W, C]
    test_names: list[str]
    labels: np.ndarray  # int64 [len(test)], 1 = anomalous
    defects: list[str]  # folder of each test image, "good" for normal
    masks: list[np.ndarray | None]  # bool [H, W]; all False for normals, all None where the category has no masks
    rois: list[np.ndarray | None] | None  # bool [H, W] of the test images; None where there are none
    notes: tuple[str, ...]
    fingerprint: str
    duplicates: list[str]  # test names byte-identical to a training image
    train_rois: list[np.ndarray | None] | None = None  # bool [H, W] of the training images; None where there are none
    source_shape: tuple[int, int] | None = None  # of a pack: height and width of the smallest image it was made of


def load_arrays(category: Category, channels: int, size=None, crop_rows: int | None = None) -> CategoryArrays:
    """Decode every file of a category once, on two threads; images beyond `on_disk.memory_limit` stay on disk.

    Args:
        category: from `scan`.
        channels: 1 or 3.
        size: None, one number for a square, or (height, width); images bilinear, masks nearest.
        crop_rows: keep this many rows from the top, before resizing; 0 keeps all. When not given: 696 for NanoTWICE,
            whose 700-row normals end below the useful area that its 696-row test images show; otherwise all rows.

    Raises:
        DataError: a file cannot be read, or a mask is not of its image's size. `check` lists all such files at once.
    """
    rows = CROP_ROWS.get(category.dataset, 0) if crop_rows is None else crop_rows
    shelf = Shelf()
    with ThreadPoolExecutor(THREADS) as pool:
        loaded = list(pool.map(lambda sample: _load(sample, channels, size, rows, shelf), category.samples))
    train = [item for item in loaded if item.sample.split == "train"]
    test = [item for item in loaded if item.sample.split == "test"]
    repeats = repeated_in_test(*([(item.sample.name, item.digests[0][1]) for item in part] for part in (train, test)))
    if category.has_masks:
        masks = [np.zeros(item.image.shape[:2], bool) if item.mask is None else item.mask for item in test]
    else:
        masks = [None] * len(test)
    return CategoryArrays(
        dataset=category.dataset,
        name=category.name,
        channels=channels,
        train=[item.image for item in train],
        train_names=[item.sample.name for item in train],
        test=[item.image for item in test],
        test_names=[item.sample.name for item in test],
        labels=np.array([item.sample.label for item in test], np.int64),
        defects=[item.sample.defect for item in test],
        masks=masks,
        rois=_regions(test),
        notes=category.notes,
        fingerprint=fingerprint_of(category.root, (pair for item in loaded for pair in item.digests)),
        duplicates=[name for _, name in repeats],
        train_rois=_regions(train),
    )


def load_category(path, dataset=None, name=None, channels: int | None = None, size=None) -> CategoryArrays:
    """A category from its folder or from a pack, whichever the path is.

    Args:
        path: a folder for `scan`, or a pack `.npz`.
        dataset: as in `scan`; a pack knows its own.
        name: as in `scan`; a pack knows its own.
        channels: 1 or 3; the files' own when not given.
        size: as in `load_arrays`; a pack of another size is resized, which is less sharp than packing at that size.

    Raises:
        DataError: see `scan`, `load_arrays` and `load_pack`.
    """
    if Path(path).suffix == ".npz":
        arrays = load_pack(path)
        return fitted(arrays, channels or arrays.channels, size)
    category = scan(path, dataset, name)
    return load_arrays(category, channels or category.channels, size)


def smallest_image(path, dataset=None, name=None, needed=None) -> tuple[int, int]:
    """Height and width of the smallest image of a category, by area, as it is stored; its pixels are not decoded.

    Args:
        path: a folder for `scan`, or a pack `.npz`.
        dataset, name: as in `load_category`.
        needed: side of the squares that a method resizes images to, where it does. Of a pack that is no smaller the
            images that it was made of count, for nothing is lost.

    Raises:
        DataError: a file is missing or not an image; see also `scan` and `load_pack`.
    """
    if Path(path).suffix == ".npz":
        arrays = load_pack(path)
        sizes = [image.shape[:2] for image in (*arrays.train, *arrays.test)]
        if needed and arrays.source_shape and min(map(min, sizes)) >= needed:
            return arrays.source_shape
    else:
        sizes = [image_size(sample.path) for sample in scan(path, dataset, name).samples]
    return min(sizes, key=lambda size: size[0] * size[1])


def fitted(arrays: CategoryArrays, channels: int, size=None) -> CategoryArrays:
    """The same category with another number of channels or size; itself where nothing changes."""

    def image(pixels):
        return to_array(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), channels, size)

    def masks(items):
        return items and [None if item is None else _nearest(item, size) for item in items]

    train, test = [image(item) for item in arrays.train], [image(item) for item in arrays.test]
    shapes = [item.shape for item in (*arrays.train, *arrays.test)]
    notes = arrays.notes
    if any(before[:2] != after.shape[:2] for before, after in zip(shapes, (*train, *test), strict=True)):
        notes = (*notes, f"resized from a pack of {shapes[0][0]}x{shapes[0][1]} pixels")
    return replace(
        arrays,
        channels=channels,
        train=train,
        test=test,
        masks=masks(arrays.masks),
        rois=masks(arrays.rois),
        train_rois=masks(arrays.train_rois),
        notes=notes,
    )


def split_held_out(arrays: CategoryArrays) -> tuple[np.ndarray, np.ndarray]:
    """Indices into `train` of the images (to train on, held out for thresholds): the rule of `samples.held_out`."""
    order = np.argsort(np.array(arrays.train_names, dtype=str), kind="stable")
    count = held_out_count(len(order))
    return np.sort(order[: len(order) - count]), np.sort(order[len(order) - count :])


def draw_test(arrays: CategoryArrays, normals: int, anomalies: int, seed: int = 0) -> CategoryArrays:
    """The category with so many normal and anomalous test images, drawn without replacement, in order of their names.

    Where a kind has fewer images all of them stay. What was left out is said in `notes`.
    """
    rng = np.random.default_rng(seed)
    kept = []
    for label, count in ((0, normals), (1, anomalies)):
        kind = np.flatnonzero(arrays.labels == label)
        kept.append(np.sort(rng.permutation(kind)[:count]))
    chosen = np.sort(np.concatenate(kept))
    if len(chosen) == len(arrays.test):
        return arrays
    total = [int((arrays.labels == label).sum()) for label in (0, 1)]
    note = f"one draw of {len(kept[0])} + {len(kept[1])} of the {total[0]} + {total[1]} test images"
    return replace(with_test(arrays, chosen), notes=(*arrays.notes, note))


def with_test(arrays: CategoryArrays, chosen) -> CategoryArrays:
    """The category with the test images of these indices alone."""
    parts = {name: [getattr(arrays, name)[i] for i in chosen] for name in ("test", "test_names", "defects", "masks")}
    rois = None if arrays.rois is None else [arrays.rois[i] for i in chosen]
    return replace(arrays, **parts, labels=arrays.labels[chosen], rois=rois)


def save_pack(arrays: CategoryArrays, path) -> Path:
    """Write one compressed `.npz` (images flat with their shapes, masks as bits, no pickle): complete or not at all."""
    path = Path(path)
    fields = {
        "format": np.array(PACK_FORMAT),
        "text": np.array([arrays.dataset, arrays.name, arrays.fingerprint]),
        "channels": np.array(arrays.channels),
        "source_shape": np.array(arrays.source_shape or (), int),
        "labels": arrays.labels,
        **{key: np.array(list(getattr(arrays, key)), dtype=str) for key in _TEXTS},
        **{f"{key}_shapes": _shapes(getattr(arrays, key)) for key in ("train", "test")},
        **{f"{key}_pixels": _flat(getattr(arrays, key), np.uint8) for key in ("train", "test")},
    }
    for key in ("masks", "rois", "train_rois"):
        masks = getattr(arrays, key)
        fields[f"{key}_present"] = np.array([mask is not None for mask in masks or ()], bool)
        fields[f"{key}_bits"] = np.packbits(_flat([mask for mask in masks or () if mask is not None], bool))
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **fields)
    write_atomically(path, buffer.getbuffer())
    return path


def load_pack(path) -> CategoryArrays:
    """Read a pack written by `save_pack`.

    Raises:
        DataError: missing, damaged, or not a pack of this format.
    """
    path = Path(path)
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            if int(file["format"]) != PACK_FORMAT:
                raise DataError(path, f"a pack of format {int(file['format'])}, this version reads {PACK_FORMAT}")
            return _unpacked(file)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, f"not a readable pack ({error})") from error


def write_atomically(path: Path, data) -> None:
    """Write bytes to a temporary file beside `path`, flush it to disk, then move it into place."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


_TEXTS = ("train_names", "test_names", "defects", "notes", "duplicates")


@dataclass(frozen=True)
class _Loaded:
    sample: Sample
    image: np.ndarray
    mask: np.ndarray | None
    roi: np.ndarray | None
    digests: list[tuple[Path, str]]  # the image's first


def _load(sample: Sample, channels: int, size, rows: int, shelf: Shelf) -> _Loaded:
    data = read_bytes(sample.path)
    digests = [(sample.path, digest_of(data))]
    image = decode_image(sample.path, data).image
    masks = []
    for path in (sample.mask_path, sample.roi_path):
        if path is None:
            masks.append(None)
            continue
        data = read_bytes(path)
        digests.append((path, digest_of(data)))
        mask = read_mask(path, crop_rows=rows, data=data)
        if mask.shape != (min(rows or image.height, image.height), image.width):
            raise DataError(path, f"is {mask.shape[1]}x{mask.shape[0]}, its image {image.width}x{image.height}")
        masks.append(_nearest(mask, size))
    return _Loaded(sample, shelf.put(to_array(image, channels, size, rows)), *masks, digests)


def _regions(items: list[_Loaded]) -> list[np.ndarray | None] | None:
    return [item.roi for item in items] if any(item.roi is not None for item in items) else None


def _nearest(mask: np.ndarray, size) -> np.ndarray:
    """bool `[H, W]` at another size, by nearest neighbour."""
    if size is None:
        return mask
    height, width = (size, size) if isinstance(size, int) else size
    image = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.array(image, bool)


def _shapes(images: list[np.ndarray]) -> np.ndarray:
    return np.array([image.shape for image in images], np.int64).reshape(-1, 3)


def _flat(arrays: list[np.ndarray], dtype) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays]) if arrays else np.empty(0, dtype)


def _unpacked(file) -> CategoryArrays:
    texts = {key: [str(item) for item in file[key]] for key in _TEXTS}
    images, shapes = {}, {}
    for key in ("train", "test"):
        shapes[key] = [tuple(int(n) for n in shape) for shape in file[f"{key}_shapes"]]
        images[key] = _cut(file[f"{key}_pixels"], shapes[key])
    masks = {}
    for key, split in (("masks", "test"), ("rois", "test"), ("train_rois", "train")):
        present = file[f"{key}_present"]
        wanted = [shape[:2] for shape, here in zip(shapes[split], present, strict=False) if here]
        bits = np.unpackbits(file[f"{key}_bits"], count=sum(h * w for h, w in wanted)).astype(bool)
        pieces = iter(_cut(bits, wanted))
        masks[key] = [next(pieces) if here else None for here in present]
    dataset, name, fingerprint = (str(item) for item in file["text"])
    return CategoryArrays(
        dataset=dataset,
        name=name,
        channels=int(file["channels"]),
        train=images["train"],
        train_names=texts["train_names"],
        test=images["test"],
        test_names=texts["test_names"],
        labels=file["labels"],
        defects=texts["defects"],
        masks=masks["masks"],
        rois=masks["rois"] or None,
        notes=tuple(texts["notes"]),
        source_shape=tuple(map(int, file["source_shape"])) or None if "source_shape" in file.files else None,
        fingerprint=fingerprint,
        duplicates=texts["duplicates"],
        train_rois=masks["train_rois"] or None,
    )


def _cut(flat: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Consecutive pieces of a flat array, in the given shapes."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    if flat.size != (ends[-1] if shapes else 0):
        raise ValueError("shapes and pixels do not match")
    return (
        [piece.reshape(shape) for piece, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)] if shapes else []
    )
