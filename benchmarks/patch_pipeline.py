"""Can the patch pipeline starve the trainer? Patches per second of `tf.data` alone and of training, in one run.

    python benchmarks/patch_pipeline.py [--width 16] [--steps 30] [--rounds 3]

Five grayscale images of 1024x696 pixels and 48x48 patches, batch 32, as for NanoTWICE. Rounds are interleaved; medians
and their ratio: the pipeline must be far faster than the step it feeds.
"""

import argparse
import time

import numpy as np
import timing


def main():
    """Runs the rounds and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    import tensorflow as tf

    from ganspect.data.patches import sampled_dataset

    detector, stack, sampler = timing.fcbigan(options.width, options.steps)
    config = detector.config
    dataset = sampled_dataset(stack, sampler, detector.prepare, epochs=1)
    step = tf.function(detector.step)
    batch = next(iter(dataset))
    step(batch)  # compiles
    seconds = {"pipeline": [], "training": []}
    for _ in range(options.rounds):
        start = time.perf_counter()
        count = sum(1 for _ in dataset)
        seconds["pipeline"].append((time.perf_counter() - start) / count)
        start = time.perf_counter()
        for _ in range(options.steps):
            step(batch)
        seconds["training"].append((time.perf_counter() - start) / options.steps)
    rate = {name: config.batch_size / float(np.median(values)) for name, values in seconds.items()}
    print(f"width {options.width}, batch {config.batch_size}, medians of {options.rounds} interleaved rounds\n")
    print("| pipeline, patches/s | training step, patches/s | ratio |\n|---|---|---|")
    print(f"| {rate['pipeline']:.0f} | {rate['training']:.0f} | {rate['pipeline'] / rate['training']:.1f} |")


if __name__ == "__main__":
    main()
