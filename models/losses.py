"""Losses shared by the methods: pure functions of tensors; their weights are config fields, applied in `step`."""

import numpy as np
from keras import ops

from ganspect.models.devices import over_devices
from ganspect.models.precision import full, products_are_exact

SSIM_WINDOW, SSIM_DEVIATION = 11, 1.5  # pixels: Wang et al. 2004, DRAEM, GRD-Net


def least_squares(outputs, target):
    """Mean of `(outputs - target)^2` over all elements: LSGAN, Mao et al. 2017; FCBiGAN thesis eq. 5 without its 1/2.

    Args:
        outputs: float `[B, ...]`, linear discriminator outputs.
        target: float, 1 for "real" and 0 for "generated" by the convention of the FCBiGAN thesis.

    Returns:
        Scalar, >= 0.
    """
    return ops.mean(ops.square(full(outputs) - target))


def mean_absolute_error(images, reconstructions):
    """Mean of `|x - x'|` over batch, pixels and channels: FCBiGAN thesis eq. 6, mean-reduced as in the author's code.

    Args:
        images: float `[B, H, W, C]`.
        reconstructions: float `[B, H, W, C]`.

    Returns:
        Scalar, >= 0.
    """
    images, reconstructions = full(images, reconstructions)
    return ops.mean(ops.abs(images - reconstructions))


def summed_absolute_error(values, others):
    """Sum of `|a - b|` over all elements of a sample, then mean over the batch: CBiGAN's L_R and L_R'.

    Args:
        values, others: float `[B, ...]`.

    Returns:
        Scalar, >= 0. At 128x128x3 it is 49 152 times the mean over elements.
    """
    values, others = full(values, others)
    return ops.mean(ops.sum(ops.abs(values - others), axis=tuple(range(1, len(values.shape)))))


def unit_norm_penalty(*gradients):
    """Mean of `(||g|| - 1)^2`, the two-sided gradient penalty of WGAN-GP (Gulrajani et al. 2017), on joint inputs.

    Args:
        *gradients: float `[B, ...]` each, of the critic's output with respect to each of its inputs; the norm of a
            sample is taken over all of them together.

    Returns:
        Scalar, >= 0.
    """
    squares = sum(ops.sum(ops.square(full(g)), axis=tuple(range(1, len(g.shape)))) for g in gradients)  # [B]
    return ops.mean(ops.square(ops.sqrt(squares + 1e-12) - 1.0))


def mean_squared_error(values, others):
    """Mean of `(a - b)^2` over all elements: GANomaly's L_enc as its authors coded it (the paper: the norm unsquared).

    Args:
        values, others: float `[B, ...]`.

    Returns:
        Scalar, >= 0.
    """
    values, others = full(values, others)
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
    return mean_squared_error(real, over_devices(ops.mean(full(fake), axis=0, keepdims=True)))


def binary_cross_entropy(logits, target):
    """Mean of `-t log s(l) - (1 - t) log(1 - s(l))`, s the sigmoid: Goodfellow et al. 2014, from logits.

    Args:
        logits: float `[B, ...]`, the discriminator's output before its sigmoid.
        target: float, 1 for "real" and 0 for "generated".

    Returns:
        Scalar, >= 0.
    """
    logits = full(logits)
    return ops.mean(ops.softplus(logits) - target * logits)


def structural_similarity(images, others):
    """Mean SSIM with an 11x11 Gaussian window (deviation 1.5 pixels), channels apart: Wang et al. 2004; GRD-Net eq. 1.

    Windows that reach over the border are left out, as scikit-image does; DRAEM's code continues images with zeros.
    The window is separable and is applied as two products with banded matrices, on accelerators as sums of shifted
    images: variances are small differences of large products, which the 10 bits of TF32 do not carry. On pills and
    their blurred copies (SSIM 0.84) they turned the gradient by 89 degrees.

    Args:
        images, others: float `[B, H, W, C]` in [0, 1]; H and W static, at least 11.

    Returns:
        Scalar in [-1, 1], 1 for equal images.
    """
    images, others = full(images, others)
    blurred = _blurred if products_are_exact() else _blurred_in_sums
    mean, other_mean = blurred(images), blurred(others)
    variances = blurred(ops.square(images) + ops.square(others)) - ops.square(mean) - ops.square(other_mean)
    covariance = blurred(images * others) - mean * other_mean
    c1, c2 = 0.01**2, 0.03**2  # of a range of 1
    luminance = (2 * mean * other_mean + c1) / (ops.square(mean) + ops.square(other_mean) + c1)
    return ops.mean(luminance * (2 * covariance + c2) / (variances + c2))


def _blurred(images):
    """Means under the window of images `[B, H, W, C]`: `[B, H - 10, W - 10, C]`, by products."""
    rows, columns = (ops.convert_to_tensor(_gaussian_bands(length)) for length in images.shape[1:3])
    return ops.einsum("qw,bpwc->bpqc", columns, ops.einsum("ph,bhwc->bpwc", rows, images))


def _blurred_in_sums(images):
    """The same without products of matrices."""
    height, width = (length - SSIM_WINDOW + 1 for length in images.shape[1:3])
    rows = sum(w * images[:, i : i + height] for i, w in enumerate(_gaussian_weights()))
    return sum(w * rows[:, :, i : i + width] for i, w in enumerate(_gaussian_weights()))


def _gaussian_weights():
    """The window along an axis, with sum 1: list of 11 floats."""
    weights = np.exp(-((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_DEVIATION**2))
    return (weights / weights.sum()).tolist()


def _gaussian_bands(length):
    """The window as a matrix from `length` pixels to the places where it fits: float32 `[length - 10, length]`."""
    bands = np.zeros((length - SSIM_WINDOW + 1, length), "float32")
    for row in range(len(bands)):
        bands[row, row : row + SSIM_WINDOW] = _gaussian_weights()
    return bands


def focal_loss(probabilities, target, gamma=2.0):
    """Mean of `-(1 - p)^gamma log p`, p the probability given to the true class: Lin et al. 2017; GRD-Net eq. 4.

    Args:
        probabilities: float `[B, H, W, 1]` in [0, 1], of a pixel being anomalous.
        target: float, same shape, 1 = anomalous, 0 = normal.
        gamma: >= 0; 0 is cross-entropy.

    Returns:
        Scalar, >= 0; p is kept above 1e-5 (DRAEM's code adds about 2e-5 to it).
    """
    probabilities, target = full(probabilities, target)
    p = ops.maximum(target * probabilities + (1 - target) * (1 - probabilities), 1e-5)
    wrong = 1 - p if gamma >= 1 or gamma == 0 else ops.maximum(1 - p, 1e-7)  # the gradient of 0 ** gamma is infinite
    weight = ops.power(wrong, gamma) if gamma else 1.0
    return ops.mean(-weight * ops.log(p))


def region_overlap(probabilities, region):
    """`|A and R| / min(|A|, |R|)` with soft areas, mean over the batch: GRD-Net, in eq. 8, which has 1 minus it.

    Args:
        probabilities: float `[B, H, W, 1]` in [0, 1], A.
        region: float, same shape, 0 or 1, R.

    Returns:
        Scalar in [0, 1]; 0 where A or R is empty (decision 2s).
    """
    probabilities, region = full(probabilities, region)
    axes = tuple(range(1, len(probabilities.shape)))
    both = ops.sum(probabilities * region, axis=axes)
    least = ops.minimum(ops.sum(probabilities, axis=axes), ops.sum(region, axis=axes))
    return ops.mean(both / (least + 1e-6))
