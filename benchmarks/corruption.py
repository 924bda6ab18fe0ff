"""Corruption in batches against the usual loop over samples: images per second of masks and corrupted copies.

    python benchmarks/corruption.py [--batches 20] [--rounds 5]

The loop is written as published code writes it: one map of Perlin noise for each image from NumPy's `mgrid` and
interpolations, `scipy.ndimage.rotate`, a threshold, random RGB pixels, the blend; images that stay clean cost it
nothing. Both take scales, angles, opacities and which images are corrupted from the same draws, batches of 8. Rounds
are interleaved in one process; medians and their ratio. The batched code is compiled by the backend (KERAS_BACKEND) and
may use all cores, as it does in training; NumPy uses one.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy import ndimage


def perlin(rng, scale_y, scale_x, size):
    """`[size, size]`, as DRAEM's `rand_perlin_2d_np`."""
    grid = np.mgrid[0 : scale_y : scale_y / size, 0 : scale_x : scale_x / size].transpose(1, 2, 0) % 1
    angles = 2 * np.pi * rng.random((scale_y + 1, scale_x + 1))
    gradients = np.stack((np.cos(angles), np.sin(angles)), axis=-1)
    tiled = gradients.repeat(size // scale_y, axis=0).repeat(size // scale_x, axis=1)

    def corner(down, right):
        part = tiled[down * size // scale_y :, right * size // scale_x :][:size, :size]
        shifted = np.stack((grid[..., 0] - down, grid[..., 1] - right), axis=-1)
        return (shifted * part).sum(axis=-1)

    t = 6 * grid**5 - 15 * grid**4 + 10 * grid**3
    above = corner(0, 0) + t[..., 1] * (corner(0, 1) - corner(0, 0))
    below = corner(1, 0) + t[..., 1] * (corner(1, 1) - corner(1, 0))
    return np.sqrt(2) * (above + t[..., 0] * (below - above))


def loop(rng, images, row, threshold):
    """The corrupted copies of a batch and their masks, one sample after the other."""
    corrupted, masks = [], []
    for i, image in enumerate(images):
        mask = np.zeros((*image.shape[:2], 1), "float32")
        if row["corrupt"][i]:
            noise = perlin(rng, 2 ** row["scale_y"][i], 2 ** row["scale_x"][i], len(image))
            noise = ndimage.rotate(noise, np.rad2deg(row["noise_angle"][i]), reshape=False, order=1)
            mask = (noise > threshold).astype("float32")[..., None]
            colours = rng.integers(0, 256, image.shape).astype("float32")
            b = row["opacity"][i]
            image = (1 - mask) * image + (1 - b) * mask * image + b * mask * colours
        corrupted.append(image)
        masks.append(mask)
    return np.stack(corrupted), np.stack(masks)


def main():
    """Runs the rounds and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    import keras

    from ganspect.data.corruption import CorruptedSampler

    print(f"batch 8, {keras.backend.backend()}, medians of {options.rounds} interleaved rounds\n")
    print("| pixels | in batches, images/s | loop over samples, images/s | ratio | masked by each |")
    print("|---|---|---|---|---|")
    for size in (128, 256):
        sampler = CorruptedSampler(((size, size),), size, 8 * options.batches, 8)
        drawn = sampler.draws(0)
        rows = [{name: values[step] for name, values in drawn.items()} for step in range(sampler.steps)]
        images = np.random.default_rng(0).uniform(0, 255, (8, size, size, 3)).astype("float32")
        rate, masked = compare(sampler, rows, images, options.rounds)
        shares = " and ".join(f"{share:.3f}" for share in masked)
        print(f"| {size} | {rate[0]:.0f} | {rate[1]:.0f} | {rate[0] / rate[1]:.1f} | {shares} |", flush=True)


def compare(sampler, rows, images, rounds):
    """Images per second and share of masked pixels, in batches and in the loop."""
    batched, rng = compiled(sampler.corrupt), np.random.default_rng(0)
    batched(images, rows[0])
    ways = (
        lambda row: [np.asarray(x) for x in batched(images, row)],
        lambda row: loop(rng, images, row, sampler.threshold),
    )
    seconds, masked = ([], []), ([], [])
    for _ in range(rounds):
        for i, way in enumerate(ways):
            start = time.perf_counter()
            results = [way(row)[1].mean() for row in rows]
            seconds[i].append(time.perf_counter() - start)
            masked[i].append(np.mean(results))
    return [len(rows) * len(images) / np.median(s) for s in seconds], [float(np.mean(m)) for m in masked]


def compiled(function):
    """The function as the backend compiles it."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


if __name__ == "__main__":
    main()
