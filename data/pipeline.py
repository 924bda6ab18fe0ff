"""A tf.data pipeline over samples. TensorFlow is imported when a pipeline is built, not before."""

from collections.abc import Sequence

import numpy as np

from ganspect.data.images import read_image, read_mask
from ganspect.data.samples import Sample


def image_dataset(
    samples: Sequence[Sample],
    channels: int,
    size=None,
    batch_size: int = 1,
    crop_rows: int | None = None,
    cache: bool = False,
):
    """Images with their masks, labels and names, decoded by `read_image` on two threads, in the order of `samples`.

    Args:
        samples: from `scan`.
        channels: 1 or 3.
        size: None, one number for a square, or (height, width). With None a batch needs images of one size.
        batch_size: the last batch may be smaller.
        crop_rows: as in `read_image`.
        cache: keep the decoded images in memory after the first pass.

    Returns:
        `tf.data.Dataset` of dicts: `image` uint8 `[B, H, W, channels]`, `mask` bool `[B, H, W]` (all False where
        there is none), `label` int64 `[B]`, `name` string `[B]`.

    Raises:
        tf.errors.InvalidArgumentError: while iterating, for a file that cannot be read; the message names it.
    """
    import tensorflow as tf

    samples = tuple(samples)

    def load(index):
        sample = samples[index]
        image = read_image(sample.path, channels, size, crop_rows)
        if sample.mask_path is None:
            return image, np.zeros(image.shape[:2], bool)
        return image, read_mask(sample.mask_path, size, crop_rows)

    height, width = (size, size) if size is None or isinstance(size, int) else size

    def decode(index, label, name):
        image, mask = tf.numpy_function(load, [index], (tf.uint8, tf.bool))
        image = tf.ensure_shape(image, (height, width, channels))
        return {"image": image, "mask": tf.ensure_shape(mask, (height, width)), "label": label, "name": name}

    labels = np.array([sample.label for sample in samples], np.int64)
    names = np.array([sample.name for sample in samples], dtype=str)
    rows = tf.data.Dataset.from_tensor_slices((np.arange(len(samples)), labels, names))
    decoded = rows.map(decode, num_parallel_calls=2, deterministic=True)
    decoded = decoded.cache() if cache else decoded
    return decoded.batch(batch_size).prefetch(1)
