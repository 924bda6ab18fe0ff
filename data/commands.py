"""What `ganspect data list / check / make / pack` do, as plain functions."""

import dataclasses
from pathlib import Path

from ganspect.data.arrays import load_arrays, load_pack, save_pack, smallest_image
from ganspect.data.check import check
from ganspect.data.images import DataError
from ganspect.data.known import MVTEC_CATEGORIES, OFFICIAL_COUNTS, SOURCES
from ganspect.data.samples import find_categories, scan
from ganspect.data.synthetic import CATEGORIES, make

__all__ = ["check_text", "list_text", "make", "pack"]


def list_text(data_root=None) -> str:
    """The known data sets: what each is, where to get it, its licence, and which categories lie under `data_root`."""
    lines, found = [], {}
    if data_root is not None:
        try:
            found = find_categories(data_root)
        except DataError as error:
            lines.append(f"{error}\n")
    for dataset, source in SOURCES.items():
        lines += [*source_lines(dataset), f"  used by  {source.used_by}"]
        lines += _counts_lines(dataset) + _found_lines(dataset, found, data_root)
    lines += [f"synthetic: {', '.join(CATEGORIES)}", "  written by `ganspect data make`, no download, free to use"]
    lines += _found_lines("synthetic", found, data_root)
    for dataset in sorted({dataset for dataset, _ in found} - {*SOURCES, "synthetic"}):
        lines += [f"{dataset}: your own", *_found_lines(dataset, found, data_root)]
    lines.append("Nothing is downloaded: get a set from its page, accept its licence, unpack it under the data root.")
    return "\n".join(lines)


def source_lines(dataset) -> list[str]:
    """What a set is, its page, its licence and where it belongs, as lines; none for a set that is not a known one."""
    if dataset not in SOURCES:
        return []
    source = SOURCES[dataset]
    lines = [f"{dataset}: {source.title}", f"  page     {source.page}", f"  licence  {source.licence}"]
    return [*lines, f"  place    {source.place}"]


def check_text(path) -> tuple[str, int]:
    """Check one category or every category under a root.

    Args:
        path: a category, a data set, a root of several, a plain folder of images, or a pack.

    Returns:
        The text to print and the exit code: 0 when all can be used, else 1.
    """
    path = Path(path)
    try:
        categories = {("", path.stem): path} if path.suffix == ".npz" else find_categories(path)
        if not categories:
            scan(path)  # raises, saying what was found and what is expected
    except DataError as error:
        return str(error), 1
    texts, code = [], 0
    for (dataset, name), place in categories.items():
        try:
            text, ok = _check_one(place, dataset, name)
        except DataError as error:
            text, ok = str(error), False
        texts.append(text)
        code = code if ok else 1
    texts += [f"{place}: not recognised as a category, left out" for place in _unrecognised(path, categories)]
    if len(categories) > 1:
        texts.append(
            f"{len(categories)} categories checked: {'all can be used' if code == 0 else 'not all can be used'}"
        )
    return "\n".join(texts), code


def pack(category_path, output_root, size, channels: int | None = None) -> Path:
    """Check a category and write it as `<output_root>/<data set>/<category>.npz` at training size.

    Args:
        category_path: a category's folder.
        output_root: data root for the pack; made when missing.
        size: one number for a square, or (height, width).
        channels: 1 or 3; the files' own when not given.

    Returns:
        The pack's path. A pack of the same data and settings that is there already is left alone.

    Raises:
        DataError: the data cannot be used (the message lists every file), or another file has the pack's name.
    """
    found = find_categories(category_path)
    key = next(iter(found)) if len(found) == 1 else (None, None)
    category = scan(found.get(key, category_path), *key)
    report = check(category)
    if not report.ok:
        raise DataError(category_path, f"cannot be packed\n{report.message()}")
    path = Path(output_root) / category.dataset / f"{category.name}.npz"
    arrays = load_arrays(category, channels or category.channels, size)
    arrays = dataclasses.replace(arrays, source_shape=smallest_image(found.get(key, category_path), *key))
    if path.exists():
        if _same(load_pack(path), arrays):
            return path
        raise DataError(path, "exists with other contents: delete it, or choose another output folder")
    return save_pack(arrays, path)


def _check_one(place: Path, dataset: str, name: str) -> tuple[str, bool]:
    if place.suffix != ".npz":
        report = check(scan(place, dataset, name))
        return report.message(), report.ok
    arrays = load_pack(place)
    normal = int((arrays.labels == 0).sum())
    counts = f"{len(arrays.train)} training, {normal} normal and {len(arrays.test) - normal} anomalous test images"
    lines = [f"{arrays.dataset}/{arrays.name}: ok, a pack ({counts})"]
    if arrays.duplicates:
        lines.append(f"    {len(arrays.duplicates)} test images are byte-identical to training images")
    lines += [f"    {note}" for note in arrays.notes]
    return "\n".join([*lines, f"  fingerprint {arrays.fingerprint}"]), True


def _same(old, new) -> bool:
    shapes = [[image.shape for image in (*arrays.train, *arrays.test)] for arrays in (old, new)]
    return old.fingerprint == new.fingerprint and shapes[0] == shapes[1]


def _counts_lines(dataset: str) -> list[str]:
    counts = {name: numbers for (owner, name), numbers in OFFICIAL_COUNTS.items() if owner == dataset}
    if len(counts) == 1:
        return ["  counts   {} training, {} normal and {} defective test images".format(*next(iter(counts.values())))]
    if not counts:
        return []
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    text = "  counts   {} training, {} normal and {} defective test images in {} categories: {}"
    return [text.format(*total, len(counts), ", ".join(counts))]


def _found_lines(dataset: str, found: dict, data_root) -> list[str]:
    if data_root is None:
        return [""]
    here = [name for owner, name in found if owner == dataset]
    return [f"  found    {', '.join(here) if here else 'not under ' + str(data_root)}", ""]


def _unrecognised(path: Path, categories: dict) -> list[Path]:
    """Folders with the name of a known category in which no category was found."""
    parents = {place.parent for (dataset, _), place in categories.items() if dataset in ("mvtec_ad", "synthetic")}
    taken = {folder for place in categories.values() for folder in (place, *place.parents)}
    known = {*MVTEC_CATEGORIES, *CATEGORIES} - {place.name for place in categories.values()}
    inside = [
        child for parent in sorted(parents) if path in (parent, *parent.parents) for child in sorted(parent.iterdir())
    ]
    return [child for child in inside if child.is_dir() and child.name in known and child not in taken]
