"""Random patches and their augmentation, written once for both backends.

The random numbers are drawn in NumPy as pure functions of (seed, epoch, index), so that a resumed run sees the very
patches that an uninterrupted one would have seen. The arithmetic is `keras.ops`: mapped inside `tf.data` on TensorFlow
(`patch_dataset`), inside the compiled step on JAX.
"""

from dataclasses import dataclass

import numpy as np
from keras import ops


@dataclass(frozen=True)
class PatchSampler:
    """Draws where each patch of an epoch is cut and how it is turned.

    Args:
        sizes: `((height, width), ...)` of the images that patches come from, pixels.
        patch_size: side of the square patch, pixels.
        count: patches in an epoch; a last incomplete batch is dropped.
        batch_size: patches in a batch.
        seed: of every draw.
        augment: flip horizontally and vertically and turn by one counter-clockwise quarter, each with probability 1/2
            (FCBiGAN thesis 5.2); otherwise patches are only cut.

    Raises:
        ValueError: there is no image, one is smaller than a patch, or an epoch holds no whole batch.
    """

    sizes: tuple[tuple[int, int], ...]
    patch_size: int
    count: int
    batch_size: int
    seed: int = 0
    augment: bool = True

    def __post_init__(self):
        if not self.sizes:
            raise ValueError("there is no image to cut patches from")
        small = [size for size in self.sizes if min(size) < self.patch_size]
        if small:
            raise ValueError(f"{len(small)} images are smaller than a {self.patch_size}-pixel patch, e.g. {small[0]}")
        if self.count < self.batch_size:
            raise ValueError(f"an epoch of {self.count} patches holds no batch of {self.batch_size}")

    @property
    def steps(self):
        """Batches in an epoch."""
        return self.count // self.batch_size

    def draws(self, epoch):
        """The epoch's draws: `{"image", "top", "left", "flip_x", "flip_y", "turn"}`, each int32 `[steps, batch]`.

        The draw of a patch depends on (seed, epoch, its index) alone: row i of one table of uniform numbers.
        """
        uniform = np.random.default_rng([self.seed, epoch]).random((self.count, 6))[: self.steps * self.batch_size]
        sizes = np.asarray(self.sizes)
        image = (uniform[:, 0] * len(sizes)).astype("int32")
        room = sizes[image] - self.patch_size + 1  # [patches, 2]
        drawn = {
            "image": image,
            "top": uniform[:, 1] * room[:, 0],
            "left": uniform[:, 2] * room[:, 1],
            "flip_x": (uniform[:, 3] < 0.5) & self.augment,
            "flip_y": (uniform[:, 4] < 0.5) & self.augment,
            "turn": (uniform[:, 5] < 0.5) & self.augment,
        }
        return {k: v.astype("int32").reshape(self.steps, self.batch_size) for k, v in drawn.items()}


def stack_images(images):
    """Images of any sizes as one array, so that a patch is cut by indexing.

    Args:
        images: list of uint8 `[H, W, C]` with equal C.

    Returns:
        uint8 `[N, H', W', C]`, zero beyond each image, and the sizes `((H, W), ...)`.

    Raises:
        ValueError: the stack has 2^31 pixels or more, too many for 32-bit indices.
    """
    sizes = tuple(image.shape[:2] for image in images)
    height, width = np.max(sizes, axis=0)
    if len(images) * int(height) * int(width) >= 2**31:
        raise ValueError(
            f"{len(images)} images of {height}x{width} pixels are too many for 32-bit indices: resize them"
        )
    stack = np.zeros((len(images), height, width, images[0].shape[-1]), "uint8")
    for i, image in enumerate(images):
        stack[i, : image.shape[0], : image.shape[1]] = image
    return stack, sizes


def take_patches(stack, image, top, left, patch_size):
    """Cuts one patch for each draw.

    Args:
        stack: `[N, H, W, C]`.
        image, top, left: int32 `[B]`, which image and the patch's upper left pixel.
        patch_size: pixels.

    Returns:
        `[B, patch_size, patch_size, C]`, of the stack's dtype.
    """
    _, height, width, channels = stack.shape
    offsets = ops.arange(patch_size, dtype="int32")
    rows = (image * height + top)[:, None] + offsets  # [B, p]
    pixels = rows[:, :, None] * width + (left[:, None] + offsets)[:, None, :]  # [B, p, p]
    return ops.take(ops.reshape(stack, (-1, channels)), pixels, axis=0)


def flip_and_turn(patches, flip_x, flip_y, turn):
    """Mirrors left-right, then up-down, then turns by a quarter counter-clockwise, where the flag is set.

    Args:
        patches: `[B, p, p, C]`.
        flip_x, flip_y, turn: int32 or bool `[B]`.

    Returns:
        `[B, p, p, C]`.
    """

    def where(flags, changed, kept):
        return ops.where(ops.cast(flags, "bool")[:, None, None, None], changed, kept)

    patches = where(flip_x, ops.flip(patches, axis=2), patches)
    patches = where(flip_y, ops.flip(patches, axis=1), patches)
    return where(turn, ops.flip(ops.transpose(patches, (0, 2, 1, 3)), axis=1), patches)


def patch_batch(stack, draws, patch_size):
    """The batch that one row of `PatchSampler.draws` describes: `[B, p, p, C]`, of the stack's dtype."""
    patches = take_patches(stack, draws["image"], draws["top"], draws["left"], patch_size)
    return flip_and_turn(patches, draws["flip_x"], draws["flip_y"], draws["turn"])


def patch_dataset(stack, sampler, prepare, epochs, first_epoch=0):
    """The `tf.data` pipeline of `epochs - first_epoch` epochs of prepared batches, one after the other.

    Args:
        stack: uint8 `[N, H, W, C]`.
        sampler: `PatchSampler`.
        prepare: keras.ops function from a uint8 batch to what the method's `step` takes.
        epochs: epoch to stop before.
        first_epoch: epoch to start with, after a resume.

    Returns:
        `tf.data.Dataset` of `sampler.steps * (epochs - first_epoch)` batches.
    """
    import tensorflow as tf

    def rows():
        for epoch in range(first_epoch, epochs):
            drawn = sampler.draws(epoch)
            for step in range(sampler.steps):
                yield {name: values[step] for name, values in drawn.items()}

    names = ("image", "top", "left", "flip_x", "flip_y", "turn")
    signature = {name: tf.TensorSpec((sampler.batch_size,), "int32") for name in names}
    images = tf.constant(stack)
    dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
    dataset = dataset.map(
        lambda row: prepare(patch_batch(images, row, sampler.patch_size)), num_parallel_calls=1, deterministic=True
    )
    return dataset.apply(tf.data.experimental.assert_cardinality(sampler.steps * (epochs - first_epoch))).prefetch(2)
