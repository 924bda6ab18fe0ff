"""A detector for the user's own images: what `ganspect train` offers, plans and does.

`own_detector` goes on from there; each command works on a detector's folder and on what the one before left there:

config.json, manifest.json, status.json, history.csv, checkpoints/   as of every run (`training.run`)
data.json          where the images are, which of them are held out, digests of their files
calibration.json   threshold, its rate of false alarms, scores of the held-out images
evaluation/        metrics.json, scores.csv, histogram.png
export/            the model: 1/ (SavedModel), metadata.json, README.md

Beside it `.<name>.lock` says which process trains there (`training.locks`).
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganspect.data import arrays as data_arrays
from ganspect.data import check, samples
from ganspect.data.images import DataError, image_size, read_bytes
from ganspect.models.fcbigan import least_side
from ganspect.models.precision import FULL, remark
from ganspect.reproduce import anogan_ganomaly, cbigan, fcbigan, grdnet, runner
from ganspect.reproduce.baselines import QUICK_FANOGAN
from ganspect.reproduce.cells import departure_texts, parse_settings
from ganspect.reproduce.plan import room_of
from ganspect.training.callbacks import Diverged
from ganspect.training.checkpoint import position_of
from ganspect.training.files import write_json
from ganspect.training.locks import Held, Lock
from ganspect.training.run import Run, make_manifest

LEAST = 8  # training images
SMALL_STEPS = 600  # of methods that see an image as a whole, at least


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

    def text(self, folder="."):
        """The choices in words, with what they cost where checkpoints are written to `folder`."""
        offer, c = OFFERS[self.name], self.config
        shown = ("image_size", "patch_size", "width", "batch_size", "epochs", "map_stride")
        values = ", ".join(f"{name} {getattr(c, name)}" for name in shown if getattr(c, name, 0))
        color = "gray" if c.channels == 1 else "RGB"
        seen = offer.method.attends and self.arrays.train_rois
        rois = ", with regions of interest" if seen else ""
        repeated = len(self.arrays.train) - len(self.kept) - len(self.held_out)
        left = [f"{repeated} images that repeat a held-out one byte for byte are left out"] if repeated else []
        minutes = max(1, round(self.minutes))
        changes = "; ".join(departure_texts(offer.method, vars(c)))
        checkpoints = 2 + bool(getattr(c, "early_stopping", False))  # the last, that of `calibrate`, the best
        return "\n".join(
            [
                *([self.remarks] if self.remarks else []),
                *left,
                f"{len(self.kept)} images to train on, {len(self.held_out)} held out for the threshold; {color}{rois}",
                f"{self.name} ({offer.why}): {values}; --set FIELD=VALUE changes them",
                f"other than in the method's paper: {changes}" if changes else "all settings are those of its paper",
                f"about {minutes} minute{'s' * (minutes != 1)} on two cores",
                room_of(offer.paper, offer.key, c, checkpoints, folder),
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
        options: with `threads`, `devices`, `precision`, `force`, `data`.
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
    stored |= {"precision": options.precision} if options.precision != FULL else {}
    backend = keras.backend.backend()
    manifest = make_manifest(config.seed, arrays.fingerprint, options.threads, backend, options.devices)
    for line in run.open(stored, manifest, position=position_of(run.checkpoint)):
        channel.say(line)
    if line := remark(options.precision):
        channel.say(line)
    names = [[arrays.train_names[i] for i in part] for part in (chosen.kept, chosen.held_out)]
    folder = str(Path(options.data).resolve())
    digests = {name: chosen.digests[name] for part in names for name in part}
    write_json(run.path / "data.json", {"folder": folder, "train": names[0], "held_out": names[1], "digests": digests})
    with options.devices.scope():
        detector = method.build(config)
        detector.precision = options.precision
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
