"""Losses shared by the methods: pure functions of tensors; their weights are config fields, applied in `step`."""

from keras import ops


def least_squares(outputs, target):
    """Mean of `(outputs - target)^2` over all elements: LSGAN, Mao et al. 2017; FCBiGAN thesis eq. 5 without its 1/2.

    Args:
        outputs: float `[B, ...]`, linear discriminator outputs.
        target: float, 1 for "real" and 0 for "generated" by the convention of the FCBiGAN thesis.

    Returns:
        Scalar, >= 0.
    """
    return ops.mean(ops.square(outputs - target))


def mean_absolute_error(images, reconstructions):
    """Mean of `|x - x'|` over batch, pixels and channels: FCBiGAN thesis eq. 6, mean-reduced as in the author's code.

    Args:
        images: float `[B, H, W, C]`.
        reconstructions: float `[B, H, W, C]`.

    Returns:
        Scalar, >= 0.
    """
    return ops.mean(ops.abs(images - reconstructions))
