"""Do the moving statistics of batch normalisation explain GRD-Net's and DRAEM's bad epochs? A training scored 4 ways.

    python benchmarks/normalisation_statistics.py CATEGORY_FOLDER [--method draem] [--noise gray] [--epochs 20]
    python benchmarks/normalisation_statistics.py CATEGORY_FOLDER --run RUN_FOLDER [RUN_FOLDER ...]

Trains as `ganspect reproduce grdnet` does (its samplers, held-out images, rates; seed 0). From epoch `--first` on and
every `--every` epochs the same networks mark the test images with
    moving       what training leaves: running means, about ten batches of eight long (DRAEM's code);
    anew         means over `--batches` training batches drawn for this, networks in training mode ("precise" batch
                 normalisation, Wu and Johnson, arXiv 2105.07576, section 3);
    anew, clean  the same of batches without corruption;
    averaged     weights averaged over training (factor 0.99 a step), statistics measured anew for them.
Printed for each: image and pixel AUROC of A and the U-Net's loss on held-out corrupted images, then medians and ranges.
No way is chosen by them: rows of the tables are "moving". With `--run` nothing is trained: checkpoints of
stored runs of GRD-Net or DRAEM are scored, with statistics "moving" and "anew" (`SegmentingDetector.renew_statistics`);
of several with equal settings also the mean of their weights, anew (Izmailov et al., arXiv 1803.05407).
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import timing

WAYS = ("moving", "anew", "anew, clean", "averaged")
FACTOR = 0.99
COLUMNS = ("image AUROC", "pixel AUROC", "held-out loss of the U-Net")


def main():
    """Trains and prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("category", type=Path)
    parser.add_argument("--method", choices=("grdnet", "draem"), default="draem")
    parser.add_argument("--noise", help="of GRD-Net's masks, instead of its default")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--first", type=int, default=5, help="the first epoch that is scored")
    parser.add_argument("--every", type=int, default=1, help="epochs from one scoring to the next")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--run", type=Path, nargs="+", help="folders of stored runs, whose checkpoints are scored")
    options = parser.parse_args()
    if options.run:
        return stored(options)

    import keras

    from ganspect.data.arrays import load_category, split_held_out
    from ganspect.data.patches import stack_images
    from ganspect.reproduce import grdnet
    from ganspect.reproduce.runner import HeldOut, training_images
    from ganspect.training.callbacks import RateSchedule, Recorder
    from ganspect.training.fit import fit
    from ganspect.training.run import Run

    method = grdnet.METHODS[options.method]
    sizes = dict(image_size=options.size, patch_size=options.size, patch_stride=max(1, options.size // 2))
    noise = {"noise": options.noise} if options.noise else {}
    config = method.config(width=options.width, epochs=options.epochs, **sizes, **noise)
    arrays = load_category(options.category, channels=config.channels, size=options.size)
    kept, held_out = split_held_out(arrays)
    detector = method.build(config)
    detector.compile()
    stack, shapes = stack_images(training_images(method, arrays, kept))
    sampler = method.sampler(config, shapes)
    judge = Judge(detector, arrays, stack, sampler, options.batches)
    measure = HeldOut(method, detector, training_images(method, arrays, held_out))
    rows = []

    class Score(keras.callbacks.Callback):
        """Averages the weights after each step; scores after each epoch."""

        def on_train_batch_end(self, batch, logs=None):
            judge.average()

        def on_epoch_end(self, epoch, logs=None):
            if epoch + 1 >= options.first and (epoch + 1 - options.first) % options.every == 0:
                found = judge(measure)
                rows.append((epoch + 1, found))
                cells = [" / ".join(f"{value:.3g}" for value in found[way]) for way in WAYS]
                print("| " + " | ".join([str(epoch + 1), *cells]) + " |", flush=True)

    print(timing.table(("epoch", *WAYS), []), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Run(Path(folder)), 0, sampler.steps, measure, options.epochs + 1)
        fit(detector, stack, sampler, options.epochs, 0, [recorder, RateSchedule(recorder), Score()])
    print("\nmedian (least to most) over these epochs\n")
    print(timing.table(("statistics", *COLUMNS), [_summary(way, rows) for way in WAYS]))


def stored(options):
    """Prints a row for each of the stored runs."""
    import json
    from dataclasses import fields

    from ganspect.data.arrays import load_category, split_held_out
    from ganspect.data.patches import stack_images
    from ganspect.reproduce import grdnet
    from ganspect.reproduce.runner import HeldOut, training_images
    from ganspect.training.callbacks import RenewStatistics
    from ganspect.training.checkpoint import load_state
    from ganspect.training.run import Run

    rows, weights = [], []
    for folder in options.run:
        known = json.loads((folder / "config.json").read_text())
        method = grdnet.METHODS[known["method"]]
        config = method.config(**{f.name: known[f.name] for f in fields(method.config) if f.name in known})
        if not rows:
            arrays = load_category(options.category, channels=config.channels, size=config.image_size)
            kept, held_out = split_held_out(arrays)
            stack, shapes = stack_images(training_images(method, arrays, kept))
        detector = method.build(config)
        detector.compile()
        epoch = load_state(Run(folder).checkpoint, detector.state).epoch
        weights.append([v.numpy() for v in detector.trainable_variables])
        measure = HeldOut(method, detector, training_images(method, arrays, held_out))
        renew = RenewStatistics(detector, stack, method.sampler(config, shapes), options.batches).on_epoch_end
        found = {"moving": scored(detector, arrays, measure)}
        renew(epoch)
        found["anew"] = scored(detector, arrays, measure)
        rows.append((epoch, found))
        cells = [" / ".join(f"{value:.3g}" for value in found[way]) for way in found]
        if len(rows) == 1:
            print(timing.table(("epoch", *found), []), flush=True)
        print("| " + " | ".join([str(epoch), *cells]) + " |", flush=True)
    lines = [_summary(way, rows) for way in ("moving", "anew")]
    if len(weights) > 1:
        for v, *values in zip(detector.trainable_variables, *weights, strict=True):
            v.assign(np.mean(values, axis=0))
        renew(epoch)
        lines.append(["anew, mean of the weights", *(f"{value:.3g}" for value in scored(detector, arrays, measure))])
    print("\nmedian (least to most) over these epochs\n")
    print(timing.table(("statistics", *COLUMNS), lines))


def _summary(way, rows):
    """A row of the second table."""
    values = np.array([found[way] for _, found in rows])
    cells = [f"{np.median(v):.3f} ({v.min():.3f} to {v.max():.3f})" for v in values.T[:2]]
    return [way, *cells, f"{np.median(values[:, 2]):.4f} ({values[:, 2].min():.4f} to {values[:, 2].max():.4f})"]


def scored(detector, arrays, measure):
    """Image AUROC, pixel AUROC and the held-out loss as the networks stand."""
    from ganspect.evaluation.metrics import image_auroc, pixel_auroc

    found = detector.evidences(arrays.test)
    loss = measure.losses(measure.batch)
    return (
        image_auroc(arrays.labels, [detector.score_from(one) for one in found]),
        pixel_auroc(arrays.masks, [detector.map_from(one) for one in found]),
        float(loss["focal" if "focal" in loss else "s_loss"]),
    )


class Judge:
    """Scores a detector with each of the ways' statistics and weights, and leaves it as it was.

    Args:
        detector: compiled `SegmentingDetector`.
        arrays: `CategoryArrays`, with masks.
        stack, sampler: of the training.
        count: batches that statistics are measured on.
    """

    def __init__(self, detector, arrays, stack, sampler, count):
        import keras
        import tensorflow as tf

        from ganspect.data.patches import at_hand

        self.detector, self.arrays = detector, arrays
        self.networks = [
            detector.segmentation,
            *([detector.reconstructive] if hasattr(detector, "reconstructive") else []),
        ]
        self.norms = [
            layer
            for network in self.networks
            for layer in network._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        self.weights = detector.trainable_variables
        self.means = [tf.Variable(v.value) for v in self.weights]
        self.batches = []
        for epoch in range(10**6, 10**6 + count):  # no epoch of the training
            drawn = sampler.draws(epoch)
            row = {name: values[0] for name, values in drawn.items()}
            self.batches.append(detector.prepare(sampler.batch(*at_hand(stack, row))))

        def average():
            for mean, v in zip(self.means, self.weights, strict=True):
                mean.assign_add((v - mean) * (1 - FACTOR))

        self._average = tf.function(average, autograph=False)

    def average(self):
        """After a step."""
        self._average()

    def statistics(self):
        """Means and variances of all normalisations, NumPy."""
        return [v.numpy() for layer in self.norms for v in (layer.moving_mean, layer.moving_variance)]

    def set(self, values):
        """Puts such values in their place."""
        variables = [v for layer in self.norms for v in (layer.moving_mean, layer.moving_variance)]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def anew(self, name):
        """Measures the statistics anew on "corrupted" or clean "images" and leaves them in place."""
        self.detector.renew_statistics([{"corrupted": np.asarray(batch[name])} for batch in self.batches])

    def scores(self, measure):
        """Image AUROC, pixel AUROC and the held-out loss as the networks stand."""
        return scored(self.detector, self.arrays, measure)

    def __call__(self, measure):
        """`{way: scores}`."""
        before, found = self.statistics(), {}
        found["moving"] = self.scores(measure)
        for way, name in (("anew", "corrupted"), ("anew, clean", "images")):
            self.anew(name)
            found[way] = self.scores(measure)
        kept = [v.numpy() for v in self.weights]
        for v, mean in zip(self.weights, self.means, strict=True):
            v.assign(mean)
        self.anew("corrupted")
        found["averaged"] = self.scores(measure)
        for v, value in zip(self.weights, kept, strict=True):
            v.assign(value)
        self.set(before)
        return found


if __name__ == "__main__":
    main()
