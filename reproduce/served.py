"""An exported detector, loaded from its folder with TensorFlow alone: the graph needs no class of this project."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganspect.evaluation.tiles import Tiling
from ganspect.training.quiet import import_tensorflow

METADATA = "metadata.json"
VERSION = "1"  # subfolder of the SavedModel, where TensorFlow Serving looks for it
_NEEDED = ("method", "channels", "smallest", "tiling", "roi", "threshold", "calibration")


class ModelError(ValueError):
    """A model folder that cannot be used; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What a model says of one image.

    Args:
        score: higher = more anomalous; -inf for an empty region of interest.
        calibrated_score: 0 at the median of held-out normal images, 1 at the model's threshold.
        anomalous: whether the score reaches the model's threshold.
        anomaly_map: float32 `[H, W]`, higher = more anomalous.
    """

    score: float
    calibrated_score: float
    anomalous: bool
    anomaly_map: np.ndarray


class Served:
    """A model folder: its metadata at once, its graph after `load`.

    Args:
        folder: the model folder, which holds metadata.json and the SavedModel `1`, or that `1` itself.

    Raises:
        ModelError: no model there, or metadata that cannot be used.
    """

    def __init__(self, folder):
        self.path, self.metadata = _read(Path(folder))
        facts = self.metadata
        try:
            self.name = str(facts.get("label") or facts["method"])
            self.channels = int(facts["channels"])
            self.smallest = tuple(int(side) for side in facts["smallest"])
            # The side of what it resizes images to, or 0.
            self.seen = max(map(int, facts.get("image_size") or ()), default=0)
            self.threshold, self.median = float(facts["threshold"]), float(facts["calibration"]["median"])
            given = facts.get("pixel_threshold")
            self.pixel_threshold = self.threshold if given is None else float(given)
            self.tiling, self.takes_regions = facts["tiling"], bool(facts["roi"])
            if self.channels not in (1, 3) or len(self.smallest) != 2:
                raise ValueError(f"channels {facts['channels']}, smallest {facts['smallest']}")
            if self.tiling is not None:
                self.context, self.alignment = int(self.tiling["context"]), int(self.tiling["alignment"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{self.path.parent / METADATA} cannot be used: {error!r}") from error
        self._loaded = None

    def load(self):
        """Loads the graph; imports TensorFlow.

        Raises:
            ModelError: the SavedModel is damaged or lacks an endpoint.
        """
        tf = import_tensorflow()
        try:
            self._loaded = tf.saved_model.load(str(self.path))  # signatures die with the object that holds them
        except Exception as error:  # TensorFlow raises several kinds on damaged files
            raise ModelError(f"{self.path} cannot be loaded ({first_line(error)})") from error
        missing = {"serving_default", *(("serve_roi",) if self.takes_regions else ())} - set(self._loaded.signatures)
        if missing:
            raise ModelError(f"{self.path} has no endpoint {', '.join(sorted(missing))}")

    def plan_tiles(self, tile, overlap=None):
        """How images larger than `tile` are cut for this model.

        Args:
            tile: side, pixels.
            overlap: pixels; by default the least for a local method, a quarter of the tile for others.

        Raises:
            ValueError: see `Tiling`.
        """
        least = max(self.smallest)
        if self.tiling is None:
            return Tiling(tile, tile // 4 if overlap is None else overlap, smallest=least)
        overlap = 2 * self.context if overlap is None else overlap
        return Tiling(tile, overlap, self.context, self.alignment, least)

    def answer(self, images, regions=None):
        """Scores images of one size.

        Args:
            images: uint8 `[N, H, W, C]`.
            regions: bool `[N, H, W]`, true inside, or None; only where `takes_regions`.

        Returns:
            N `Answer`s.

        Raises:
            Exception: whatever TensorFlow raises, for one where memory does not suffice.
        """
        import tensorflow as tf

        if regions is None:
            found = self._loaded.signatures["serving_default"](images=tf.constant(images))
        else:
            regions = tf.constant(np.asarray(regions, np.uint8))
            found = self._loaded.signatures["serve_roi"](images=tf.constant(images), regions=regions)
        names = ("score", "calibrated_score", "label", "anomaly_map")
        scores, calibrated, labels, maps = (found[name].numpy() for name in names)
        if maps.shape != images.shape[:3]:
            raise ModelError(f"the model's map is {[*maps.shape]} for images {[*images.shape]}")
        return [
            Answer(float(s), float(c), bool(a), m) for s, c, a, m in zip(scores, calibrated, labels, maps, strict=True)
        ]

    def answer_tiled(self, image, tiling, region=None):
        """Scores one image tile by tile; beside the image, only its map is held whole.

        Of a local method the map is that of the whole image, and its maximum the score. Of another, each tile is
        scored as an image of its own: the method sees the tile at its own scale, the maps are joined with weights that
        fall towards the tiles' borders, and the highest score counts.

        Args:
            image: uint8 `[H, W, C]`.
            tiling: `Tiling` of `plan_tiles`.
            region: bool `[H, W]`, or None.

        Returns:
            `Answer`.
        """
        joined, highest = np.zeros(image.shape[:2], np.float32), -np.inf
        for rows, columns, weights in tiling.cover(*joined.shape):
            inside = region[None, rows, columns] if region is not None and self.tiling is None else None
            part = self.answer(image[None, rows, columns], inside)[0]
            joined[rows, columns] += weights * part.anomaly_map
            highest = max(highest, part.score)
        if self.tiling is not None:
            highest = float(joined.max() if region is None else joined.max(where=region, initial=-np.inf))
        return Answer(highest, self.calibrated(highest), self.reaches(highest, self.threshold), joined)

    def calibrated(self, score):
        """A score on the scale of `calibrated_score`."""
        return (score - self.median) / max(self.threshold - self.median, 1e-12)

    @staticmethod
    def reaches(score, threshold):
        """Whether a score is anomalous; compared in float32, as in the model."""
        return bool(np.float32(score) >= np.float32(threshold))


def _read(folder):
    """The SavedModel's folder and the metadata of a model folder."""
    for place in (folder / VERSION, folder):
        if (place / "saved_model.pb").is_file():
            break
    else:
        raise ModelError(f"no exported model in {folder} (expected {METADATA} and {VERSION}/saved_model.pb)")
    place = place.absolute()
    try:
        metadata = json.loads((place.parent / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{place.parent / METADATA} cannot be read ({error})") from error
    missing = [name for name in _NEEDED if name not in metadata] if isinstance(metadata, dict) else _NEEDED
    if missing:
        raise ModelError(f"{place.parent / METADATA} lacks {', '.join(missing)}")
    if metadata.get("format", 1) != 1:
        raise ModelError(f"{place.parent / METADATA} has format {metadata['format']}; this version reads format 1")
    return place, metadata


def first_line(error):
    """Kind and first line of an exception's message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
