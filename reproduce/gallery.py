"""What a report shows of the test images of a run: the best and the worst ones, curves, and the truth for comparisons.

gallery.json, gallery/*.webp   pictures of images with their outlined defects beside the heat map
curves.json                    ROC and precision-recall curves of images and pixels, thinned for plotting
truth.npz                      the masks, so that pixel metrics of two stored runs can be compared
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from ganspect.evaluation import metrics, plots
from ganspect.training.files import atomic_write, write_json

EACH = 3  # pictures of each kind
SIDE = 200  # pixels of the longer side of each half of a picture
POINTS = 128  # of a curve
KINDS = {
    "false alarm": "normal, called anomalous: the highest scores",
    "miss": "anomalous, called normal: the lowest scores",
    "hit": "anomalous, called anomalous: the highest scores",
    "passed": "normal, called normal: the lowest scores",
}


def choose(labels, scores, cut, each=EACH):
    """The images to look at first.

    Args:
        labels: 0/1 `[N]`.
        scores: real `[N]`.
        cut: an image is called anomalous from this score on.
        each: at most so many of a kind.

    Returns:
        List of `(kind, index)`, kinds in the order of `KINDS`, the most extreme image first.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    rising, called = np.argsort(scores, kind="stable"), scores >= cut
    falling = rising[::-1]
    orders = {
        "false alarm": falling[(labels == 0)[falling] & called[falling]],
        "miss": rising[(labels == 1)[rising] & ~called[rising]],
        "hit": falling[(labels == 1)[falling] & called[falling]],
        "passed": rising[(labels == 0)[rising] & ~called[rising]],
    }
    return [(kind, int(i)) for kind in KINDS for i in orders[kind][:each]]


def save(detector, arrays, evidence, run):
    """Stores gallery, curves and truth of a scored run.

    Args:
        detector: calibrated `Detector`.
        arrays: `CategoryArrays`.
        evidence: of the test images.
        run: `training.run.Run` with its metrics stored.
    """
    name = detector.score_names[0]
    mapped = name if detector.map_names is None or name in detector.map_names else detector.map_names[0]
    scores = np.array([detector.score_from(one) for one in evidence])
    maps = [detector.map_from(one, mapped) for one in evidence]
    cut = run.metrics["image_thresholds"][name]["value"]
    low = float(np.median([np.median(values) for values in maps]))
    high = float(np.quantile([values.max() for values in maps], 0.9))
    shown = []
    for number, (kind, i) in enumerate(choose(arrays.labels, scores, cut)):
        file = f"gallery/{number:02d}.webp"
        with atomic_write(run.path / file, "wb") as out:
            out.write(picture(arrays.test[i], arrays.masks[i], maps[i], low, high))
        facts = {"kind": kind, "image": arrays.test_names[i], "defect": arrays.defects[i], "score": float(scores[i])}
        shown.append({**facts, "file": file})
    write_json(run.path / "gallery.json", {"threshold": cut, "colours": [low, high], "images": shown})
    write_json(run.path / "curves.json", curves(arrays.labels, scores, arrays.masks, maps))
    save_truth(arrays, run)


def picture(image, mask, values, low, high):
    """An image with its outlined defect beside its map, as bytes of a WebP file.

    Args:
        image: uint8 `[H, W, C]`.
        mask: bool `[H, W]`, or None.
        values: real `[H, W]`, the map.
        low, high: of the colours.
    """
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    halves = []
    for pixels in (plots.outlined(image), plots.coloured(values, low, high)):
        halves.append(np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)))
    if mask is not None and np.any(mask):  # drawn around it after resizing: an outline stays two pixels wide
        small = np.asarray(Image.fromarray(np.asarray(mask, np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 0
        for width in (2, 3):
            halves[0] = plots.outlined(halves[0], ndimage.binary_dilation(small, iterations=width))
    gap = np.full((size[1], 4, 3), 128, np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.concatenate([halves[0], gap, halves[1]], axis=1)).save(out, "WEBP", quality=75, method=6)
    return out.getvalue()


def curves(labels, scores, masks, maps):
    """ROC and precision-recall curves: `{"image" or "pixel": {"roc": [x, y], "pr": [x, y]}}` where both classes are."""
    pairs = {"image": (labels, scores)}
    if all(mask is not None for mask in masks):
        pairs["pixel"] = (masks, maps)
    out = {}
    for unit, (truth, values) in pairs.items():
        if metrics.why_undefined(truth):
            continue
        wrong, caught, _ = metrics.roc_curve(truth, values, POINTS)
        precision, recall, _ = metrics.precision_recall_curve(truth, values, POINTS)
        out[unit] = {"roc": _rounded(wrong, caught), "pr": _rounded(recall[1:], precision[1:])}
    return out


def _rounded(*columns):
    return [[round(float(x), 5) for x in column] for column in columns]


def save_truth(arrays, run):
    """Writes the masks of the test images, a bit for each pixel; nothing where some image has none."""
    if any(mask is None for mask in arrays.masks):
        return
    with atomic_write(run.path / "truth.npz", "wb") as file:
        packed = {f"{i:05d}": np.packbits(np.asarray(mask, bool)) for i, mask in enumerate(arrays.masks)}
        shapes = np.array([np.shape(mask) for mask in arrays.masks], np.int32)
        np.savez_compressed(file, names=np.array(arrays.test_names, dtype=str), shapes=shapes, **packed)


def load_truth(run):
    """`{image name: bool [H, W]}`, empty where the run has no masks."""
    path = run.path / "truth.npz"
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return {
            str(name): np.unpackbits(stored[f"{i:05d}"], count=int(np.prod(shape))).reshape(shape).astype(bool)
            for i, (name, shape) in enumerate(zip(stored["names"], stored["shapes"], strict=True))
        }


def map_path(run, name):
    """Where the map of a test image is stored."""
    return (run.path / "maps" / name).with_suffix(".npy")


def load_map(run, name):
    """The stored map of a test image, float16 `[H, W]`."""
    return np.load(map_path(run, name), allow_pickle=False)
