"""The images that a detector of the user's own is calibrated and measured with, and which it must not have seen."""

import dataclasses
from pathlib import Path

from ganspect.data import arrays as data_arrays
from ganspect.data import check, samples
from ganspect.data.images import DataError, read_bytes
from ganspect.reproduce.own import OwnError
from ganspect.training.files import read_json

SHOWN = 5  # files that a message names


def held_out_images(run, detector, remarks):
    """The images that were held out in training, their regions, and nothing that `evaluate` does not know."""
    data = read_json(run.path / "data.json", {})
    try:
        category = samples.scan(data["folder"])
    except DataError as error:
        raise OwnError(f"{error}: where are the normal images now? --normals FOLDER") from None
    names = set(data["held_out"])
    chosen = tuple(sample for sample in category.train if sample.name in names)
    if len(chosen) < len(names):
        raise OwnError(f"{len(names) - len(chosen)} held-out images are gone from {data['folder']}; --normals FOLDER")
    known = [sample for sample in chosen if sample.name in data.get("digests", {})]
    changed = [s.name for s in known if check.digest_of(read_bytes(s.path)) != data["digests"][s.name]]
    if changed:
        raise OwnError(f"held-out images have changed since the training: {named(changed)}; --normals FOLDER")
    arrays = data_arrays.load_arrays(
        dataclasses.replace(category, samples=chosen), detector.config.channels, detector.input_size
    )
    return *_normals_of(arrays, detector, remarks)[:2], []


def normal_images(folder, detector, run, remarks):
    """The normal images of a folder that the detector was not trained on, their regions and digests."""
    category = _sound(samples.scan(folder))
    chosen = _others(category.train, run, ("train",), remarks)
    category = dataclasses.replace(category, samples=tuple(chosen))
    arrays = data_arrays.load_arrays(category, detector.config.channels, detector.input_size)
    by_name = {sample.name: digest for sample, digest in chosen.items()}
    images, regions, names = _normals_of(arrays, detector, remarks)
    return images, regions, [by_name[name] for name in names]


def labelled_images(folder, detector, run, inside, remarks, also=()):
    """The test images of a category, or the images of a folder with a folder for each kind, and their digests.

    Those that the detector has seen are left out, and those with one of the digests in `also`.

    Args:
        inside: whether the threshold is of scores inside regions of interest.
        remarks: list that gets what was left out or passed over.

    Raises:
        OwnError: there are none, or they have no regions where they need such.
        DataError: see `_sound`; a file cannot be read.
    """
    if not Path(folder).is_dir():
        raise OwnError(f"{folder}: no such folder")
    try:
        category = samples.scan(folder)
    except DataError:
        category = None
    if category is None or not category.test:
        category = samples.scan_kinds(folder)
    if category is None:
        kinds = ", ".join(samples.NORMAL_NAMES)
        raise OwnError(
            f"{folder}: no test images; expected test/<kind>/, or a folder for each kind, normal ones in one of {kinds}"
        )
    _sound(category)
    by_text = {}
    for path, text in category.ignored:
        by_text.setdefault(text, []).append(path.name)
    remarks += [f"{text} ({named(names)})" for text, names in by_text.items()]
    chosen = _others(category.test, run, ("train", "held_out"), remarks, also)
    if not chosen:
        raise OwnError(f"{folder}: no test image that the detector has not seen")
    only = dataclasses.replace(category, samples=tuple(chosen))
    arrays = data_arrays.load_arrays(only, detector.config.channels, detector.input_size)
    if inside and arrays.rois is None:
        raise OwnError(
            f"{folder}: no regions of interest (roi/, roi.png); the detector's threshold is of scores inside such"
        )
    arrays = data_arrays.with_test(arrays, _fitting(detector, arrays.test, arrays.rois if inside else None, remarks))
    if not arrays.test:
        raise OwnError(f"{folder}: no image that can be measured; " + "; ".join(remarks))
    if arrays.rois and not inside and attends(detector):
        remarks.append("regions of interest are passed over: the threshold is of scores without")
    by_name = {sample.name: digest for sample, digest in chosen.items()}
    return arrays, [by_name[name] for name in arrays.test_names]


def attends(detector):
    """Whether the detector was trained with regions of interest, which its scores then keep to."""
    return hasattr(detector.config, "loss_case") and detector.config.loss_case != 1


def _normals_of(arrays, detector, remarks):
    """The training images that fit, their regions, and their names."""
    rois = arrays.train_rois if attends(detector) else None
    kept = _fitting(detector, arrays.train, rois, remarks)
    names = [arrays.train_names[i] for i in kept]
    return [arrays.train[i] for i in kept], rois and [rois[i] for i in kept], names


def _fitting(detector, images, regions, remarks):
    """Indices of the images that are large enough and whose region, where there is one, is not empty."""
    least = 1 if detector.input_size else getattr(detector, "smallest", detector.config.patch_size)
    small = {i for i, image in enumerate(images) if min(image.shape[:2]) < least}
    empty = {i for i, region in enumerate(regions or ()) if region is not None and not region.any()} - small
    for left, words in ((small, f"smaller than {least} pixels"), (empty, "with an empty region of interest")):
        if left:
            remarks.append(f"{len(left)} images {words} are left out")
    return [i for i in range(len(images)) if i not in small | empty]


def _others(images, run, parts, remarks, also=()):
    """`{sample: digest}` of those that are no byte-identical copy of an image of these parts of the training's data.

    Nor of an image with one of the digests in `also`.
    """
    data = read_json(run.path / "data.json", {})
    digests = data.get("digests", {})
    seen = {*also, *(digests[name] for part in parts for name in data.get(part, ()) if name in digests)}
    every = {sample: check.digest_of(read_bytes(sample.path)) for sample in images}
    chosen = {sample: digest for sample, digest in every.items() if digest not in seen}
    if len(chosen) < len(images):
        done = "trained or calibrated on" if "held_out" in parts else "trained on"
        remarks.append(f"{len(images) - len(chosen)} images that the detector was {done} are left out")
    return chosen


def _sound(category):
    """The category itself.

    Raises:
        DataError: a mask or region is missing or ambiguous, or a link leads nowhere.
    """
    if category.problems:
        texts = [f"{path.relative_to(category.root)}: {text}" for path, text in category.problems]
        raise DataError(category.root, named(texts))
    return category


def named(names):
    """Some files in words."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more
