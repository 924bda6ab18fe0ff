"""What a trained detector of the user's own can do: `ganspect calibrate`, `evaluate`, `export`; its folder: `own`."""

import dataclasses
import math
import time
from pathlib import Path

import numpy as np

from ganspect.evaluation import metrics, plots, thresholds
from ganspect.evaluation.regions import region_metrics
from ganspect.evaluation.statistics import bootstrap_image_auroc
from ganspect.reproduce import model_folder, scoring
from ganspect.reproduce.cells import departure_texts
from ganspect.reproduce.own import OFFERS, OwnError
from ganspect.reproduce.own_images import attends, held_out_images, labelled_images, named, normal_images
from ganspect.training.checkpoint import load_state, position_of, save_state
from ganspect.training.files import read_json, write_json
from ganspect.training.run import Run

CHOICES = ("f1", "youden")
GRAPH = 1.5  # MB of a SavedModel without its weights, at most, by examples/zoo
FEW = 10  # images of a kind, below which a bootstrap says nothing of what others would give


def stored_detector(folder, calibrated=False):
    """The trained detector of a folder, and its `Run`.

    Args:
        folder: the detector's.
        calibrated: with the constants that `calibrate` has stored.

    Raises:
        OwnError: it is not trained, not calibrated, or damaged.
        CheckpointError, Damaged: a file of it is damaged.
    """
    run = Run(Path(folder))
    status = run.status
    if not isinstance(run.config, dict):
        raise OwnError(f"{folder}: config.json is damaged; train again with --force")
    if status["state"] not in ("trained", "finished"):
        state = "not finished" if status["state"] == "running" else status["state"]
        found = f"its training is {state}" if run.config else "there is no detector"
        raise OwnError(f"{folder}: {found}; ganspect train --method METHOD --data FOLDER --output {folder}")
    if run.config.get("method") not in OFFERS or not (run.path / "data.json").exists():
        raise OwnError(f"{folder} holds no detector that `ganspect train` has made")
    data = read_json(run.path / "data.json")
    if not isinstance(data, dict) or not {"folder", "train", "held_out"} <= set(data):
        raise OwnError(f"{run.path / 'data.json'} is damaged; train again with --force")
    offer = OFFERS[run.config["method"]]
    fields = {f.name for f in dataclasses.fields(offer.method.config)}
    try:
        config = offer.method.config(**{k: v for k, v in run.config.items() if k in fields})
        detector = offer.method.build(config)
    except (TypeError, ValueError) as error:
        raise OwnError(f"{folder}: config.json is damaged ({error}); train again with --force") from None
    detector.compile()
    if calibrated and not (run.path / "calibration.json").exists():
        raise OwnError(f"{folder} is not calibrated: ganspect calibrate {folder}")
    weights = _calibrated(run) if calibrated else _best(run)
    if not weights.exists():
        again = f"ganspect calibrate {folder}" if calibrated else "train again with --force"
        raise OwnError(f"{weights} is missing: {again}")
    load_state(weights, detector.state)
    return detector, run


def _calibration(run):
    """What `calibrate` has stored.

    Raises:
        OwnError: it is damaged.
    """
    found = read_json(run.path / "calibration.json")
    numbers = [found.get(name) for name in ("threshold", "median")] if isinstance(found, dict) else [None]
    sound = all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers)
    if not sound or not {"regions", "note"} <= set(found):
        raise OwnError(f"{run.path / 'calibration.json'} is damaged: ganspect calibrate {run.path}")
    return found


def _best(run):
    best = run.path / "checkpoints" / "best.npz"
    return best if best.exists() else run.checkpoint


def _calibrated(run):
    return run.path / "checkpoints" / "calibrated.npz"


def calibrate(folder, rate=0.05, normals=None, labelled=None, choice="f1", say=None):
    """Finds the threshold and stores it with the scores that it comes from.

    Args:
        folder: the detector's.
        rate: of false alarms.
        normals: folder of other normal images than those held out in training, in whose place they are scored.
        labelled: folder of normal and anomalous images; the threshold is then the best one there, by `choice`.
        choice: "f1", or "youden": sensitivity plus specificity.
        say: called with how many images will be scored and about how long it takes, where given.

    Returns:
        What calibration.json holds.

    Raises:
        OwnError: see `stored_detector`; there is no image; of labelled ones, a class is missing.
    """
    detector, run = stored_detector(folder)
    remarks = []
    if normals is None:
        images, regions, digests = held_out_images(run, detector, remarks)
    else:
        images, regions, digests = normal_images(normals, detector, run, remarks)
    if not images:
        raise OwnError(f"{normals or folder}: no normal images to calibrate with" + "".join(f"; {r}" for r in remarks))
    detector.calibrate(images)
    _announce(detector, images, say)
    scores, peaks, _ = scoring.examined(detector, images, regions)
    stored = model_folder.from_rate(scores, peaks, rate, detector.fitted) | {
        "regions": regions is not None,
        "scores": [float(score) for score in scores],
        "normal_digests": digests,
    }
    if labelled:
        stored |= _labelled_threshold(detector, run, labelled, choice, stored, remarks, say)
    stored["remarks"] = remarks
    save_state(_calibrated(run), detector.state, *position_of(_best(run)))
    write_json(run.path / "calibration.json", stored)
    return stored


def _labelled_threshold(detector, run, folder, choice, stored, remarks, say):
    """The threshold that is best on labelled images, and what it means for the held-out ones in `stored`."""
    normals, inside = stored["scores"], stored["regions"]
    arrays, digests = labelled_images(folder, detector, run, inside, remarks, stored["normal_digests"])
    _announce(detector, arrays.test, say)
    scores, _, _ = scoring.examined(detector, arrays.test, arrays.rois if inside else None)
    if len(set(arrays.labels.tolist())) < 2:
        raise OwnError(f"{folder}: a threshold from labelled images needs normal and anomalous ones")
    best = metrics.f1_max if choice == "f1" else metrics.balanced_accuracy_oracle
    value, cut = best(arrays.labels, scores)
    expected, bound = thresholds.rates_above(normals, cut)
    measure = "F1" if choice == "f1" else "balanced accuracy (Youden)"
    text = f"best {measure} on {len(scores)} labelled images: {value:.3f} there, optimistic for others"
    return {
        "threshold": float(cut),
        "false_alarm_rate": None,
        "expected_rate": expected,
        "rate_bound": bound,
        "chosen_by": text,
        "note": f"{text}; false alarms to expect by {len(normals)} held-out normal images: {100 * expected:.3g} %, "
        f"at most {100 * bound:.3g} % with 95 % confidence",
        "labelled_digests": digests,
    }


def evaluate(folder, data, say=None):
    """Measures a calibrated detector on labelled images and stores what it finds in `evaluation/`.

    Args:
        folder: the detector's.
        data: a category with test images, or a folder with one folder of normal images (good, ok, normal) and others.
        say: called with how many images will be scored and about how long it takes, where given.

    Returns:
        `{metric: value}`, None where it is not defined, with the reason in "undefined"; those named "oracle" or "max"
        are at the threshold that is best on these images. "remarks": what was left out or passed over.

    Raises:
        OwnError: see `stored_detector`; there are no test images, or they have no regions of interest where the
            threshold is of scores inside such.
        DataError: a file cannot be read, or a mask or region is missing or ambiguous.
    """
    detector, run = stored_detector(folder, calibrated=True)
    calibration, remarks = _calibration(run), []
    inside = bool(calibration["regions"])
    arrays, digests = labelled_images(data, detector, run, inside, remarks, calibration.get("normal_digests", ()))
    _announce(detector, arrays.test, say)
    scores, _, maps = scoring.examined(detector, arrays.test, arrays.rois if inside else None, maps=True)
    cut = calibration["threshold"]
    called = scores >= np.float32(cut)
    found = _counted(arrays, cut, called)
    if chose := len({*digests} & {*calibration.get("labelled_digests", ())}):
        found["chose_threshold"] = chose
        remarks.append(f"{chose} of these images chose the threshold: what is counted at it is optimistic")
    found |= _measured(arrays, scores, maps, cut, remarks) | {"caught_by_defect": _caught(arrays.defects, called)}
    if inside:
        found["inside"] = _inside_regions(arrays, maps, scores, cut)
    found["remarks"] = remarks
    place = run.path / "evaluation"
    place.mkdir(exist_ok=True)
    write_json(place / "metrics.json", found | {"data": str(Path(data).resolve()), "fingerprint": arrays.fingerprint})
    run.write_table("evaluation/scores.csv", _scored(arrays, scores, called))
    normal, title = arrays.labels == 0, f"{detector.name}: {detector.score_names[0]}"
    plots.save_figure(
        plots.score_histograms(scores[normal], scores[~normal], title, threshold=cut), place / "histogram.png"
    )
    return found


def _counted(arrays, cut, called):
    """How many images there are of each kind, and how many are called anomalous at the threshold."""
    normal = arrays.labels == 0
    return {
        "images": len(normal),
        "normal": int(normal.sum()),
        "anomalous": int((~normal).sum()),
        "threshold": cut,
        "false_alarms": int(called[normal].sum()),
        "caught": int(called[~normal].sum()),
    }


def _measured(arrays, scores, maps, cut, remarks):
    """Metrics of images and of pixels; what is not defined is None, with its reason under "undefined"."""
    found, undefined = _of_images(arrays, scores, cut, remarks)
    of_pixels, why = _of_pixels(arrays.masks, maps)
    if why:
        remarks.append(f"no pixel AUROC: {why}")
    return found | of_pixels | {"undefined": undefined | (dict.fromkeys(of_pixels, why) if why else {})}


def _of_images(arrays, scores, cut, remarks):
    """`({metric: value}, {metric: why there is none})`; what makes them doubtful goes to `remarks`."""
    labels, wanted = arrays.labels, scoring.image_metrics(cut)
    if reason := metrics.why_undefined(labels):
        remarks.append(f"no AUROC: {reason}")
        names = (*wanted, "image_auroc_low", "image_auroc_high")
        return dict.fromkeys(names), dict.fromkeys(names, reason)
    fewest = min(int(labels.sum()), int((labels == 0).sum()))
    if fewest < FEW:
        remarks.append(f"the AUROC's interval is too narrow: there are only {fewest} images of one kind")
    empty = [
        name
        for name, mask, label in zip(arrays.test_names, arrays.masks, labels, strict=True)
        if label and mask is not None and not mask.any()
    ]
    if empty:
        remarks.append(f"masks of anomalous images are empty ({named(empty)})")
    found = {name: metric(labels, scores) for name, metric in wanted.items()}
    low, high = bootstrap_image_auroc(labels, scores)
    return found | {"image_auroc_low": low, "image_auroc_high": high}, {}


def _of_pixels(masks, maps):
    """`({metric: value}, why there is none)`: they take a mask of every image."""
    missing = any(mask is None for mask in masks)
    absent = "there are no masks (ground_truth/<kind>/<stem>_mask.png)"
    if reason := absent if missing else metrics.why_undefined(masks, unit="pixel"):
        return dict.fromkeys(("pixel_auroc", "pixel_aupr", "pixel_aupro_0.30", "pixel_f1_max")), reason
    auroc, aupr = metrics.pixel_auroc_aupr(masks, maps)
    aupro, (f1, _) = metrics.pixel_aupro(masks, maps), metrics.pixel_f1_max(masks, maps)
    return {"pixel_auroc": auroc, "pixel_aupr": aupr, "pixel_aupro_0.30": aupro, "pixel_f1_max": f1}, ""


def _caught(defects, called):
    """`{kind of defect: "k of n"}`, of images called anomalous."""
    kinds = np.array(defects)
    return {
        kind: f"{int(called[kinds == kind].sum())} of {int((kinds == kind).sum())}"
        for kind in sorted(set(defects) - {"good"})
    }


def _scored(arrays, scores, called):
    """The rows of scores.csv."""
    rows = zip(arrays.test_names, arrays.labels, arrays.defects, scores, called, strict=True)
    return [
        {"image": name, "label": int(label), "defect": defect, "score": float(score), "called_anomalous": int(over)}
        for name, label, defect, score, over in rows
    ]


def _announce(detector, images, say):
    """Says how many images will be scored and about how long it takes, from the first, which is scored again.

    Where scores depend on the images before, no time is taken.
    """
    if say is None or not images:
        return
    if detector.continues:
        say(f"scores {len(images)} images")
        return
    detector.evidences(images[:1])  # compiles
    start = time.perf_counter()
    detector.evidences(images[:1])
    seconds = (time.perf_counter() - start) * len(images)
    bound = "at most about" if detector.at_once > 1 else "about"
    if seconds > 1:
        shown = f"{seconds / 60:.0f} minutes" if seconds > 100 else f"{seconds:.0f} s"
        say(f"scores {len(images)} images, {bound} {shown}")


def _inside_regions(arrays, maps, scores, cut):
    """`evaluation.regions.region_metrics` of labelled images; what is not defined is None, with its reason.

    Beside them the figures of `evaluate` count an image whose defect lies wholly outside its region as anomalous.
    """
    values = region_metrics(arrays.labels, scores, arrays.masks, maps, arrays.rois, image_threshold=cut)
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def export(folder, output=None, say=None):
    """Writes the model folder: the SavedModel as `1/`, metadata.json and README.md.

    Args:
        folder: the detector's.
        output: the model's; `<folder>/export` by default.
        say: called with how large the model will be, where given.

    Returns:
        `(path of the model folder, metadata)`.

    Raises:
        OwnError: see `stored_detector`; the method cannot be exported with its settings.
    """
    detector, run = stored_detector(folder, calibrated=True)
    calibration, evaluation = _calibration(run), read_json(run.path / "evaluation" / "metrics.json")
    if evaluation and evaluation.get("threshold") != calibration["threshold"]:
        evaluation = None  # of a threshold that is no longer the detector's
    if evaluation:
        evaluation.pop("data", None)  # where the images lie here is nobody's business elsewhere
    place, manifest, name = Path(output or run.path / "export"), run.manifest, run.config["method"]
    parameters = sum(math.prod(v.shape) for v in detector.weights)
    if say is not None:
        most = 4 * parameters / 1e6 + GRAPH
        say(f"exports {parameters / 1e6:.2g} million parameters: a model of at most about {most:.0f} MB")
    try:
        return place, model_folder.write(
            place,
            detector,
            calibration,
            {
                "method": name,
                "label": OFFERS[name].name,
                "regions": bool(attends(detector) and calibration.get("regions")),
                "trained_on": len(read_json(run.path / "data.json")["train"]),
                "config": {k: v for k, v in run.config.items() if k not in ("method", "data", "held_out")},
                "departures": departure_texts(OFFERS[name].method, vars(detector.config)),
                **{key: manifest[key] for key in model_folder.ORIGIN},
                "evaluation": evaluation,
            },
        )
    except model_folder.NotExported as error:
        raise OwnError(str(error)) from None


def was_evaluated(folder):
    """Whether `evaluate` has left something in a detector's folder."""
    return (Path(folder) / "evaluation" / "metrics.json").exists()
