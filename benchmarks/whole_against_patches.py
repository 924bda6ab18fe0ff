"""Does whole-image scoring change FCBiGAN's result? A trained run, scored whole and by isolated patches, in one run.

    python benchmarks/whole_against_patches.py RUN_FOLDER CATEGORY_FOLDER [--every 5] [--step 24]

In a whole image E leaves one latent for every 8 pixels and G adds up their overlapping 6x6 footprints (decision 1m of
the method's card), and D's `same` convolutions see neighbours instead of zeros (decision 1j). Here every `--every`-th
anomalous test image is scored both ways: whole at stride 8, and from isolated 48x48 patches every `--step` pixels whose
losses are averaged where they overlap. Both are smoothed by the thesis' filter. Printed: reconstruction error, pixel
AUROC of L_R and of L_D, and the rank correlation of D's outputs at the patches' centres.
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
    config = FCBiGANConfig(**{f.name: run.config[f.name] for f in dataclasses.fields(FCBiGANConfig)})
    detector = FCBiGAN(config)
    detector.compile()
    epoch = load_state(run.checkpoint, detector.state)
    arrays = load_category(options.category, channels=config.channels)
    chosen = [i for i, label in enumerate(arrays.labels) if label][:: options.every]
    predict = detector.compile_inference(lambda x: patch_losses(detector, x))
    found = {name: [] for name in ("whole", "patches", "error", "correlation")}
    for i in chosen:
        whole = detector.evidence(arrays.test[i], 8)
        image = np.asarray(detector.prepare(arrays.test[i]))
        patches, error, centres, isolated = score_patches(predict, image, config.patch_size, options.step)
        found["whole"].append([whole["l_r"], whole["l_d"]])
        found["patches"].append(patches)
        found["error"].append([np.abs(whole["reconstruction"] - image).mean(), error])
        found["correlation"].append(spearmanr(whole["l_d"][centres], isolated).statistic)
    masks = [arrays.masks[i] for i in chosen]
    print(
        f"epoch {epoch}, {len(chosen)} images of {arrays.dataset}/{arrays.name}; rank correlation of L_D at the centres"
    )
    print(f"of patches, whole image against isolated patch: median {np.median(found['correlation']):.2f}\n")
    print("| way | mean absolute reconstruction error | pixel AUROC of L_R | of L_D |\n|---|---|---|---|")
    for k, way in enumerate(("whole", "patches")):
        aurocs = [pixel_auroc(masks, [mean_filter(m[j], config.filter_size) for m in found[way]]) for j in (0, 1)]
        print(f"| {way} | {np.mean(found['error'], 0)[k]:.3f} | {aurocs[0]:.3f} | {aurocs[1]:.3f} |")


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
