"""What a detector that learned nothing but the average scores: the floor under every reconstruction error.

    python benchmarks/mean_image.py DATA_ROOT [--size 64]

For each category of MVTec AD: the L1 distance of a test image to the mean of the training images that are not held out,
at `--size` pixels for objects; for textures (512 pixels, 64-pixel patches, the highest counts) to their mean colour.
Printed: image AUROC and balanced accuracy at the best test threshold and at the 95th percentile of the held-out
normals, as the tables of CBiGAN measure them; then the distances, mean +- deviation over images, per element of an
image (of a patch, for textures) in [-1, 1].
"""

import argparse

import numpy as np

from ganspect.data.arrays import load_arrays, split_held_out
from ganspect.data.samples import find_categories, scan
from ganspect.evaluation import metrics, thresholds

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
PATCH = 64


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    kinds = ("trained on", "held out", "test normals", "test defects")
    heads = ("category", "image AUROC", "balanced accuracy, best threshold", "held-out threshold", *kinds)
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for (dataset, name), path in find_categories(options.root).items():
        if dataset != "mvtec_ad":
            continue
        texture = name in TEXTURES
        arrays = load_arrays(scan(path, dataset, name), 3, 512 if texture else options.size)
        kept, held_out = split_held_out(arrays)
        train = np.stack([arrays.train[i] for i in kept]).astype("float32")
        mean = train.mean((0, 1, 2)) if texture else train.mean(0)
        distance = texture_distance if texture else object_distance
        scores = np.array([distance(image, mean) for image in arrays.test])
        parts = [[distance(arrays.train[i], mean) for i in chosen] for chosen in (kept, held_out)]
        parts += [scores[arrays.labels == 0], scores[arrays.labels == 1]]
        cut = thresholds.normal_quantile(parts[1]).value
        found = (
            metrics.image_auroc(arrays.labels, scores),
            metrics.balanced_accuracy_oracle(arrays.labels, scores)[0],
            metrics.balanced_accuracy(arrays.labels, scores, cut),
        )
        unit = 127.5 * 3 * (PATCH if texture else options.size) ** 2
        spread = [f"{np.mean(part) / unit:.4f} +- {np.std(part) / unit:.4f}" for part in parts]
        print(f"| {name} | " + " | ".join([*(f"{value:.3f}" for value in found), *spread]) + " |")


def object_distance(image, mean):
    """Sum of |x - mean| over the image."""
    return float(np.abs(image - mean).sum())


def texture_distance(image, mean):
    """The same of the patch where it is largest."""
    n = image.shape[0] // PATCH
    residual = np.abs(image - mean).sum(-1)
    return float(residual.reshape(n, PATCH, n, PATCH).sum((1, 3)).max())


if __name__ == "__main__":
    main()
