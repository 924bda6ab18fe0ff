"""Samplers of training batches, and random patches with their augmentation, written once for both backends.

The random numbers are drawn in NumPy as pure functions of (seed, epoch, index), so that a resumed run sees the very
images that an uninterrupted one would have seen. The arithmetic is `keras.ops`: mapped inside `tf.data` on TensorFlow
(`sampled_dataset`), inside the compiled step on JAX.
"""

from dataclasses import dataclass

import numpy as np
from keras import ops

from ganspect.data import on_disk


@dataclass(frozen=True)
class Sampler:
    """What training asks of a sampler, and what all samplers share.

    Beside the fields here a sampler has

    * `draws(epoch)`, NumPy arrays `{name: [steps, batch]}`, a pure function of (seed, epoch, index);
    * `batch(stack, row)`, in `keras.ops`: from uint8 `[N, H, W, C]` and one row of draws, `{name: [batch]}`, to images
      `[B, p, p, C]` in 0..255. "image" in a row is the number of an image, "place", where it is given, that in the
      stack.

    Args:
        sizes: `((height, width), ...)` of the images to draw from, pixels.
        patch_size: side p of the square images in a batch, pixels.
        count: images in an epoch; a last incomplete batch is dropped.
        batch_size: images in a batch.
        seed: of every draw.

    Raises:
        ValueError: there is no image, one is smaller than a patch, or an epoch holds no whole batch.
    """

    sizes: tuple[tuple[int, int], ...]
    patch_size: int
    count: int
    batch_size: int
    seed: int = 0

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

    def _equally_often(self, rng, shuffled):
        """An epoch's images, int64 `[count]`: each `count / N` times but for rounding, in order or shuffled."""
        image = np.arange(self.count) % len(self.sizes)
        if not shuffled:
            return image
        # Of more images than an epoch takes, others are left out in each.
        return rng.permutation(image if self.count >= len(self.sizes) else len(self.sizes))[: self.count]

    def _in_batches(self, drawn):
        """Draws `{name: [count]}` as `{name: [steps, batch]}`, without a last incomplete batch."""
        kept = self.steps * self.batch_size
        return {name: values[:kept].reshape(self.steps, self.batch_size) for name, values in drawn.items()}


@dataclass(frozen=True)
class PatchSampler(Sampler):
    """Draws where each patch of an epoch is cut and how it is turned.

    Args:
        sizes, patch_size, count, batch_size, seed: as of every `Sampler`.
        augment: flip horizontally and vertically and turn by one counter-clockwise quarter, each with probability 1/2
            (FCBiGAN thesis 5.2); otherwise patches are only cut.
        fresh: cut other patches in every epoch; otherwise those of epoch 0, in another order and turned anew.
    """

    augment: bool = True
    fresh: bool = True

    def draws(self, epoch):
        """The epoch's draws: `{"image", "top", "left", "flip_x", "flip_y", "turn"}`, each int32 `[steps, batch]`.

        The draw of a patch depends on (seed, epoch, its index) alone: row i of one table of uniform numbers.
        """
        rng = np.random.default_rng([self.seed, epoch])
        uniform = rng.random((self.count, 6))
        if not self.fresh and epoch:
            cut = np.random.default_rng([self.seed, 0]).random((self.count, 6))
            uniform[:, :3] = rng.permutation(cut[:, :3])
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
        return self._in_batches({name: values.astype("int32") for name, values in drawn.items()})

    def batch(self, stack, row):
        """The patches that one row of `draws` describes: `[B, p, p, C]`, of the stack's dtype."""
        return patch_batch(stack, row, self.patch_size)


def stack_images(images):
    """Images of any sizes as one array, so that a patch is cut by indexing.

    Args:
        images: list of uint8 `[H, W, C]` with equal C.

    Returns:
        uint8 `[N, H', W', C]`, zero beyond each image, and the sizes `((H, W), ...)`. Beyond `on_disk.memory_limit` an
        `np.memmap`: batches are then cut from their own images alone (`at_hand`).

    Raises:
        ValueError: the stack is in memory and has 2^31 pixels or more, too many for 32-bit indices.
    """
    sizes = tuple(image.shape[:2] for image in images)
    height, width = map(int, np.max(sizes, axis=0))
    stack = on_disk.zeros((len(images), height, width, images[0].shape[-1]))
    if not on_disk.is_on_disk(stack) and len(images) * height * width >= 2**31:
        raise ValueError(
            f"{len(images)} images of {height}x{width} pixels are too many for 32-bit indices: resize them"
        )
    for i, image in enumerate(images):
        stack[i, : image.shape[0], : image.shape[1]] = image
    return stack, sizes


def at_hand(stack, row):
    """What `Sampler.batch` takes for one row of draws: the stack and the row; of a stack on disk the row's images."""
    if not on_disk.is_on_disk(stack):
        return stack, row
    numbers, place = np.unique(row["image"], return_inverse=True)
    images = np.asarray(stack[np.resize(numbers, len(place))])  # always [B, H, W, C]: one graph
    return images, {**row, "place": place.astype("int32")}


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


def patch_batch(stack, draws, patch_size):
    """The batch that one row of `PatchSampler.draws` describes: `[B, p, p, C]`, of the stack's dtype.

    Mirrored left-right, then up-down, then turned by a quarter counter-clockwise where the flags are set; all of it in
    the places that are read.
    """
    _, height, width, channels = stack.shape
    image = draws.get("place", draws["image"])
    flip_x, flip_y, turn = (ops.cast(draws[name], "bool")[:, None] for name in ("flip_x", "flip_y", "turn"))
    there = ops.arange(patch_size, dtype="int32")[None]
    back = patch_size - 1 - there
    rows, columns = ops.where(flip_y, back, there) * width, ops.where(flip_x, back, there)  # [B, p]
    down = ops.where(turn, ops.where(flip_x, there, back), rows)
    across = ops.where(turn, rows, columns)
    first = (image * height + draws["top"]) * width + draws["left"]
    pixels = first[:, None, None] + down[:, :, None] + across[:, None, :]
    return ops.take(ops.reshape(stack, (-1, channels)), pixels, axis=0)


def sampled_dataset(stack, sampler, prepare, epochs, first_epoch=0, first_step=0):
    """The `tf.data` pipeline of `epochs - first_epoch` epochs of prepared batches, one after the other.

    Args:
        stack: uint8 `[N, H, W, C]`.
        sampler: `Sampler`.
        prepare: keras.ops function from a batch in 0..255 to what the method's `step` takes.
        epochs: epoch to stop before.
        first_epoch, first_step: epoch to start with, and batch of that epoch, after a resume.

    Returns:
        `tf.data.Dataset` of `sampler.steps * (epochs - first_epoch) - first_step` batches.
    """
    import tensorflow as tf

    first, drawn_from_disk = sampler.draws(first_epoch), on_disk.is_on_disk(stack)

    def by_epoch():
        for epoch in range(first_epoch, epochs):
            drawn, step = (first, first_step) if epoch == first_epoch else (sampler.draws(epoch), 0)
            yield {name: values[step:] for name, values in drawn.items()}

    def by_row():
        for drawn in by_epoch():
            for step in range(len(drawn["image"])):
                yield at_hand(stack, {name: values[step] for name, values in drawn.items()})

    signature = {name: tf.TensorSpec(values.shape[1:], values.dtype) for name, values in first.items()}
    if drawn_from_disk:
        signature["place"] = signature["image"]
        signature = tf.TensorSpec((sampler.batch_size, *stack.shape[1:]), "uint8"), signature
        dataset = tf.data.Dataset.from_generator(by_row, output_signature=signature)
    else:
        images = tf.constant(stack)
        signature = {name: tf.TensorSpec((None, *spec.shape), spec.dtype) for name, spec in signature.items()}
        dataset = tf.data.Dataset.from_generator(by_epoch, output_signature=signature).unbatch()

    @tf.autograph.experimental.do_not_convert  # which would read the source of all that it calls, to no end
    def prepared(*parts):
        return prepare(sampler.batch(*(parts if drawn_from_disk else (images, *parts))))

    dataset = dataset.map(prepared, num_parallel_calls=1, deterministic=True)
    batches = sampler.steps * (epochs - first_epoch) - first_step
    return dataset.apply(tf.data.experimental.assert_cardinality(batches)).prefetch(2)
