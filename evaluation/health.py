"""Whether a GAN in training is well: what its discriminator tells apart, and how much its generator varies.

Not of the papers. A discriminator that ranks every held-out image above everything that the generator makes tells the
generator little; a generator whose images hardly differ from one another has collapsed to a few modes, or to one.
"""

import numpy as np

from ganspect.evaluation.metrics import image_auroc

LAST = 5  # epochs that have to agree before a warning
TELLS_ALL = 0.99  # of `d_auroc`
COLLAPSED = 0.1  # of `diversity`


def indicators(real, fake, images, made):
    """What one epoch's networks do on a fixed batch of held-out images.

    Args:
        real, fake: float `[B]`, D's outputs on held-out images and on generated ones, higher = more real.
        images, made: float `[B, H, W, C]`, the same images, in one range.

    Returns:
        `{"d_auroc": the share of pairs in which D ranks the real image above the generated one, 0 to 1,
        "diversity": mean absolute difference between two generated images, in that between two real ones; >= 0, about 1
        where they vary alike}`. A value that is not defined, as of one image, is left out.
    """
    found = {}
    scores = np.concatenate([np.ravel(real), np.ravel(fake)])
    if np.isfinite(scores).all():
        found["d_auroc"] = float(image_auroc(np.repeat([1, 0], [np.size(real), np.size(fake)]), scores))
    between = _difference(images)
    if between > 0:
        found["diversity"] = _difference(made) / between
    return found


def warnings(rows):
    """What a history says about the GAN's health at its end.

    Args:
        rows: of history.csv, as dicts of texts or numbers; those without indicators, as of older runs, say nothing.

    Returns:
        Sentences, none where all is well.
    """
    found = []
    ranks, ratios = (_last(rows, name) for name in ("d_auroc", "diversity"))
    if ranks and min(ranks) >= TELLS_ALL:
        found.append(
            f"the discriminator tells all held-out images from generated ones (AUROC at least {min(ranks):.3f} in the "
            f"last {len(ranks)} epochs): its loss teaches the generator little"
        )
    if ratios and max(ratios) <= COLLAPSED:
        found.append(
            f"mode collapse: generated images differ at most {max(ratios):.3f} times as much as held-out ones in the "
            f"last {len(ratios)} epochs"
        )
    return found


def _last(rows, name):
    """The values of the last epochs; none unless there are so many and all of them have one."""
    values = [row.get(name) for row in rows[-LAST:]]
    return [float(v) for v in values] if len(values) == LAST and all(v not in (None, "") for v in values) else []


def _difference(images):
    """Mean absolute difference between two different images of a batch; 0 of a single one."""
    images = np.asarray(images, dtype="float64")
    count = len(images)
    if count < 2:
        return 0.0
    ranked = np.sort(images.reshape(count, -1), axis=0)  # the sum over pairs, pixel by pixel, from the order alone
    weights = 2 * np.arange(count) - count + 1
    return float((weights @ ranked).mean() / (count * (count - 1) / 2))
