"""How far apart are GANomaly's published figures by their ways of reading one training? Image AUROC of each reading.

    python benchmarks/ganomaly_readings.py DATA_ROOT --category pill [--epochs 200] [--every 20] [--variants ...]
    python benchmarks/ganomaly_readings.py DATA_ROOT --run runs/anogan_ganomaly/casting/ganomaly/casting/seed_0

Trains each variant of the official recipe on the normal images that are not held out, and scores the test set every
few epochs: with normalisation by moving statistics, by statistics taken anew over 40 batches of training images, or by
those of batches of 64 test images, sorted by defect or shuffled as the authors' code has it; by the second encoder, by
the first one twice, by the residual. Beside the last epoch's value it prints the best one, which picking a checkpoint
on the test set reports. Writes every value as CSV to --output. With --run it reads the last weights of a stored run.
"""

import argparse
import csv
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

VARIANTS = {
    "official": {},
    "probability": {"matching": "probability"},
    "without D": {"adversarial_weight": 0.0},
}
TEST_BATCH = 64


def main():
    """Trains the variants in turn and prints a Markdown table of the readings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_root")
    parser.add_argument("--category", default="pill")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", default="ganomaly_readings.csv")
    parser.add_argument("--run", help="folder of a finished run of GANomaly: train nothing, read its last weights")
    options = parser.parse_args()
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.run:
        return read_run(options)

    from ganspect.data.arrays import load_category, split_held_out
    from ganspect.data.samples import find_categories
    from ganspect.models.ganomaly import GANomalyConfig

    paths = [p for (_, name), p in find_categories(options.data_root).items() if name == options.category]
    if not paths:
        sys.exit(f"no category {options.category} in {options.data_root}")
    path = paths[0]
    config = GANomalyConfig(epochs=options.epochs, width=options.width, image_size=options.size)
    arrays = load_category(path, channels=3, size=config.image_size)
    kept, held_out = split_held_out(arrays)
    rows = []
    for seed in options.seeds:
        for name in options.variants:
            rows += readings_of(
                name, replace(config, seed=seed, **VARIANTS[name]), arrays, kept, held_out, options.every
            )
            with open(options.output, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    print(
        f"{options.category}, {options.epochs} epochs, {options.size} pixels, width {options.width}, "
        f"scored every {options.every} epochs\n"
    )
    print("| variant | seed | normalisation | score | last epoch | lowest | highest |\n|---|---|---|---|---|---|---|")
    keys = dict.fromkeys((r["variant"], r["seed"], r["normalisation"], r["score"]) for r in rows)
    for key in keys:
        values = [r["image_auroc"] for r in rows if (r["variant"], r["seed"], r["normalisation"], r["score"]) == key]
        print(f"| {' | '.join(map(str, key))} | {values[-1]:.3f} | {min(values):.3f} | {max(values):.3f} |")


def read_run(options):
    """Prints the readings of a stored run's last weights."""
    from ganspect.data.arrays import load_category, split_held_out
    from ganspect.data.samples import find_categories
    from ganspect.models.ganomaly import GANomaly, GANomalyConfig
    from ganspect.training.checkpoint import load_state
    from ganspect.training.run import Run

    run = Run(Path(options.run))
    stored = run.config
    config = GANomalyConfig(**{f.name: stored[f.name] for f in fields(GANomalyConfig) if f.name in stored})
    detector = GANomaly(config)
    detector.compile()
    epoch = load_state(run.checkpoint, detector.state).epoch
    path = find_categories(options.data_root)[stored["dataset"], stored["category"]]
    arrays = load_category(path, channels=config.channels, size=config.image_size)
    kept, _ = split_held_out(arrays)
    test = np.asarray(detector.prepare(np.stack(arrays.test)))
    train = np.asarray(detector.prepare(np.stack([arrays.train[i] for i in kept])))
    print(f"{stored['category']}, epoch {epoch} of {config.epochs}\n")
    print("| normalisation | score | AUROC | mean of the score, normal | anomalous |\n|---|---|---|---|---|")
    for how, score, value, means in readings(detector, test, arrays.labels, train):
        print(f"| {how} | {score} | {value:.3f} | {means[0]:.4g} | {means[1]:.4g} |")


def readings_of(name, config, arrays, kept, held_out, every):
    """Rows of one training: AUROC by every reading, and what tells whether it collapsed."""
    import keras

    from ganspect.data.patches import stack_images
    from ganspect.data.rotation import RotatedSampler
    from ganspect.models.ganomaly import GANomaly
    from ganspect.training.fit import fit

    detector, rows = GANomaly(config), []
    detector.compile()
    stack, sizes = stack_images([arrays.train[i] for i in kept])
    count = config.images_per_epoch(len(sizes))
    sampler = RotatedSampler(sizes, config.image_size, count, config.batch_size, config.seed)
    test = np.asarray(detector.prepare(np.stack(arrays.test)))
    normal, train = (
        np.asarray(detector.prepare(np.stack([arrays.train[i] for i in chosen]))) for chosen in (held_out, kept)
    )

    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if (epoch + 1) % every and epoch + 1 != config.epochs:
                return
            error = float(np.mean(np.abs(normal - np.asarray(detector.reconstruct(normal)))))
            facts = {
                "held_out_mae": error,
                **{k: float(logs[k]) for k in ("d_loss", "d_real", "d_fake", "adversarial")},
            }
            key = {"variant": name, "pixels": config.image_size, "seed": config.seed}
            key |= {"epoch": epoch + 1, "step": (epoch + 1) * sampler.steps}
            for how, score, value, _ in readings(detector, test, arrays.labels, train):
                rows.append({**key, "normalisation": how, "score": score, "image_auroc": value, **facts})
            print(f"{name}, seed {config.seed}, epoch {epoch + 1}: {rows[-1]}", file=sys.stderr)

    fit(detector, stack, sampler, config.epochs, callbacks=[Score()])
    return rows


def take_statistics(detector, train, batches=40):
    """Sets the moving statistics of G_E, G_D and E to means over so many batches of training images."""
    import keras

    networks = (detector.encoder, detector.decoder, detector.second_encoder)
    norms = [n for network in networks for n in network.layers if isinstance(n, keras.layers.BatchNormalization)]
    momenta, rng = [norm.momentum for norm in norms], np.random.default_rng(0)
    for done in range(batches):
        for norm in norms:
            norm.momentum = done / (done + 1)
        detector.image_scores(train[rng.permutation(len(train))[: detector.config.batch_size]], training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def readings(detector, images, labels, train):
    """`(normalisation, score, AUROC, (mean of normal images' scores, of anomalous ones'))` of every reading.

    The weights are left as they were.
    """
    from ganspect.evaluation.metrics import image_auroc

    shuffled = np.random.default_rng(0).permutation(len(images))
    plain = np.arange(len(images))
    orders = {"moving": plain, "taken anew": plain, "batch, sorted": plain, "batch, shuffled": shuffled}
    for how, order in orders.items():
        weights, parts = detector.get_weights(), []
        if how == "taken anew":
            take_statistics(detector, train)
        for first in range(0, len(order), TEST_BATCH):
            chosen = images[order[first : first + TEST_BATCH]]
            found = detector.image_scores(chosen, training=how.startswith("batch"))
            parts.append({name: np.asarray(values) for name, values in found.items()})
        detector.set_weights(weights)  # training mode moved the statistics
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scores = {
            "E, mean square": np.square(found["latent_difference"]).mean(1),
            "E, sum of absolutes": np.abs(found["latent_difference"]).sum(1),
            "G_E twice, sum of absolutes": np.abs(found["first_encoder_difference"]).sum(1),
            "residual": found["residual"].mean((1, 2)),
        }
        for name, values in scores.items():
            kinds = tuple(float(values[labels[order] == kind].mean()) for kind in (0, 1))
            yield how, name, image_auroc(labels[order], values), kinds


if __name__ == "__main__":
    main()
