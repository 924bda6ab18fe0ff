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


def summed_absolute_error(values, others):
    """Sum of `|a - b|` over all elements of a sample, then mean over the batch: CBiGAN's L_R and L_R'.

    Args:
        values, others: float `[B, ...]`.

    Returns:
        Scalar, >= 0. At 128x128x3 it is 49 152 times the mean over elements.
    """
    return ops.mean(ops.sum(ops.abs(values - others), axis=tuple(range(1, len(values.shape)))))


def unit_norm_penalty(*gradients):
    """Mean of `(||g|| - 1)^2`, the two-sided gradient penalty of WGAN-GP (Gulrajani et al. 2017), on joint inputs.

    Args:
        *gradients: float `[B, ...]` each, of the critic's output with respect to each of its inputs; the norm of a
            sample is taken over all of them together.

    Returns:
        Scalar, >= 0.
    """
    squares = sum(ops.sum(ops.square(g), axis=tuple(range(1, len(g.shape)))) for g in gradients)  # [B]
    return ops.mean(ops.square(ops.sqrt(squares + 1e-12) - 1.0))


def mean_squared_error(values, others):
    """Mean of `(a - b)^2` over all elements: GANomaly's L_enc as its authors coded it (the paper: the norm unsquared).

    Args:
        values, others: float `[B, ...]`.

    Returns:
        Scalar, >= 0.
    """
    return ops.mean(ops.square(values - others))


def feature_matching(real, fake):
    """Mean over batch and features of `(f(x) - f(x'))^2`, x' the reconstruction of x: GANomaly's L_adv as coded.

    Args:
        real, fake: float `[B, ...]`, features of the images and of their reconstructions.

    Returns:
        Scalar, >= 0.
    """
    return mean_squared_error(real, fake)


def feature_matching_to_mean(real, fake):
    """Mean of `(f(x) - m)^2`, m the mean of `f(x')` over the batch: GANomaly's L_adv by the formula, as in the study.

    Args:
        real, fake: float `[B, ...]`, features of the images and of their reconstructions.

    Returns:
        Scalar, >= 0; above 0 even for `real == fake` where features differ between images.
    """
    return mean_squared_error(real, ops.mean(fake, axis=0, keepdims=True))


def binary_cross_entropy(logits, target):
    """Mean of `-t log s(l) - (1 - t) log(1 - s(l))`, s the sigmoid: Goodfellow et al. 2014, from logits.

    Args:
        logits: float `[B, ...]`, the discriminator's output before its sigmoid.
        target: float, 1 for "real" and 0 for "generated".

    Returns:
        Scalar, >= 0.
    """
    return ops.mean(ops.softplus(logits) - target * logits)
