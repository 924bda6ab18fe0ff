"""The folder of an exported model: the SavedModel as `1/`, metadata.json and README.md, replaced as a whole.

Only a folder that holds nothing else, but for copies that `models.convert` wrote, is ever replaced.
"""

import dataclasses
import re
import shutil
from pathlib import Path

import keras
import numpy as np

from ganspect.evaluation import thresholds
from ganspect.models import convert
from ganspect.models.export import Calibration
from ganspect.reproduce.cells import departure_texts
from ganspect.reproduce.model_card import card
from ganspect.reproduce.own import OFFERS
from ganspect.reproduce.scoring import examined
from ganspect.training.files import Damaged, read_json, sync, write_json
from ganspect.training.run import make_manifest

UNFINISHED = re.compile(rf"\.({'|'.join(convert.FILES)})-")  # folders of conversions that were killed
OURS = {"1", "metadata.json", "README.md", *convert.FILES}
ORIGIN = ("data_fingerprint", "versions", "commit", "seed", "date")  # of the manifest, in metadata.json


class NotExported(RuntimeError):
    """A model that cannot be exported, or a place that is not a model's."""


def write(place, detector, calibration, metadata):
    """Writes a model folder, in the place of an earlier one.

    Args:
        place: path of the folder.
        detector: trained and calibrated `Detector`.
        calibration: what `from_normals` returns, or a dict with the same keys.
        metadata: what metadata.json says besides; `method`, `label`, `trained_on`, `departures` (as of
            `cells.departure_texts`, where known), `evaluation` and others go to the card.

    Returns:
        All of metadata.json.

    Raises:
        NotExported: the method cannot be exported with its settings, the backend is not TensorFlow, or there is
            something else in the folder.
    """
    place = Path(place).resolve()
    temporary, previous = (place.with_name(f".{place.name}.{word}") for word in ("part", "old"))
    for folder in (place, previous):
        if strange := _not_ours(folder):
            raise NotExported(f"{folder} {strange}: nothing was written")
    if previous.exists() and not place.exists():
        previous.rename(place)  # killed between the two renames
    shutil.rmtree(temporary, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        facts = detector.export(temporary / "1", Calibration(calibration["threshold"], calibration["median"]))
    except (ValueError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise NotExported(str(error)) from None
    kept = ("threshold", "pixel_threshold", "false_alarm_rate", "expected_rate", "rate_bound", "held_out", "chosen_by")
    written = {
        "format": 1,
        "score": detector.score_names[0],
        **facts,
        "regions": False,
        **{key: calibration[key] for key in kept},
        "calibration": {"median": calibration["median"], "threshold": calibration["threshold"]},
        **metadata,
    }
    write_json(temporary / "metadata.json", written)
    (temporary / "README.md").write_text(card(written), encoding="utf-8")
    sync(temporary)
    shutil.rmtree(previous, ignore_errors=True)
    if place.exists():
        place.rename(previous)
    temporary.rename(place)
    shutil.rmtree(previous, ignore_errors=True)
    return written


def _not_ours(place):
    """Why a folder must not be replaced, as text; empty where it is a model's, empty or missing."""
    if not place.exists():
        return ""
    if not place.is_dir():
        return "is a file"
    names = {path.name for path in place.iterdir()}
    if not names:
        return ""
    try:
        known = read_json(place / "metadata.json", {})
    except (Damaged, OSError):
        known = {}
    if not (isinstance(known, dict) and {"format", "score", "calibration"} <= known.keys()):
        return "is not a model's folder and not empty"
    strangers = sorted(name for name in names - OURS if not UNFINISHED.match(name))
    return f"holds what is no model's ({', '.join(strangers[:3])})" if strangers else ""


def export_model(place, detector, normals, trained_on, rate=0.05, fingerprint=None):
    """Writes the model folder of a detector that was trained in Python, for `ganspect predict` and everything else.

    Args:
        place: path of the folder; a model there is replaced, anything else refused.
        detector: trained `Detector`; it is calibrated here.
        normals: normal images that it was not trained on, uint8 `[H, W, C]` each, for threshold and scale.
        trained_on: number of images that it was trained on.
        rate: of false alarms among images like `normals`, in (0, 1).
        fingerprint: of the data (`CategoryArrays.fingerprint`), where known.

    Returns:
        All of metadata.json.

    Raises:
        NotExported: see `write`.
        ValueError: no images, or scores of them that are not finite.
    """
    config, names = detector.config, [name for name, o in OFFERS.items() if type(detector) is o.method.build]
    name = names[0] if names else type(detector).__name__
    detector.calibrate(normals)
    scores, peaks, _ = examined(detector, normals)
    manifest = make_manifest(config.seed, fingerprint, None, keras.backend.backend())
    metadata = {
        "method": name,
        "label": OFFERS[name].name if names else name,
        "trained_on": trained_on,
        "config": dataclasses.asdict(config),
        **({"departures": departure_texts(OFFERS[name].method, vars(config))} if names else {}),
        **{key: manifest[key] for key in ORIGIN},
        "evaluation": None,
    }
    return write(place, detector, from_rate(scores, peaks, rate, detector.fitted), metadata)


def from_rate(scores, peaks, rate, fitted=False):
    """What a model knows of held-out normal images where its threshold is that of a rate of false alarms.

    Args:
        scores: real `[n]`, of the images.
        peaks: real `[n]`, the maxima of their maps.
        rate: of false alarms, in (0, 1).
        fitted: whether the scale of the scores was fitted to these images, which the words then say.

    Returns:
        dict as `write` takes it, with the uncertainty in words as "note".

    Raises:
        ValueError: no scores, scores that are not finite, a rate outside (0, 1).
    """
    found = thresholds.rate_threshold(scores, rate)
    scaled = "; rates are approximate: the same images set the scale of the scores" if fitted else ""
    return {
        "threshold": found.value,
        "median": float(np.median(scores)),
        "pixel_threshold": thresholds.rate_threshold(peaks, rate).value,
        "false_alarm_rate": rate,
        "expected_rate": found.expected,
        "rate_bound": found.bound,
        "held_out": found.n,
        "chosen_by": f"false-alarm rate {rate:g} on {found.n} normal images{scaled}",
        "note": found.note + scaled,
    }


def from_normals(scores, peaks, cut, rate=0.05):
    """What an exported model of a paper's cell knows of held-out normal images.

    Args:
        scores: real `[n]`, of the images.
        peaks: real `[n]`, the maxima of their maps.
        cut: `evaluation.thresholds.Threshold` of the tables' clean protocol.
        rate: share of the images above it.

    Returns:
        dict as `write` takes it. The rate of false alarms to expect, and the one it stays below with 95 % confidence,
        are those of the last image score below the threshold.
    """
    expected, bound = thresholds.rates_above(scores, cut.value)
    return {
        "threshold": cut.value,
        "median": float(np.median(scores)),
        "pixel_threshold": thresholds.rate_threshold(peaks, rate).value,
        "false_alarm_rate": rate,
        "expected_rate": expected,
        "rate_bound": bound,
        "held_out": cut.n,
        "chosen_by": f"the {100 * cut.quantile:g}th percentile of {cut.n} held-out normal images",
    }
