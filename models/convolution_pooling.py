"""2x2 average pooling whose gradient is copied: oneDNN's own takes four times as long where channels are few.

The numbers are the same to the last bit: a quarter of a slope is exact.
"""

import numpy as np

from ganspect.models.recorded import recorded


def averaged(images):
    """Means of 2x2 pixels: `[B, H, W, C]` to `[B, H / 2, W / 2, C]`, H and W even; its gradient is `copied`."""
    import tensorflow as tf

    @recorded
    def run(x):
        return tf.nn.avg_pool2d(x, 2, 2, "VALID"), lambda slopes: (copied(slopes),)

    return run(images)


def copied(slopes):
    """A quarter of each slope in its 2x2 pixels: `[B, h, w, C]` to `[B, 2h, 2w, C]`; its gradient is `averaged`."""
    import tensorflow as tf

    height, width, channels = slopes.shape[1:]
    block = 2 if width % 2 == 0 else 1  # pixels of a row of a product, which copies faster than `tf.concat` does
    twice = np.kron(np.eye(block), np.tile(np.eye(channels), 2)).astype(slopes.dtype.as_numpy_dtype) / 4

    @recorded
    def run(g):
        row = tf.linalg.matmul(tf.reshape(g, (-1, block * channels)), twice)
        row = tf.reshape(row, (-1, height, 2 * width * channels))
        return tf.reshape(tf.concat([row, row], -1), (-1, 2 * height, 2 * width, channels)), lambda x: (averaged(x),)

    return run(slopes)


def suits(layer, inputs):
    """Whether a call of an `AveragePooling2D` is one that `averaged` knows and is faster at."""
    sizes = tuple(inputs.shape)
    return (
        layer.pool_size == layer.strides == (2, 2)
        and layer.padding == "valid"
        and layer.data_format == "channels_last"
        and None not in sizes[1:]
        and sizes[1] % 2 == sizes[2] % 2 == 0
        and sizes[3] <= 8
        and (sizes[0] or 1) * sizes[1] * sizes[2] * sizes[3] >= 2**18
    )
