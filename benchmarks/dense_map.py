"""Whole-image scoring of FCBiGAN beside the patch-by-patch way, in one run.

    python benchmarks/dense_map.py [--width 64] [--rounds 3] [--patches 256]

Scores a 1024x696 image at stride 1 and at stride 8 in one pass, and the same networks patch by patch: E, G and D on
every 48x48 patch around every pixel (or every eighth in both directions). The patches of a whole image are too many to
run, so a batch of them is timed and multiplied; the table says so. A second table has D's map of the whole image alone
at stride 1, by dilation (`models.maps.dense_map`) and by shift and stitch, 64 strided passes over the shifted image,
and how far they are apart. Rounds are interleaved; medians and ratios. The machine's matrix-multiply peak is printed
for scale.
"""

import argparse

import numpy as np
import timing

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
    median = timing.interleaved(ways, options.rounds)
    report(options, median)
    print("\n" + discriminator_maps(detector, rng, options.rounds))


def discriminator_maps(detector, rng, rounds):
    """D's map by dilation and by shifted passes as a Markdown table."""
    from keras import ops

    from ganspect.models import maps

    kernels = detector.trunk_kernels()
    pair = rng.uniform(-1, 1, (1, HEIGHT, WIDTH, detector.config.channels + 1)).astype("float32")
    dilated = detector.compile_inference(lambda x: maps.dense_map(x, *kernels))
    one_pass = detector.compile_inference(lambda x: maps.dense_map(x, *kernels, 2 ** len(kernels[0])))
    shift = detector.compile_inference(lambda x: strided(x, *kernels))
    reach = 2 ** len(kernels[0])
    context = sum(2**i * sum(k.shape[0] // 2 for k in stage) for i, stage in enumerate(kernels[0]))
    patch = kernels[1].shape[0] * reach
    around = (context + patch // 2, context + patch - 1 - patch // 2)
    padded = ops.convert_to_numpy(ops.pad(pair, ((0, 0), around, around, (0, 0)), mode="reflect"))

    def shifted():
        out = np.empty((1, HEIGHT, WIDTH), "float32")
        for y in range(reach):
            for x in range(reach):
                seen = padded[:, y : padded.shape[1] - reach + 1 + y, x : padded.shape[2] - reach + 1 + x]
                found = shift(seen)
                out[:, y::reach, x::reach] = found[:, : -(-(HEIGHT - y) // reach), : -(-(WIDTH - x) // reach)]
        return out

    found = timing.interleaved(
        {"dilated": lambda: dilated(pair), "shifted": shifted, "strided": lambda: one_pass(pair)}, rounds
    )
    apart = np.abs(dilated(pair) - shifted()).max() / np.abs(dilated(pair)).max()
    row = [f"{found[name]:.2f}" for name in ("dilated", "shifted")]
    row += [f"{found['shifted'] / found['dilated']:.1f}", f"{apart:.1e}"]
    row += [f"{found['strided']:.3f}", f"{found['dilated'] / found['strided']:.0f}"]
    head = ("dilated, seconds", f"{reach**2} shifted passes, seconds", "ratio", "largest difference, of the maximum")
    return timing.table((*head, f"stride {reach} alone, seconds", "stride 1 against it"), [row])


def strided(x, stages, head, slope=0.2):
    """The patch network over an image, every pooling strided: `[B, h, w]`."""
    from keras import ops

    for stage in stages:
        for kernel in stage:
            x = ops.leaky_relu(ops.conv(x, kernel, padding="valid"), slope)
        x = ops.average_pool(x, 2, strides=2, padding="valid")
    return ops.conv(x, head, padding="valid")[..., 0]


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
