"""How far apart are GANomaly's published figures by their ways of reading one training? Image AUROC of each reading.

    python benchmarks/ganomaly_readings.py DATA_ROOT --category pill [--epochs 200] [--every 20] [--variants ...]

Trains each variant of the official recipe on the normal images that are not held out, and scores the test set every few
epochs: with normalisation by moving statistics, or by those of batches of 64 test images, sorted by defect or shuffled
as the authors' code has it; by the second encoder, by the first one twice, by the residual. Beside the last epoch's
value it prints the best one, which picking a checkpoint on the test set reports. Writes every value as CSV to --output.
"""

import argparse
import csv
import os
import sys
from dataclasses import replace

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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", default="ganomaly_readings.csv")
    options = parser.parse_args()

    from ganspect.data.arrays import load_category, split_held_out
    from ganspect.data.samples import find_categories
    from ganspect.models.ganomaly import GANomalyConfig

    paths = [p for (_, name), p in find_categories(options.data_root).items() if name == options.category]
    if not paths:
        sys.exit(f"no category {options.category} in {options.data_root}")
    path = paths[0]
    config = GANomalyConfig(epochs=options.epochs, width=options.width)
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
    print(f"{options.category}, {options.epochs} epochs, width {options.width}, scored every {options.every} epochs\n")
    print("| variant | seed | normalisation | score | last epoch | lowest | highest |\n|---|---|---|---|---|---|---|")
    keys = dict.fromkeys((r["variant"], r["seed"], r["normalisation"], r["score"]) for r in rows)
    for key in keys:
        values = [r["image_auroc"] for r in rows if (r["variant"], r["seed"], r["normalisation"], r["score"]) == key]
        print(f"| {' | '.join(map(str, key))} | {values[-1]:.3f} | {min(values):.3f} | {max(values):.3f} |")


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
    normal = np.asarray(detector.prepare(np.stack([arrays.train[i] for i in held_out])))

    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if (epoch + 1) % every and epoch + 1 != config.epochs:
                return
            error = float(np.mean(np.abs(normal - np.asarray(detector.reconstruct(normal)))))
            facts = {
                "held_out_mae": error,
                **{k: float(logs[k]) for k in ("d_loss", "d_real", "d_fake", "adversarial")},
            }
            key = {"variant": name, "seed": config.seed, "epoch": epoch + 1, "step": (epoch + 1) * sampler.steps}
            for how, score, value in readings(detector, test, arrays.labels):
                rows.append({**key, "normalisation": how, "score": score, "image_auroc": value, **facts})
            print(f"{name}, seed {config.seed}, epoch {epoch + 1}: {rows[-1]}", file=sys.stderr)

    fit(detector, stack, sampler, config.epochs, callbacks=[Score()])
    return rows


def readings(detector, images, labels):
    """`(normalisation, score, AUROC)` of every way to read the detector on these images; leaves its weights alone."""
    from ganspect.evaluation.metrics import image_auroc

    shuffled = np.random.default_rng(0).permutation(len(images))
    orders = {"moving": np.arange(len(images)), "batch, sorted": np.arange(len(images)), "batch, shuffled": shuffled}
    for how, order in orders.items():
        weights, parts = detector.get_weights(), []
        for first in range(0, len(order), TEST_BATCH):
            chosen = images[order[first : first + TEST_BATCH]]
            found = detector.image_scores(chosen, training=how != "moving")
            parts.append({name: np.asarray(values) for name, values in found.items()})
        detector.set_weights(weights)  # training mode moved the statistics
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scores = {
            "E, mean square": np.square(found["latent_difference"]).mean(1),
            "E, sum of absolutes": np.abs(found["latent_difference"]).sum(1),
            "G_E twice, mean square": np.square(found["first_encoder_difference"]).mean(1),
            "residual": found["residual"].mean((1, 2)),
        }
        for name, values in scores.items():
            yield how, name, image_auroc(labels[order], values)


if __name__ == "__main__":
    main()
