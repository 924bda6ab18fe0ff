"""Whole-image scoring of FCBiGAN beside the patch-by-patch way, in one run.

    python benchmarks/dense_map.py [--width 64] [--rounds 3] [--patches 256]

Scores a 1024x696 image at stride 1 and at stride 8 in one pass, and the same networks patch by patch: E, G and D on
every 48x48 patch around every pixel (or every eighth in both directions). The patches of a whole image are too many to
run, so a batch of them is timed and multiplied; the table says so. Rounds are interleaved; medians and ratios. The
machine's matrix-multiply peak is printed for scale.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

HEIGHT, WIDTH = 696, 1024


def main():
    """Runs the rounds and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="filters of the first stage; 64 is the thesis' network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patches", type=int, default=256, help="patches in the timed batch")
    options = parser.parse_args()

    import tensorflow as tf

    from ganspect.models.fcbigan import FCBiGAN, FCBiGANConfig

    detector = FCBiGAN(FCBiGANConfig(width=options.width))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 1)).astype("uint8")
    size = detector.config.patch_size
    patches = rng.uniform(-1, 1, (options.patches, size, size, 1)).astype("float32")

    def by_patches(x):
        codes = detector.encoder(x, training=False)
        rebuilt = detector.generator(codes, training=False)
        return rebuilt, detector.discriminator([x, codes], training=False)

    patchwise = detector.compile_inference(by_patches)
    square = tf.constant(rng.normal(size=(2048, 2048)).astype("float32"))
    ways = {
        "whole image, stride 1": lambda: detector.evidence(image, 1),
        "whole image, stride 8": lambda: detector.evidence(image, 8),
        "patches": lambda: patchwise(patches),
        "peak": lambda: tf.linalg.matmul(square, square).numpy(),
    }
    seconds = {name: [] for name in ways}
    for run in ways.values():
        run()  # compiles
    for _ in range(options.rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    report(options, median)


def report(options, median):
    """Prints the table; `median` holds seconds for each way."""
    print(
        f"FCBiGAN at width {options.width}, one {WIDTH}x{HEIGHT} image, medians of {options.rounds} interleaved rounds"
    )
    print(f"matrix-multiply peak: {2 * 2048**3 / median['peak'] / 1e9:.0f} GFLOP/s\n")
    print("| map | whole image, seconds | patch by patch, seconds | ratio |\n|---|---|---|---|")
    for stride in (1, 8):
        count = (HEIGHT // stride) * (WIDTH // stride)
        patchwise = median["patches"] * count / options.patches
        whole = median[f"whole image, stride {stride}"]
        print(f"| stride {stride} | {whole:.2f} | {patchwise:.0f} ({count} patches, from {options.patches}) | ", end="")
        print(f"{patchwise / whole:.0f} |")


if __name__ == "__main__":
    main()
