"""A detector for the user's own images: `ganspect train`, `calibrate`, `evaluate`, `export`.

Each works on a detector's folder and on what the one before left there:

config.json, manifest.json, status.json, history.csv, checkpoints/   as of every run (`training.run`)
data.json          where the images are, which of them are held out, digests of their files
calibration.json   threshold, its rate of false alarms, scores of the held-out images
evaluation/        metrics.json, scores.csv, histogram.png
export/            the model: 1/ (SavedModel), metadata.json, README.md

Beside it `.<name>.lock` says which process trains there (`training.locks`).
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganspect.data import arrays as data_arrays
from ganspect.data import check, on_disk, samples
from ganspect.data.images import DataError, image_size, read_bytes
from ganspect.evaluation import metrics, plots, thresholds
from ganspect.evaluation.regions import region_metrics
from ganspect.models.fcbigan import least_side
from ganspect.reproduce import anogan_ganomaly, cbigan, fcbigan, grdnet, runner, scoring
from ganspect.reproduce.baselines import QUICK_FANOGAN
from ganspect.reproduce.cells import parse_settings
from ganspect.training.callbacks import Diverged
from ganspect.training.checkpoint import load_state, position_of, save_state
from ganspect.training.files import read_json, write_json
from ganspect.training.locks import Held, Lock
from ganspect.training.run import Run, make_manifest

LEAST = 8  # training images
SMALL_STEPS = 600  # of methods that see an image as a whole, at least
SHOWN = 5  # files that a message names
CHOICES = ("f1", "youden")


class OwnError(ValueError):
    """What was asked for cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class Offer:
    """A method as `ganspect train` offers it.

    Args:
        paper, key: the script that has it, and its name there.
        settings: `(number of training images, (height, width) of the smallest) -> settings`, channels aside.
        minutes: of `reference` images trained on, on two cores.
        reference: images, all epochs together, that take `minutes` at these settings.
        why: what it is good for, one line.
        label: its name, where it is not the script's.
    """

    paper: object
    key: str
    settings: object
    minutes: float
    reference: int
    why: str
    label: str = ""

    @property
    def name(self):
        return self.label or self.method.label

    @property
    def method(self):
        return self.paper.METHODS[self.key]


def _fcbigan(count, size):
    stride = 4
    sides = {least_side(patch, stride): patch for patch in (16, 32, 48)}
    patch = max((patch for side, patch in sides.items() if side <= min(size)), default=0)
    if not patch:
        raise OwnError(f"images of {size[0]}x{size[1]} pixels are too small: FCBiGAN takes {min(sides)} or more")
    quick = fcbigan.PROFILES["quick"]["fcbigan"].settings
    chosen = dict(patch_size=patch, map_stride=stride, filter_size=min(48, 2 * (min(size) // 4)))
    return quick | chosen | dict(latent_overlap="mean")  # the sum takes D out of the range of its training: its card


def _cbigan(count, size):
    return cbigan.QUICK | dict(image_size=64, patch_size=64)


def _ganomaly(count, size):
    return dict(epochs=max(15, _epochs(count, 64)), image_size=64, batch_size=min(64, count))


def _anogan(count, size):
    return dict(image_size=64, width=32, epochs=max(25, _epochs(count, 32)), search_steps=200)


def _fanogan(count, size):
    patch = 64 if min(size) >= 64 else 32
    if min(size) < patch:
        raise OwnError(f"images of {size[0]}x{size[1]} pixels are too small: f-AnoGAN takes patches of 32 or more")
    return QUICK_FANOGAN | dict(patch_size=patch, score="residual")


def _corrupted(count, size):
    side = 128 if min(size) >= 128 else 64
    return dict(width=16, epochs=max(10, _epochs(count, 8, 300)), image_size=side, patch_size=side)


def _grdnet(count, size):
    # As the authors' codes, and what its held-out loss asks for: its card, "The noise" and "Single epochs are luck".
    return _corrupted(count, size) | dict(noise="gray", statistics_batches=max(1, min(30, count // 8)))


def _draem(count, size):
    settings = _corrupted(count, size)
    return settings | dict(schedule_epochs=settings["epochs"])


def _epochs(count, batch, steps=SMALL_STEPS):
    """Epochs that make so many steps."""
    return math.ceil(steps / max(1, count // batch))


OFFERS = {
    "fcbigan": Offer(fcbigan, "fcbigan", _fcbigan, 40, 180_000, "textures and fabrics of any size, pixel maps"),
    "grdnet": Offer(
        grdnet, "grdnet-case-2", _grdnet, 22, 2_400, "objects, pixel maps, regions of interest", label="GRD-Net"
    ),
    "draem": Offer(grdnet, "draem", _draem, 12, 2_400, "objects, pixel maps"),
    "cbigan": Offer(cbigan, "cbigan", _cbigan, 12, 96_000, "objects seen as a whole"),
    "ganomaly": Offer(cbigan, "ganomaly", _ganomaly, 20, 40_000, "objects seen as a whole; fast to score"),
    "f-anogan": Offer(cbigan, "f-anogan", _fanogan, 12, 40_000, "textures, pixel maps"),
    "anogan": Offer(anogan_ganomaly, "anogan", _anogan, 15, 70_000, "objects seen as a whole; slow to score"),
}


@dataclass(frozen=True)
class Plan:
    """What a training will be, before it starts.

    Args:
        name: of the method.
        config: its settings.
        arrays: the images.
        kept, held_out: indices of the training images.
        minutes: about how long on two cores.
        digests: `{name: SHA-256}` of the files of both.
        remarks: what the check of the data found, in words.
    """

    name: str
    config: object
    arrays: data_arrays.CategoryArrays
    kept: np.ndarray
    held_out: np.ndarray
    minutes: float
    digests: dict
    remarks: str = ""

    def text(self):
        """The choices in words."""
        c, shown = self.config, ("image_size", "patch_size", "width", "batch_size", "epochs", "map_stride")
        values = ", ".join(f"{name} {getattr(c, name)}" for name in shown if getattr(c, name, 0))
        color = "gray" if c.channels == 1 else "RGB"
        seen = OFFERS[self.name].method.attends and self.arrays.train_rois
        rois = ", with regions of interest" if seen else ""
        repeated = len(self.arrays.train) - len(self.kept) - len(self.held_out)
        left = [f"{repeated} images that repeat a held-out one byte for byte are left out"] if repeated else []
        minutes = max(1, round(self.minutes))
        return "\n".join(
            [
                *([self.remarks] if self.remarks else []),
                *left,
                f"{len(self.kept)} images to train on, {len(self.held_out)} held out for the threshold; {color}{rois}",
                f"{self.name} ({OFFERS[self.name].why}): {values}; --set FIELD=VALUE changes them",
                f"about {minutes} minute{'s' * (minutes != 1)} on two cores",
            ]
        )


def plan(name, folder, overrides=(), seed=0, held_out=None):
    """Reads the images and chooses the settings.

    Args:
        name: of a method, from `OFFERS`.
        folder: a plain folder of normal images, or a category in a layout that `data.samples` knows.
        overrides: `field=value` texts.
        seed: of the training.
        held_out: images to hold out; by default 10 %, but at least 20 or a third of all, whichever is fewer.

    Returns:
        `Plan`.

    Raises:
        DataError: a file that cannot be used; every such file is named.
        OwnError: there are too few images, or a setting is refused.
    """
    offer = OFFERS[name]
    category = samples.scan(folder)
    report = check.check(category)
    if not report.ok:
        raise DataError(folder, report.message())
    count = len(category.train)
    if count < LEAST:
        raise OwnError(f"{folder}: {count} normal images; {LEAST} are the least, 100 and more are better")
    sizes = [image_size(sample.path) for sample in category.train]
    size = tuple(min(side) for side in zip(*sizes, strict=True))
    digests = {sample.name: check.digest_of(read_bytes(sample.path)) for sample in category.train}
    kept, held = _divided(list(digests.values()), count_held_out(count, held_out))
    if len(kept) < LEAST // 2:
        raise OwnError(f"{folder}: {len(kept)} images are left to train on, the others repeat held-out ones")
    try:
        settings = offer.settings(len(kept), size)
        fixed = offer.method.settings if isinstance(offer.method.settings, dict) else {}
        settings = settings | fixed | {"channels": category.channels, "seed": seed}
        settings |= parse_settings(overrides, offer.method.config)
        config = offer.method.config(**settings)
        minutes = estimate(offer, config, len(kept))
    except OwnError:
        raise
    except ValueError as error:
        raise OwnError(f"{name}: {error}") from None
    arrays = data_arrays.load_arrays(category, config.channels, getattr(config, "image_size", None) or None)
    return Plan(name, config, arrays, kept, held, minutes, digests, report.remarks())


def _divided(digests, left_out):
    """Indices to train on and held out, the last by name; what repeats a held-out image is in neither."""
    held = np.arange(len(digests) - left_out, len(digests))
    unseen = {digests[i] for i in held}
    return np.array([i for i in range(len(digests) - left_out) if digests[i] not in unseen], int), held


def count_held_out(count, asked=None):
    """How many of so many training images are held out.

    Raises:
        OwnError: not enough are left to train on, or none is held out.
    """
    number = max(samples.held_out_count(count), min(20, count // 3)) if asked is None else asked
    if not 0 < number <= count - LEAST // 2:
        raise OwnError(f"--held-out {number} of {count} images: at least 1, and {LEAST // 2} must be left to train on")
    return number


def estimate(offer, config, count):
    """Minutes of a training on two cores, from the images of its epochs."""
    sampler = offer.method.sampler(config, ((config.patch_size, config.patch_size),) * count)
    reference = offer.method.config(**offer.settings(count, (512, 512)))
    scale = (config.patch_size / reference.patch_size) ** 2 * (config.width / reference.width) ** 2
    return offer.minutes * sampler.steps * sampler.batch_size * config.epochs / offer.reference * scale


def train(chosen, output, options, channel):
    """Trains, or goes on where the detector's folder stands.

    Args:
        chosen: `Plan`.
        output: the detector's folder.
        options: with `threads`, `devices`, `force`, `data`.
        channel: `training.grid.Channel`.

    Raises:
        ConfigMismatch: the folder holds a detector of other settings or images.
        Diverged: a loss became infinite.
        KeyboardInterrupt: SIGINT or SIGTERM came; the same command goes on.
        OwnError: another process trains there, the folder holds something else, or a batch does not divide between the
            devices.
    """
    place = Path(output)
    try:
        with Lock(place.resolve().parent / f".{place.resolve().name}.lock"):
            _train(chosen, place, options, channel)
    except Held as error:
        raise OwnError(f"{output} is being trained by {error}") from None


def _train(chosen, output, options, channel):
    """`train`, with the lock."""
    import keras

    run, config, arrays = Run(output), chosen.config, chosen.arrays
    if run.path.is_dir() and any(run.path.iterdir()) and "method" not in run.config:
        raise OwnError(f"{output} is not empty and holds no detector: nothing was written")
    if config.batch_size % options.devices.count:
        raise OwnError(f"a batch of {config.batch_size} does not divide between {options.devices.count} devices")
    if options.force:
        run.restart()
    method = OFFERS[chosen.name].method
    stored = dataclasses.asdict(config) | {"method": chosen.name, "data": arrays.fingerprint}
    stored |= {"held_out": len(chosen.held_out)}
    backend = keras.backend.backend()
    manifest = make_manifest(config.seed, arrays.fingerprint, options.threads, backend, options.devices)
    for line in run.open(stored, manifest, position=position_of(run.checkpoint)):
        channel.say(line)
    names = [[arrays.train_names[i] for i in part] for part in (chosen.kept, chosen.held_out)]
    folder = str(Path(options.data).resolve())
    digests = {name: chosen.digests[name] for part in names for name in part}
    write_json(run.path / "data.json", {"folder": folder, "train": names[0], "held_out": names[1], "digests": digests})
    with options.devices.scope():
        detector = method.build(config)
        detector.compile()
    held_out = runner.HeldOut(method, detector, runner.training_images(method, arrays, chosen.held_out))
    images = runner.training_images(method, arrays, chosen.kept)
    try:
        runner.train(method, detector, images, held_out, run, channel, chosen.name, options.devices)
    except KeyboardInterrupt:
        run.set_status("interrupted")
        raise
    except Diverged as error:
        run.set_status("diverged", message=str(error))
        raise


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
    if not isinstance(status, dict) or not isinstance(run.config, dict) or "state" not in status:
        raise OwnError(f"{folder}: status.json or config.json is damaged; train again with --force")
    if status["state"] not in ("trained", "finished"):
        found = f"its training is {status['state']}" if run.config else "there is no detector"
        raise OwnError(f"{folder}: {found}; ganspect train --method METHOD --data FOLDER --output {folder}")
    if run.config.get("method") not in OFFERS or not (run.path / "data.json").exists():
        raise OwnError(f"{folder} holds no detector that `ganspect train` has made")
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
    load_state(_calibrated(run) if calibrated else _best(run), detector.state)
    return detector, run


def _calibration(run):
    """What `calibrate` has stored.

    Raises:
        OwnError: it is damaged.
    """
    found = read_json(run.path / "calibration.json")
    if not isinstance(found, dict) or not {"threshold", "regions", "note"} <= set(found):
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
        images, regions, digests = _held_out_images(run, detector, remarks)
    else:
        images, regions, digests = _normal_images(normals, detector, run, remarks)
    if not images:
        raise OwnError(f"{normals or folder}: no normal images to calibrate with" + "".join(f"; {r}" for r in remarks))
    detector.calibrate(images)
    _announce(detector, images, say)
    scores, peaks, _ = _examined(detector, images, regions)
    found = thresholds.rate_threshold(scores, rate)
    scaled = "; rates are approximate: the same images set the scale of the scores" if detector.fitted else ""
    pixel = thresholds.rate_threshold(peaks, rate)
    stored = {
        "threshold": found.value,
        "median": float(np.median(scores)),
        "pixel_threshold": pixel.value,
        "false_alarm_rate": rate,
        "expected_rate": found.expected,
        "rate_bound": found.bound,
        "held_out": found.n,
        "chosen_by": f"false-alarm rate {rate:g} on {found.n} normal images{scaled}",
        "note": found.note + scaled,
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
    arrays, digests = _labelled(folder, detector, run, inside, remarks, stored["normal_digests"])
    _announce(detector, arrays.test, say)
    scores, _, _ = _examined(detector, arrays.test, arrays.rois if inside else None)
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
        `{metric: value}`, and "remarks": what was left out or passed over.

    Raises:
        OwnError: see `stored_detector`; there are no test images, or they have no regions of interest where the
            threshold is of scores inside such.
        DataError: a file cannot be read, or a mask or region is missing or ambiguous.
    """
    detector, run = stored_detector(folder, calibrated=True)
    calibration, remarks = _calibration(run), []
    inside = bool(calibration["regions"])
    arrays, digests = _labelled(data, detector, run, inside, remarks, calibration.get("normal_digests", ()))
    _announce(detector, arrays.test, say)
    scores, _, maps = _examined(detector, arrays.test, arrays.rois if inside else None, maps=True)
    name = detector.score_names[0]
    cut, labels = calibration["threshold"], arrays.labels
    called = scores >= np.float32(cut)
    found = {"images": len(labels), "normal": int(np.sum(labels == 0)), "anomalous": int(np.sum(labels == 1))}
    found |= {
        "threshold": cut,
        "false_alarms": int(called[labels == 0].sum()),
        "caught": int(called[labels == 1].sum()),
    }
    if chose := len({*digests} & {*calibration.get("labelled_digests", ())}):
        found["chose_threshold"] = chose
        remarks.append(f"{chose} of these images chose the threshold: what is counted at it is optimistic")
    reason = metrics.why_undefined(labels)
    if reason:
        remarks.append(f"no AUROC: {reason}")
    else:
        found["image_auroc"] = metrics.image_auroc(labels, scores)
        found["image_auroc_low"], found["image_auroc_high"] = scoring.statistics.bootstrap_image_auroc(labels, scores)
        found["image_ap"] = metrics.image_ap(labels, scores)
        found["image_balanced_accuracy"] = metrics.balanced_accuracy(labels, scores, cut)
    if all(mask is not None for mask in arrays.masks) and not reason:
        if of_pixels := metrics.why_undefined(arrays.masks, unit="pixel"):
            remarks.append(f"no pixel AUROC: {of_pixels}")
        else:
            found["pixel_auroc"], found["pixel_aupr"] = metrics.pixel_auroc_aupr(arrays.masks, maps)
    found["caught_by_defect"] = {
        defect: f"{int(called[rows].sum())} of {int(rows.sum())}"
        for defect in sorted(set(arrays.defects) - {"good"})
        if (rows := np.array(arrays.defects) == defect).any()
    }
    if inside:
        found["inside"] = _inside_regions(arrays, maps, scores, cut)
    found["remarks"] = remarks
    place = run.path / "evaluation"
    place.mkdir(exist_ok=True)
    write_json(place / "metrics.json", found | {"data": str(Path(data).resolve()), "fingerprint": arrays.fingerprint})
    rows = zip(arrays.test_names, labels, arrays.defects, scores, called, strict=True)
    columns = ("image", "label", "defect", "score", "called_anomalous")
    table = [dict(zip(columns, (n, int(y), d, float(s), int(c)), strict=True)) for n, y, d, s, c in rows]
    run.write_table("evaluation/scores.csv", table)
    figure = plots.score_histograms(scores[labels == 0], scores[labels == 1], f"{detector.name}: {name}", threshold=cut)
    plots.save_figure(figure, place / "histogram.png")
    return found


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


def _examined(detector, images, regions=None, maps=False):
    """What a few images at a time give: memory stays bounded, whatever evidence the method keeps of an image.

    Args:
        images: uint8 `[H, W, C]` each.
        regions: bool `[H, W]` or None each, where scores are taken inside.
        maps: whether the maps are wanted too, on disk where they are many.

    Returns:
        Scores `[N]`, maxima of the maps `[N]`, and the maps `[H, W]` or nothing.
    """
    scores, peaks, kept, shelf = [], [], [], on_disk.Shelf()
    for first in range(0, len(images), detector.at_once):
        for i, found in enumerate(detector.evidences(images[first : first + detector.at_once]), first):
            region = None if regions is None else regions[i]
            scores.append(detector.score_from(found) if region is None else detector.score_inside(found, region))
            heat = detector.map_from(found, _map_name(detector))
            peaks.append(float(heat.max()))
            if maps:
                kept.append(shelf.put(np.asarray(heat)))
    return np.array(scores), np.array(peaks), kept


def _fitting(detector, images, regions, remarks):
    """Indices of the images that are large enough and whose region, where there is one, is not empty."""
    least = 1 if detector.input_size else getattr(detector, "smallest", detector.config.patch_size)
    small = {i for i, image in enumerate(images) if min(image.shape[:2]) < least}
    empty = {i for i, region in enumerate(regions or ()) if region is not None and not region.any()} - small
    for left, words in ((small, f"smaller than {least} pixels"), (empty, "with an empty region of interest")):
        if left:
            remarks.append(f"{len(left)} images {words} are left out")
    return [i for i in range(len(images)) if i not in small | empty]


def _map_name(detector):
    first = detector.score_names[0]
    return first if detector.map_names is None or first in detector.map_names else detector.map_names[0]


def _attends(detector):
    """Whether the detector was trained with regions of interest, which its scores then keep to."""
    return hasattr(detector.config, "loss_case") and detector.config.loss_case != 1


def _held_out_images(run, detector, remarks):
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
        raise OwnError(f"held-out images have changed since the training: {_named(changed)}; --normals FOLDER")
    arrays = data_arrays.load_arrays(
        dataclasses.replace(category, samples=chosen), detector.config.channels, detector.input_size
    )
    return *_normals_of(arrays, detector, remarks)[:2], []


def _normals_of(arrays, detector, remarks):
    """The training images that fit, their regions, and their names."""
    rois = arrays.train_rois if _attends(detector) else None
    kept = _fitting(detector, arrays.train, rois, remarks)
    names = [arrays.train_names[i] for i in kept]
    return [arrays.train[i] for i in kept], rois and [rois[i] for i in kept], names


def _normal_images(folder, detector, run, remarks):
    """The normal images of a folder that the detector was not trained on, their regions and digests."""
    category = _sound(samples.scan(folder))
    chosen = _others(category.train, run, ("train",), remarks)
    category = dataclasses.replace(category, samples=tuple(chosen))
    arrays = data_arrays.load_arrays(category, detector.config.channels, detector.input_size)
    by_name = {sample.name: digest for sample, digest in chosen.items()}
    images, regions, names = _normals_of(arrays, detector, remarks)
    return images, regions, [by_name[name] for name in names]


def _named(names):
    """Some files in words."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def _sound(category):
    """The category itself.

    Raises:
        DataError: a mask or region is missing or ambiguous, or a link leads nowhere.
    """
    if category.problems:
        texts = [f"{path.relative_to(category.root)}: {text}" for path, text in category.problems]
        raise DataError(category.root, _named(texts))
    return category


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


def _labelled(folder, detector, run, inside, remarks, also=()):
    """The test images of a category, or the images of a folder with a folder for each kind, and their digests.

    Those that the detector has seen are left out, and those with one of the digests in `also`.

    Args:
        inside: whether the threshold is of scores inside regions of interest.
        remarks: list that gets what was left out or passed over.

    Raises:
        OwnError: there are none, or they have no regions where they need such.
        DataError: see `_sound`; a file cannot be read.
    """
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
    remarks += [f"{text} ({_named(names)})" for text, names in by_text.items()]
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
    if arrays.rois and not inside and _attends(detector):
        remarks.append("regions of interest are passed over: the threshold is of scores without")
    by_name = {sample.name: digest for sample, digest in chosen.items()}
    return arrays, [by_name[name] for name in arrays.test_names]


def export(folder, output=None):
    """Writes the model folder: the SavedModel as `1/`, metadata.json and README.md.

    Args:
        folder: the detector's.
        output: the model's; `<folder>/export` by default.

    Returns:
        `(path of the model folder, metadata)`.

    Raises:
        OwnError: see `stored_detector`; the method cannot be exported with its settings.
    """
    from ganspect.reproduce import model_folder

    detector, run = stored_detector(folder, calibrated=True)
    calibration, evaluation = _calibration(run), read_json(run.path / "evaluation" / "metrics.json")
    if evaluation and evaluation.get("threshold") != calibration["threshold"]:
        evaluation = None  # of a threshold that is no longer the detector's
    if evaluation:
        evaluation.pop("data", None)  # where the images lie here is nobody's business elsewhere
    place, manifest, name = Path(output or run.path / "export"), run.manifest, run.config["method"]
    try:
        return place, model_folder.write(
            place,
            detector,
            calibration,
            {
                "method": name,
                "label": OFFERS[name].name,
                "regions": bool(_attends(detector) and calibration.get("regions")),
                "trained_on": len(read_json(run.path / "data.json")["train"]),
                "config": {k: v for k, v in run.config.items() if k not in ("method", "data", "held_out")},
                **{key: manifest[key] for key in model_folder.ORIGIN},
                "evaluation": evaluation,
            },
        )
    except model_folder.NotExported as error:
        raise OwnError(str(error)) from None


def was_evaluated(folder):
    """Whether `evaluate` has left something in a detector's folder."""
    return (Path(folder) / "evaluation" / "metrics.json").exists()
