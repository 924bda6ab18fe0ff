"""A convolution's y, dL/dx and dL/dw with fewer multiplications: the algorithm of Toom, Cook and Winograd.

Along an axis m values of y and r places of a kernel make a product of polynomials of degree m + r - 2, which its values
at n = m + r - 1 points determine. With matrices G `[n, r]`, B `[n, n]`, A `[n, m]` of the points (`toom`), a kernel W
`[r, r]` and values Y `[m, m]` that see the images' X `[n, n]` (Winograd 1980; for networks Lavin and Gray, CVPR 2016):
    Y = A^T ((G W G^T) * (B X B^T)) A                      n^2 multiplications instead of m^2 r^2
    dX = B^T ((G W G^T) * (A dY A^T)) B,  dW = G^T ((B X B^T) * (A dY A^T)) G
where * of many channels are n^2 products of matrices. B and A act on whole rows and columns here: tiles, their overlap
and the padding are in one matrix for each axis (`transforms`), so that every part is a product of matrices. Stride 2 is
four convolutions of every other row and column, whose channels are one sum. With tiles of 4 a kernel of 3x3 takes a
quarter of the multiplications, one of 4x4 with stride 2 takes 0.39 of them.

These are other sums than TensorFlow's: in float32 y is off by twice the rounding of its own kernels (1.6e-6 of the root
mean square against 0.8e-6, 256 channels), dL/dw by five times (6e-7 against 1e-7).
"""

import functools
import math

import numpy as np

from ganspect.models.convolution_forms import borders, counts

TILE = 4  # values of y of a tile, m
ROOT = math.sqrt(2)
POINTS = (0.0, ROOT / 2, -ROOT / 2, ROOT, -ROOT)  # and infinity; a smaller error than of 0, 1, -1, 2, -2


@functools.cache
def toom(tile, taps):
    """The matrices of one axis: G `[n, taps]`, B `[n, n]`, A `[n, tile]`, float64, n = tile + taps - 1."""
    count = tile + taps - 1
    at = np.vander(POINTS[: count - 1], count, increasing=True)
    at = np.vstack([at, np.eye(count)[-1]])  # infinity: the highest coefficient
    places, values = at[:, :taps].copy(), at[:, :tile].copy()
    places[-1], values[-1] = np.eye(taps)[-1], np.eye(tile)[-1]
    scale = np.abs(places).sum(1, keepdims=True)
    return places / scale, np.linalg.inv(at).T * scale, values


@functools.cache
def transforms(length, side, stride, before, count):
    """What makes an axis of x, and one of y, into the points of all tiles.

    Args:
        length, count: of the axis of x and of y.
        side: of the kernel.
        stride: 1 or 2.
        before: zeros of padding in front of x.

    Returns:
        `[points, tiles, stride, length]` for x, `[points, tiles, 1, count]` for y; float64.
    """
    taps, tile = -(-side // stride), min(TILE, count)
    tiles = -(-count // tile)
    _, seen, made = toom(tile, taps)
    to_images = np.zeros((len(seen), tiles, stride, length))
    to_slopes = np.zeros((len(seen), tiles, 1, count))
    for at in range(tiles):
        for j in range(len(seen)):
            for phase in range(stride):
                pixel = stride * (tile * at + j) + phase - before
                if 0 <= pixel < length:
                    to_images[:, at, phase, pixel] = seen[:, j]
        for j in range(min(tile, count - tile * at)):
            to_slopes[:, at, 0, tile * at + j] = made[:, j]
    return to_images, to_slopes


@functools.cache
def of_kernel(shape, stride, made):
    """What makes a kernel's places into the products' points: `[points, strides strides, places]`, float64.

    Args:
        shape: (k, l) of the kernel.
        stride: 1 or 2.
        made: (h, w) of y.
    """
    axes = []
    for side, count in zip(shape, made, strict=True):
        places, _, _ = toom(min(TILE, count), -(-side // stride))
        axis = np.zeros((len(places), stride, side))
        for place in range(side):
            axis[:, place % stride, place] = places[:, place // stride]
        axes.append(axis)
    found = np.einsum("pak,qbl->pqabkl", *axes)
    return found.reshape(found.shape[0] * found.shape[1], stride * stride, -1)


def spread(images, high, wide):
    """`[B, H, W, C]` to `[points, B tiles, strides strides C]`: at every point the values of all tiles."""
    import tensorflow as tf

    height, width, channels = images.shape[1:]
    (p, t, a), (q, s, b) = high.shape[:3], wide.shape[:3]  # points, tiles, places of the stride
    high, wide = _constant(high, images), _constant(wide, images)
    found = tf.linalg.matmul(high, tf.reshape(images, (-1, height, width * channels)))  # [B, p t a, W C]
    found = tf.linalg.matmul(wide, tf.reshape(found, (-1, width, channels)))  # [B p t a, q s b, C]
    found = tf.transpose(tf.reshape(found, (-1, p, t, a, q, s, b, channels)), (1, 4, 0, 2, 5, 3, 6, 7))
    return tf.reshape(found, (p * q, -1, a * b * channels))


def gathered(points, high, wide):
    """The adjoint of `spread`: `[points, B tiles, strides strides C]` to `[B, H, W, C]`."""
    import tensorflow as tf

    (p, t, a, height), (q, s, b, width) = high.shape, wide.shape
    channels = points.shape[2] // (a * b)
    high, wide = _constant(high, points), _constant(wide, points)
    found = tf.transpose(tf.reshape(points, (p, q, -1, t, s, a, b, channels)), (2, 0, 3, 5, 1, 4, 6, 7))
    found = tf.linalg.matmul(wide, tf.reshape(found, (-1, q * s * b, channels)), transpose_a=True)  # [B p t a, W, C]
    found = tf.linalg.matmul(
        high, tf.reshape(found, (-1, p * t * a, width * channels)), transpose_a=True
    )  # [B, H, W C]
    return tf.reshape(found, (-1, height, width, channels))


def _constant(axis, like):
    """A matrix of `transforms`, `[points tiles strides, length]`."""
    import tensorflow as tf

    return tf.constant(axis.reshape(-1, axis.shape[-1]), like.dtype)


def _axes(size, shape, stride, padding, made):
    """`transforms` of both axes: those of x, `(high, wide)`, and those of y, whose size is `made`."""
    pairs = [
        transforms(n, k, stride, borders(n, k, stride, padding)[0], count)
        for n, k, count in zip(size, shape, made, strict=True)
    ]
    return tuple(zip(*pairs, strict=True))


def _points_of(kernel, stride, made):
    """A kernel `[k, l, I, O]` at the points: `[points, strides strides I, O]`."""
    import tensorflow as tf

    side, width, inputs, outputs = kernel.shape
    places = of_kernel((side, width), stride, made)
    flat = tf.reshape(kernel, (side * width, inputs * outputs))
    found = tf.linalg.matmul(tf.constant(places.reshape(-1, side * width), kernel.dtype), flat)
    return tf.reshape(found, (len(places), -1, outputs))


def winograd_slopes(images, kernel, stride, padding):
    """y, as `convolution_forms._stock_slopes`."""
    import tensorflow as tf

    size, shape = tuple(images.shape[1:3]), tuple(kernel.shape[:2])
    made = counts(size, shape, stride, padding)
    to_images, to_slopes = _axes(size, shape, stride, padding, made)
    return gathered(tf.linalg.matmul(spread(images, *to_images), _points_of(kernel, stride, made)), *to_slopes)


def winograd_images(slopes, kernel, size, stride, padding):
    """dL/dx, as `convolution_forms._stock_images`."""
    import tensorflow as tf

    made = tuple(slopes.shape[1:3])
    to_images, to_slopes = _axes(tuple(size), tuple(kernel.shape[:2]), stride, padding, made)
    seen = _points_of(kernel, stride, made)
    return gathered(tf.linalg.matmul(spread(slopes, *to_slopes), seen, transpose_b=True), *to_images)


def winograd_kernel(images, slopes, shape, stride, padding):
    """dL/dw, as `convolution_forms._stock_kernel`."""
    import tensorflow as tf

    size, made, shape = tuple(images.shape[1:3]), tuple(slopes.shape[1:3]), tuple(shape)
    to_images, to_slopes = _axes(size, shape[:2], stride, padding, made)
    found = tf.linalg.matmul(spread(images, *to_images), spread(slopes, *to_slopes), transpose_a=True)
    places = of_kernel(shape[:2], stride, made)
    found = tf.reshape(found, (-1, shape[2] * shape[3]))
    back = tf.constant(places.reshape(-1, shape[0] * shape[1]), images.dtype)
    return tf.reshape(tf.linalg.matmul(back, found, transpose_a=True), shape)
