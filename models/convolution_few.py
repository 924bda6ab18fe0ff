"""Convolutions of few channels beside oneDNN: four pixels of a row at a time, so that its vectors are full.

oneDNN computes 16 channels of y at once (AVX-512), of 3 channels at a fifth of its speed. With stride 1, padding "SAME"
and kernels `[k, l, I, O]` of odd sides, y of four pixels in a row depends on l + 3 pixels of x:
    l > 1: a convolution with stride (1, 4) and the kernel `[k, l + 3, I, 4 O]`, a band of w   -> `strips_slopes`
    k = l = 1: products of rows of 4 I numbers with a matrix `[4 I, 4 O]`, w on its diagonal   -> `fours_slopes`
        up to 4 channels; of up to 8, dL/dw alone is a product                                 -> `forms`
dL/dx is y of dL/dy with the kernel turned; dL/dw of k = l = 1 is what such a product has on its diagonal. Pixels stay
where they are in memory. Sums are those of the convolution, with zeros between them.
"""

import functools
import math

import numpy as np

from ganspect.models.recorded import recorded

BLOCK = 4  # pixels
FEW = 4  # channels: of four pixels as many as a vector of AVX-512 holds
MANY = 2**17  # pixels of a call


def forms(images, kernel, stride, padding):
    """What pays beside oneDNN for few channels and many pixels.

    Args:
        images: shape of x, `[B, H, W, I]`; an unknown B counts as 1.
        kernel: `[k, l, I, O]`.
        stride, padding: as of `convolutions.Convolution`.

    Returns:
        Names of the forms of dL/dx, dL/dw and y; or None: others are faster.
    """
    (side, width, inputs, outputs), across = kernel, images[2]
    same = padding == "SAME" or (side, width) == (1, 1)
    odd = stride == side % 2 == width % 2 == 1 and same and max(side, width) <= 5
    if not odd or across % BLOCK or max(inputs, outputs) > 2 * FEW or (images[0] or 1) * math.prod(images[1:3]) < MANY:
        return None
    if (side, width) == (1, 1):
        return ("fours",) * 3 if max(inputs, outputs) <= FEW else ("stock", "windows", "stock")
    found = ("strips" if inputs <= FEW else "stock", "stock", "strips" if outputs <= FEW else "stock")
    return found if width > 1 and "strips" in found else None


@functools.lru_cache(maxsize=64)
def places(shape, turned):
    """Where the numbers of a kernel lie in its band: 0 or 1, float32 `[k (l + 3) I' 4 O', k l I O]`.

    Args:
        shape: `[k, l, I, O]`.
        turned: whether the band is of the kernel turned by 180 degrees, its channels exchanged; then I' = O, O' = I.
    """
    side, width, inputs, outputs = shape
    reach = width + BLOCK - 1
    axes = (side, reach, outputs, BLOCK, inputs) if turned else (side, reach, inputs, BLOCK, outputs)
    found = np.zeros((*axes, *shape), "float32")
    for i, j, c, d in np.ndindex(*shape):
        row, column = (side - 1 - i, width - 1 - j) if turned else (i, j)
        for pixel in range(BLOCK):
            of_x, of_y = (d, c) if turned else (c, d)
            found[row, pixel + column, of_x, pixel, of_y, i, j, c, d] = 1
    return found.reshape(-1, side * width * inputs * outputs)


def band(kernel, turned=False):
    """The kernel of four pixels of y: `[k, l + 3, I, 4 O]`, or of the kernel turned `[k, l + 3, O, 4 I]`."""
    import tensorflow as tf

    side, width, inputs, outputs = kernel.shape
    if turned:
        inputs, outputs = outputs, inputs
    place = places(tuple(kernel.shape), turned).astype(kernel.dtype.as_numpy_dtype)
    found = tf.linalg.matvec(place, tf.reshape(kernel, (-1,)))
    return tf.reshape(found, (side, width + BLOCK - 1, inputs, BLOCK * outputs))


def strips_slopes(images, kernel, stride, padding, turned=False):
    """y: `[B, H, W, I]`, W a multiple of 4, with `[k, l, I, O]` to `[B, H, W, O]`."""
    import tensorflow as tf

    around = [(0, 0), *((side // 2, side // 2) for side in kernel.shape[:2]), (0, 0)]
    found = tf.nn.conv2d(images, band(kernel, turned), (1, 1, BLOCK, 1), around)
    return tf.reshape(found, (-1, *images.shape[1:3], kernel.shape[2 if turned else 3]))


def strips_images(slopes, kernel, size, stride, padding):
    """dL/dx: `[B, H, W, O]` with `[k, l, I, O]` to `[B, H, W, I]`."""
    return strips_slopes(slopes, kernel, stride, padding, turned=True)


def fours_slopes(images, kernel, stride, padding, turned=False):
    """y of 1x1: `[B, H, W, I]`, W a multiple of 4, with `[1, 1, I, O]` to `[B, H, W, O]`."""
    import tensorflow as tf

    matrix = tf.reshape(band(kernel, turned), (BLOCK * images.shape[3], -1))
    found = tf.linalg.matmul(tf.reshape(images, (-1, BLOCK * images.shape[3])), matrix)
    return tf.reshape(found, (-1, *images.shape[1:3], kernel.shape[2 if turned else 3]))


def fours_images(slopes, kernel, size, stride, padding):
    """dL/dx of 1x1: `[B, H, W, O]` with `[1, 1, I, O]` to `[B, H, W, I]`."""
    return fours_slopes(slopes, kernel, stride, padding, turned=True)


def fours_kernel(images, slopes, shape, stride, padding):
    """dL/dw of 1x1: `[B, H, W, I]` and `[B, H, W, O]` to `[1, 1, I, O]`."""
    import tensorflow as tf

    rows = (tf.reshape(v, (-1, BLOCK * v.shape[3])) for v in (images, slopes))
    found = tf.linalg.matmul(*rows, transpose_a=True)  # [4 I, 4 O]
    place = places(tuple(shape), False).astype(found.dtype.as_numpy_dtype)
    return tf.reshape(tf.linalg.matvec(place, tf.reshape(found, (-1,)), transpose_a=True), shape)


def biased(images, bias):
    """Images `[B, H, W, O]` and a bias `[O]`, whose gradient is summed up by rows: oneDNN adds pixel by pixel."""
    import tensorflow as tf

    def run(x, b):
        return tf.nn.bias_add(x, b), lambda slopes: (slopes, summed(slopes))

    return recorded(run)(images, bias)


def summed(slopes):
    """The sum of all pixels: `[B, H, W, O]` to `[O]`."""
    import tensorflow as tf

    across, channels = slopes.shape[2:]

    def run(g):
        rows = tf.reduce_sum(tf.reshape(g, (-1, across * channels)), 0)
        return tf.reduce_sum(tf.reshape(rows, (across, channels)), 0), lambda b: (tf.broadcast_to(b, tf.shape(g)),)

    return recorded(run)(slopes)
