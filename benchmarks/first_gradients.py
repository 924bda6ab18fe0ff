"""What reaches GRD-Net's autoencoder before its first step: with and without shortcuts, with and without normalisation.

    python benchmarks/first_gradients.py [--width 16] [--seeds 0 1 2]

Of random images [2, 128, 128, 3] in [0, 1]: the spread of the codes and of what G draws (its standard deviation over
all values, 0 for one constant), and of the gradients of the mean absolute error the largest entry of each kernel, the
median over the kernels of encoder and decoder. Adam divides by the size of a gradient plus 1e-7 (Keras): kernels whose
gradients are far below that hardly move, however many steps they take. No ratio; medians over the seeds.
"""

import argparse
import itertools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import timing


def found(images, **settings):
    """Spread of the codes and of the images drawn, median gradient of encoder and decoder."""
    import tensorflow as tf

    from ganspect.models.grdnet import GRDNet, GRDNetConfig

    detector = GRDNet(GRDNetConfig(discriminative=False, **settings))
    parts = detector.encoder.trainable_variables, detector.decoder.trainable_variables
    with tf.GradientTape() as tape:
        codes = detector.encoder(images, training=True)
        drawn = detector.decoder(codes, training=True)
        error = tf.reduce_mean(tf.abs(drawn - images))
    gradients = tape.gradient(error, [[v.value for v in part] for part in parts])
    largest = [np.median([np.abs(g).max() for g in part]) for part in gradients]
    return np.std(codes), np.std(drawn), *largest


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16, help="filters of the first stage; 64 is the paper's")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    options = parser.parse_args()

    from ganspect import models  # noqa: F401 - before TensorFlow is imported

    images = np.random.default_rng(0).uniform(0, 1, (2, 128, 128, 3)).astype("float32")
    rows = []
    for residual, batch_norm in itertools.product((True, False), repeat=2):
        settings = {"width": options.width, "residual": residual, "batch_norm": batch_norm}
        each = [found(images, seed=seed, **settings) for seed in options.seeds]
        kind = "residual" if residual else "vanilla"
        rows.append((kind, "yes" if batch_norm else "no", *(f"{x:.1e}" for x in np.median(each, axis=0))))
    print(f"width {options.width}, medians of {len(options.seeds)} seeds\n")
    head = ("autoencoder", "normalised", "spread of codes", "of images drawn", "gradients of E", "of the decoder")
    print(timing.table(head, rows))


if __name__ == "__main__":
    main()
