"""Does whole-image scoring change FCBiGAN's result? A trained run, scored whole and by isolated patches, in one run.

    python benchmarks/whole_against_patches.py RUN_FOLDER CATEGORY_FOLDER [--every 5] [--step 24]

In a whole image E leaves one latent for every 8 pixels and G adds up their overlapping 6x6 footprints (decision 1m of
the method's card), and D's `same` convolutions see neighbours instead of zeros (decision 1j). Here every `--every`-th
anomalous test image is scored both ways: whole at stride 8, and from isolated 48x48 patches every `--step` pixels whose
losses are averaged where they overlap. A third way divides D's latent channel by the number of overlapping footprints
(`latent_overlap="mean"`). All are smoothed by the thesis' filter. Printed: reconstruction error, pixel AUROC of L_R and
of L_D, mean L_D, and its rank correlation with the isolated patches' at their centres.

A second table shows whether D looks at the latents: its outputs on patches of the last normal image with their own
codes and with those of other patches, on generated patches likewise, and how well E finds the latents of what G made.
"""

import argparse
import dataclasses
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy.stats import spearmanr

from ganspect.data.arrays import load_category
from ganspect.evaluation.metrics import pixel_auroc
from ganspect.evaluation.smoothing import mean_filter
from ganspect.models.fcbigan import FCBiGAN, FCBiGANConfig
from ganspect.training.checkpoint import load_state
from ganspect.training.run import Run


def main():
    """Loads the run, scores both ways and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("category", type=Path)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--step", type=int, default=24)
    options = parser.parse_args()
    run = Run(options.run)
    names = {f.name for f in dataclasses.fields(FCBiGANConfig)}
    config = FCBiGANConfig(**{name: value for name, value in run.config.items() if name in names})
    detector = FCBiGAN(config)
    detector.compile()
    epoch = load_state(run.checkpoint, detector.state).epoch
    arrays = load_category(options.category, channels=config.channels)
    chosen = [i for i, label in enumerate(arrays.labels) if label][:: options.every]
    predict = detector.compile_inference(lambda x: patch_losses(detector, x))
    averaged = FCBiGAN(dataclasses.replace(config, latent_overlap="mean"))
    averaged.compile()
    load_state(run.checkpoint, averaged.state)
    ways = {"whole image": detector, "whole image, latent channel averaged": averaged, "isolated patches": None}
    found = {way: [] for way in ways}
    for i in chosen:
        image = np.asarray(detector.prepare(arrays.test[i]))
        (l_r, l_d), error, centres, isolated = score_patches(predict, image, config.patch_size, options.step)
        found["isolated patches"].append((l_r, l_d, error, isolated.mean(), 1.0))
        for way in list(ways)[:2]:
            whole = ways[way].evidence(arrays.test[i], 8)
            error = np.abs(whole["reconstruction"] - image).mean()
            at_centres = whole["l_d"][centres]
            correlation = spearmanr(at_centres, isolated).statistic
            found[way].append((whole["l_r"], whole["l_d"], error, at_centres.mean(), correlation))
    masks = [arrays.masks[i] for i in chosen]
    print(f"epoch {epoch}, {len(chosen)} images of {arrays.dataset}/{arrays.name}\n")
    print("| way | reconstruction error | pixel AUROC of L_R | of L_D | mean L_D | rank correlation |")
    print("|---|---|---|---|---|---|")
    for way, parts in found.items():
        aurocs = [pixel_auroc(masks, [mean_filter(part[j], config.filter_size) for part in parts]) for j in (0, 1)]
        error, level, correlation = (np.mean([part[j] for part in parts]) for j in (2, 3, 4))
        print(f"| {way} | {error:.3f} | {aurocs[0]:.3f} | {aurocs[1]:.3f} | {level:.2f} | {correlation:.2f} |")
    print("\n| pairs | D, own latents | D, those of others | mean difference | error of G(E(x)) | z and E(G(z)) |")
    print("|---|---|---|---|---|---|")
    for row in pairs(detector, np.asarray(detector.prepare(arrays.train[-1]))):
        print("| " + " | ".join(cell if isinstance(cell, str) else f"{cell:.3f}" for cell in row) + " |")


def pairs(detector, image, count=128):
    """Rows of the second table: real and generated patches; the correlation is over all latents."""
    size, rng = detector.config.patch_size, np.random.default_rng(0)
    corners = zip(*(rng.integers(0, n - size + 1, count) for n in image.shape[:2]), strict=True)
    real = np.stack([image[y : y + size, x : x + size] for y, x in corners])
    z = rng.standard_normal((count, 1, 1, detector.config.latent_size), dtype="float32")

    def networks(images, codes):
        found = detector.encoder(images, training=False)
        others = [detector.discriminator([images, c], training=False) for c in (codes, codes[::-1])]
        return found, abs(images - detector.generator(found, training=False)), *others

    run = detector.compile_inference(networks)
    made = detector.compile_inference(lambda z: detector.generator(z, training=False))(z)
    codes = detector.compile_inference(lambda x: detector.encoder(x, training=False))(real)
    for name, images, latents in (("real", real, codes), ("generated", made, z)):
        found, error, own, others = run(images, latents)
        correlation = "" if latents is codes else float(np.corrcoef(z.ravel(), found.ravel())[0, 1])
        yield name, own.mean(), others.mean(), abs(own - others).mean(), error.mean(), correlation


def patch_losses(detector, patches):
    """Residuals, L_R and L_D of isolated patches `[B, p, p, C]`: `[B, p, p]`, `[B, p, p]`, `[B]`."""
    codes = detector.encoder(patches, training=False)
    difference = patches - detector.generator(codes, training=False)
    outputs = detector.discriminator([patches, codes], training=False)[:, 0, 0, 0]
    return abs(difference), difference**2, (outputs - 1.0) ** 2


def score_patches(predict, image, size, step):
    """One image by isolated patches: `([L_R, L_D] [H, W] each, error, (rows, columns) of the centres, L_D there)`."""
    height, width = image.shape[:2]
    rows, columns = (sorted({*range(0, n - size + 1, step), n - size}) for n in (height, width))
    corners = [(y, x) for y in rows for x in columns]
    patches = np.stack([image[y : y + size, x : x + size] for y, x in corners])
    parts = [predict(patches[i : i + 64]) for i in range(0, len(patches), 64)]
    residual, l_r, l_d = (np.concatenate([part[k] for part in parts]) for k in range(3))
    total, count = np.zeros((2, height, width), "float32"), np.zeros((height, width), "float32")
    for (y, x), r, d in zip(corners, l_r.mean(-1), l_d, strict=True):
        total[0, y : y + size, x : x + size] += r
        total[1, y : y + size, x : x + size] += d
        count[y : y + size, x : x + size] += 1
    centres = tuple(np.array(corners).T + size // 2)
    return list(total / count), residual.mean(), centres, l_d


if __name__ == "__main__":
    main()
