"""Images and patches under rotation by any angle: the two training recipes of CBiGAN, written once for both backends.

A crop of the rotated image is computed at its own pixels alone, by bilinear interpolation at their places in the
unrotated image; the rotated image itself is never made.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from ganspect.data.patches import Sampler, take_patches

FILLS = ("edge", "reflect", "zero")


@dataclass(frozen=True)
class RotatedSampler(Sampler):
    """Draws every image equally often, at a random angle, whole or as a patch of the rotated image.

    The author code fills an epoch with repetitions of the training images: objects are rotated and their edges
    continued; textures are rotated, cropped to what has no empty corner and cut to a random patch. Departure: it draws
    one angle for a batch of textures, here each patch has its own.

    Args:
        sizes, patch_size, count, batch_size, seed: as of every `Sampler`.
        rotation: angles are uniform in [-rotation, rotation], radians, counter-clockwise; pi is the full circle.
        fill: "edge" takes whole images of `patch_size` x `patch_size` pixels, the nearest edge pixel beyond them;
            "crop" cuts a patch anywhere on the pixel grid of the largest centred square without empty corners (of the
            largest centred square of an image that is not one; of the whole rectangle if `rotation` is 0).
        augment: otherwise images come in order and unrotated; with "crop" a patch is cut anywhere.

    Raises:
        ValueError: as of every `Sampler`; `rotation` is not in [0, pi]; `fill` is unknown; an image is not of the patch
            size ("edge"), or has no room for a patch at some angle ("crop").
    """

    rotation: float = 0.0
    fill: str = "edge"
    augment: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.rotation <= math.pi:
            raise ValueError(f"rotation is in radians, 0 to pi, not {self.rotation}")
        if self.fill not in ("edge", "crop"):
            raise ValueError(f'fill is "edge" or "crop", not {self.fill!r}')
        side = self.patch_size
        other = [size for size in self.sizes if tuple(size) != (side, side)]
        if self.fill == "edge" and other:
            raise ValueError(f'fill "edge" takes images of {side}x{side} pixels, not {other[0][0]}x{other[0][1]}')
        sizes = np.asarray(self.sizes)
        narrow = (self._room(sizes, min(self.rotation, math.pi / 4)) < 1).any(axis=1)  # the crop is least at 45 degrees
        if narrow.any():
            height, width = sizes[narrow.argmax()]
            raise ValueError(f"an image of {height}x{width} pixels, rotated, has no room for a {side}-pixel patch")

    @property
    def rotates(self):
        """Whether any image is rotated; otherwise pixels are copied exactly."""
        return self.augment and self.rotation > 0

    def draws(self, epoch):
        """The epoch's draws: `{"image", "top", "left", "angle"}`, each `[steps, batch]`.

        "image" is int32; the others are float32: the patch's upper left pixel in the rotated image, whole numbers, and
        radians. An image is drawn `count / N` times, but for rounding and the batch that is dropped; the order of
        images depends on `count` too.
        """
        rng = np.random.default_rng([self.seed, epoch])
        uniform = rng.random((self.count, 3))
        image = self._equally_often(rng, self.augment)
        angle = ((2 * uniform[:, 2] - 1) * self.rotation * self.augment).astype("float32")
        sizes = np.asarray(self.sizes)[image]
        place = self._margin(sizes, angle) + np.floor(uniform[:, :2] * self._room(sizes, angle))  # [count, 2]
        drawn = {
            "image": image.astype("int32"),
            "top": place[:, 0].astype("float32"),
            "left": place[:, 1].astype("float32"),
            "angle": angle,
        }
        return self._in_batches(drawn)

    def batch(self, stack, row):
        """The images that one row of `draws` describes: float32 `[B, p, p, C]` in 0..255, not rounded."""
        image, top, left = row.get("place", row["image"]), row["top"], row["left"]
        if self.rotates:
            size = ops.take(ops.convert_to_tensor(self.sizes, "float32"), row["image"], axis=0)
            return take_rotated(stack, image, size, top, left, row["angle"], self.patch_size)
        patches = take_patches(stack, image, ops.cast(top, "int32"), ops.cast(left, "int32"), self.patch_size)
        return ops.cast(patches, "float32")

    def _margin(self, sizes, angle):
        """Whole pixels `[n, 2]` above and left of the crop of each rotated image."""
        if not self.rotates or self.fill == "edge":
            return np.zeros(sizes.shape)
        angle = np.asarray(angle, "float64")
        # Measured between pixel centres, so that no pixel of the crop has a neighbour beyond the image.
        half = (sizes.min(axis=1) - 1) / 2 / (np.abs(np.cos(angle)) + np.abs(np.sin(angle)))
        return np.ceil((sizes - 1) / 2 - half[:, None])

    def _room(self, sizes, angle):
        """Number of places `[n, 2]` for a patch along each axis of the crop."""
        return sizes - 2 * self._margin(sizes, angle) - self.patch_size + 1


def take_rotated(stack, image, size, top, left, angle, patch_size, fill="edge"):
    """Cuts one patch for each draw from an image rotated about its centre, by bilinear interpolation.

    Args:
        stack: `[N, H, W, C]`.
        image: int32 `[B]`, which image.
        size: float32 `[B, 2]`, its height and width.
        top, left: float32 `[B]`, the patch's upper left pixel in the rotated image, which has the image's own size.
        angle: float32 `[B]`, radians; positive turns the displayed image counter-clockwise.
        patch_size: pixels.
        fill: what lies beyond the image: "edge", the nearest edge pixel; "reflect", the image mirrored about its edge
            pixels, as often as needed; "zero".

    Returns:
        float32 `[B, patch_size, patch_size, C]`, of the stack's range.

    Raises:
        ValueError: `fill` is unknown.
    """
    if fill not in FILLS:
        raise ValueError(f"fill is one of {', '.join(FILLS)}, not {fill!r}")
    _, height, width, channels = stack.shape
    last_y, last_x = size[:, 0, None, None] - 1, size[:, 1, None, None] - 1  # [B, 1, 1]
    cosine, sine = ops.cos(angle)[:, None, None], ops.sin(angle)[:, None, None]
    offsets = ops.arange(patch_size, dtype="float32")
    y = top[:, None, None] + offsets[:, None] - last_y / 2  # [B, p, 1], from the centre
    x = left[:, None, None] + offsets - last_x / 2  # [B, 1, p]
    place_y = cosine * y + sine * x + last_y / 2  # [B, p, p], in the unrotated image
    place_x = cosine * x - sine * y + last_x / 2
    source_y, source_x = _inside(place_y, last_y, fill), _inside(place_x, last_x, fill)
    # One before the last row and column at most, so that the second neighbour is always there.
    row = ops.minimum(ops.floor(source_y), last_y - 1)
    column = ops.minimum(ops.floor(source_x), last_x - 1)
    down, right = (source_y - row)[..., None], (source_x - column)[..., None]
    first = (image[:, None, None] * height + ops.cast(row, "int32")) * width + ops.cast(column, "int32")
    pixels = ops.reshape(stack, (-1, channels))

    def across(start):
        near, far = (ops.cast(_gathered(pixels, start + i), "float32") for i in (0, 1))
        return near + right * (far - near)

    above, below = across(first), across(first + width)
    patches = above + down * (below - above)
    if fill != "zero":
        return patches
    beyond = ops.maximum(ops.abs(place_y - source_y), ops.abs(place_x - source_x)) > 1e-3  # more than rounding
    return ops.where(beyond[..., None], 0.0, patches)


def _gathered(values, indices):
    """`values[indices]` of indices that are all in range: `ops.take` looks for negative ones first."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(values, indices)
    return ops.convert_to_tensor(values).at[indices].get(mode="promise_in_bounds")


def _inside(place, last, fill):
    """The coordinate in [0, last] whose pixel is shown at any coordinate `place`."""
    if fill == "reflect":
        return last - ops.abs(ops.mod(place, 2 * last) - last)
    return ops.clip(place, 0, last)
