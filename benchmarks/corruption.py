"""Corruption in batches against the usual loop over samples: images per second of maps, of masks, and of all of it.

    [KERAS_BACKEND=jax] python benchmarks/corruption.py [--batch 8] [--batches 4] [--rounds 5] [--threads 2]

The loop is written as published code writes it: one map of Perlin noise for each image from NumPy's `mgrid` and
interpolations, `scipy.ndimage.rotate`, a threshold, random RGB pixels, the blend. Both take scales, angles, opacities
from the same draws, ours as tensors, as `tf.data` hands them on. Three rows for a size:
    maps        Perlin noise alone
    masks       maps, rotated and thresholded
    all         masks, what they show, the blend; images that stay clean (a quarter) cost the loop nothing
Rounds are interleaved in one process; medians and their ratio. The batched code is compiled by the backend and may use
all cores, as it does in training; NumPy uses one. "Masked" are the shares of pixels that each way masks.
"""

import argparse
import functools
import os

import numpy as np
import timing
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


def mask_of(rng, row, i, size, threshold):
    """One mask `[size, size, 1]`."""
    noise = perlin(rng, 2 ** row["scale_y"][i], 2 ** row["scale_x"][i], size)
    noise = ndimage.rotate(noise, np.rad2deg(row["noise_angle"][i]), reshape=False, order=1)
    return (noise > threshold).astype("float32")[..., None]


def loop(rng, images, row, threshold):
    """The corrupted copies of a batch and their masks, one sample after the other."""
    corrupted, masks = [], []
    for i, image in enumerate(images):
        mask = np.zeros((*image.shape[:2], 1), "float32")
        if row["corrupt"][i]:
            mask = mask_of(rng, row, i, len(image), threshold)
            colours = rng.integers(0, 256, image.shape).astype("float32")
            b = row["opacity"][i]
            image = (1 - mask) * image + (1 - b) * mask * image + b * mask * colours
        corrupted.append(image)
        masks.append(mask)
    return np.stack(corrupted), np.stack(masks)


def main():
    """Runs the rounds and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="images; 8 in the papers' trainings")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)

    import keras

    from ganspect.data.corruption import CorruptedSampler

    backend = keras.backend.backend()
    print(
        f"batch {options.batch}, {backend}, {options.threads} threads, medians of {options.rounds} interleaved rounds\n"
    )
    rows = []
    for size in (128, 256):
        sampler = CorruptedSampler(((size, size),), size, options.batch * options.batches, options.batch)
        drawn = sampler.draws(0)
        batches = [{name: values[step] for name, values in drawn.items()} for step in range(sampler.steps)]
        as_tensors = [{name: keras.ops.convert_to_tensor(v) for name, v in row.items()} for row in batches]
        images = np.random.default_rng(0).uniform(0, 255, (options.batch, size, size, 3)).astype("float32")
        for part, (batched, alone) in parts(sampler, images).items():
            runs = {
                "ours": functools.partial(over, batched, as_tensors),
                "theirs": functools.partial(over, alone, batches),
            }
            masked = [run() for run in runs.values()]
            found = timing.interleaved(runs, options.rounds)
            ours, theirs = (len(images) * len(batches) / seconds for seconds in found.values())
            shares = " and ".join(f"{share:.3f}" for share in masked) if part != "maps" else ""
            rows.append((size, part, f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.1f}", shares))
    print(timing.table(("pixels", "what", "in batches, images/s", "loop, images/s", "ratio", "masked by each"), rows))


def over(way, batches):
    """The mean of what a way gives for all batches."""
    return float(np.mean([way(row) for row in batches]))


def parts(sampler, images):
    """`{part: (batched, loop)}`: functions of a row of draws that give the share of masked pixels, of maps a pixel."""
    from ganspect.data.corruption import perlin_noise

    size, rng, threshold = images.shape[1], np.random.default_rng(0), sampler.threshold
    highest = sampler.highest_scale
    maps = compiled(lambda row: perlin_noise(row["key"], row["scale_y"], row["scale_x"], size, highest, 0))
    masks, everything = compiled(sampler.masks), compiled(sampler.corrupt)

    def loop_maps(row):
        return np.stack([perlin(rng, 2**y, 2**x, size) for y, x in zip(row["scale_y"], row["scale_x"], strict=True)])

    def loop_masks(row):
        return np.stack([mask_of(rng, row, i, size, threshold) for i in range(len(images))])

    return {
        "maps": (lambda row: np.asarray(maps(row))[0, 0, 0], lambda row: loop_maps(row)[0, 0, 0]),
        "masks": (lambda row: np.asarray(masks(row)).mean(), lambda row: loop_masks(row).mean()),
        "all": (
            lambda row: [np.asarray(x) for x in everything(images, row)][1].mean(),
            lambda row: loop(rng, images, row, threshold)[1].mean(),
        ),
    }


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
