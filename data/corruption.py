"""Training batches of GRD-Net and DRAEM: rotated images with synthetic defects, written once for both backends.

A defect is a thresholded map of Perlin noise filled with random pixels (GRD-Net), smooth colours, grays or pictures
of textures (DRAEM). All samples of a batch are made at once: a map of Perlin noise is four small matrix products, and
each random number is a hash of (the sample's key, where the number is used), equal on every backend.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from keras import ops

from ganspect.data.patches import Sampler, take_patches
from ganspect.data.rotation import take_rotated

NOISES = ("rgb", "perlin", "gray", "texture")
# Streams of random numbers; the coloured maps take one for each channel from _FILLING on.
_MAP, _FILLING, _TONES = 0, 1, 16
_CHOSEN = 0.3  # [GRD-tf] three of ten operations are applied to a gray map


@dataclass(frozen=True)
class CorruptedSampler(Sampler):
    """Draws every image equally often, rotated, with its region of interest, and a corrupted copy of it.

    The stack is uint8 `[N, H, W, C + 1]`: the last channel is the region of interest, 255 inside and 0 outside
    (`regions.with_regions`). An image is rotated whole about its centre and mirrored beyond its edges, the region
    alike (bilinear, then 1 from 0.5 on); a larger image than `patch_size` is cut afterwards. Then, with X the image, M
    the mask, N the noise and b the opacity,

        X_n = (1 - M) X + (1 - b) M X + b M N        (GRD-Net)

    DRAEM writes X_a = (1 - M) X + (1 - b') M S + b' M X with b' uniform in [0, 0.8]: the same with N = S and
    b = 1 - b', uniform in [0.2, 1]. Its batches are `turned=0.3, corrupted=0.5, noise="texture", opacity=(0.2, 1.0)`.

    Args:
        sizes, patch_size, count, batch_size, seed: as of every `Sampler`.
        rotation: angles are uniform in [-rotation, rotation], radians.
        turned: share of the images that are rotated at all.
        corrupted: share of the images that are corrupted; the others have an empty mask. So have, as in DRAEM, those
            whose noise stays below the threshold: 6 % with the settings given here.
        highest_scale: along each axis the noise has 2^u cells, u uniform in {0, ..., highest_scale}.
        threshold: the mask is where the noise, about -1 to 1, is above.
        opacity: range of b, uniform and one for each image.
        turn_noise: rotate the noise by a uniform angle in [-pi/2, pi/2], 0 beyond it, before it is thresholded.
        noise: "rgb", random values in {0, ..., 255} for each pixel; "perlin", for each channel a map of its own, of the
            mask's scales, stretched to 0..255; "gray", the mask's own map times 255, with a probability of 0.3 each its
            gamma in each channel (0.5 to 2) and its brightness (0.8 to 1.2 times, plus -30 to 30) changed, inverted:
            three of the authors' ten operations; "texture", an image of `sources` rotated by a uniform angle in
            [-pi/4, pi/4] and mirrored beyond its edges.
        sources: uint8 `[T, p, p, C]` (`data.sources`), for "texture" alone.
        stride: patches start at multiples of it, pixels, which may leave the last rows and columns out; 0 lets them
            start at any pixel.
        augment: otherwise images come in order, unrotated, their patch in the middle (of the multiples of `stride`);
            they are corrupted all the same.

    Raises:
        ValueError: as of every `Sampler`; a field is out of its range; `sources` do not fit `noise` or the images.
    """

    rotation: float = math.pi / 2
    turned: float = 1.0
    corrupted: float = 0.75
    highest_scale: int = 5
    threshold: float = 0.5
    opacity: tuple[float, float] = (0.5, 1.0)
    turn_noise: bool = True
    noise: str = "rgb"
    sources: object = field(default=None, compare=False, hash=False, repr=False)
    stride: int = 0
    augment: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.rotation <= math.pi:
            raise ValueError(f"rotation is in radians, 0 to pi, not {self.rotation}")
        for name in ("turned", "corrupted"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}")
        if self.highest_scale not in range(self.patch_size.bit_length()):
            raise ValueError(f"2^highest_scale cells fit no {self.patch_size} pixels: {self.highest_scale}")
        if not 0 <= self.opacity[0] <= self.opacity[1] <= 1:
            raise ValueError(f"opacity is a range within 0 to 1, not {self.opacity}")
        if self.stride < 0:
            raise ValueError(f"stride is in pixels, or 0, not {self.stride}")
        if self.noise not in NOISES:
            raise ValueError(f"noise is one of {', '.join(NOISES)}, not {self.noise!r}")
        if (self.sources is not None) != (self.noise == "texture"):
            raise ValueError('sources are given with noise "texture", and with no other')
        if self.sources is not None:
            shape, side = np.shape(self.sources), self.patch_size
            if len(shape) != 4 or not shape[0] or shape[1:3] != (side, side):
                raise ValueError(f"sources are images [T, {side}, {side}, C], not {list(shape)}")
            # A tensor made here, outside any traced function, is an argument of that function and not copied into it.
            object.__setattr__(self, "sources", ops.convert_to_tensor(self.sources))

    @property
    def rotates(self):
        """Whether any image is rotated; otherwise pixels are copied exactly."""
        return self.augment and self.rotation > 0 and self.turned > 0

    def draws(self, epoch):
        """The epoch's draws, `{name: [steps, batch]}`; but for "image" row i depends on (seed, epoch, i) alone.

        int32 "image", "top", "left" (the patch's upper left pixel in the rotated image), "scale_y", "scale_x"
        (exponents of 2), "corrupt" (0 or 1), "source"; float32 "angle", "noise_angle", "source_angle" (radians) and
        "opacity"; uint32 "key", of all random numbers inside the sample.
        """
        rng = np.random.default_rng([self.seed, epoch])
        # One variable in each column, in this order, whatever the settings.
        place_y, place_x, turn, angle, key, y, x, noise_angle, opacity, corrupt, source, source_angle = rng.random(
            (self.count, 12)
        ).T
        image = self._equally_often(rng, self.augment)
        step = self.stride or 1
        places = (np.asarray(self.sizes)[image] - self.patch_size) // step + 1  # [count, 2]
        place = np.stack([place_y, place_x], 1) * places if self.augment else (places - 1) / 2
        top, left = np.floor(place).T * step
        low, high = self.opacity
        whole = {
            "image": image,
            "top": top,
            "left": left,
            "scale_y": y * (self.highest_scale + 1),
            "scale_x": x * (self.highest_scale + 1),
            "corrupt": corrupt < self.corrupted,
            "source": source * (1 if self.sources is None else self.sources.shape[0]),
        }
        real = {
            "angle": (2 * angle - 1) * self.rotation * (turn < self.turned) * self.augment,
            "noise_angle": (noise_angle - 0.5) * math.pi,
            "source_angle": (source_angle - 0.5) * math.pi / 2,
            "opacity": low + (high - low) * opacity,
        }
        drawn = {name: values.astype("int32") for name, values in whole.items()}
        drawn |= {name: values.astype("float32") for name, values in real.items()}
        return self._in_batches(drawn | {"key": (key * 2**32).astype("uint32")})

    def batch(self, stack, row):
        """What one row of `draws` describes, float32: images not rounded, in 0..255, masks 0 or 1.

        Returns:
            `{"images": [B, p, p, C], "corrupted": [B, p, p, C], "mask": [B, p, p, 1], "roi": [B, p, p, 1]}`.
        """
        image, top, left = row.get("place", row["image"]), row["top"], row["left"]
        if self.rotates:
            size = ops.take(ops.convert_to_tensor(self.sizes, "float32"), row["image"], axis=0)
            place = ops.cast(top, "float32"), ops.cast(left, "float32")
            patches = take_rotated(stack, image, size, *place, row["angle"], self.patch_size, fill="reflect")
        else:
            patches = ops.cast(take_patches(stack, image, top, left, self.patch_size), "float32")
        images, roi = patches[..., :-1], ops.cast(patches[..., -1:] >= 127.5, "float32")
        corrupted, mask = self.corrupt(images, row)
        return {"images": images, "corrupted": corrupted, "mask": mask, "roi": roi}

    def corrupt(self, images, row):
        """The corrupted copies of float32 images `[B, p, p, C]` in 0..255 and their masks `[B, p, p, 1]`."""
        mask = ops.cast(row["corrupt"], "float32")[:, None, None, None] * self.masks(row)
        noise = self._filling(row, images.shape[-1])
        return images + row["opacity"][:, None, None, None] * mask * (noise - images), mask

    def masks(self, row):
        """The masks of images that are corrupted, 0 or 1: float32 `[B, p, p, 1]`."""
        return ops.cast(self._noise_map(row, _MAP) > self.threshold, "float32")

    def _noise_map(self, row, stream):
        """A map of Perlin noise for each sample, rotated if the mask's is: `[B, p, p, 1]`."""
        noise = perlin_noise(row["key"], row["scale_y"], row["scale_x"], self.patch_size, self.highest_scale, stream)
        return self._turned(noise[..., None], row["noise_angle"], "zero") if self.turn_noise else noise[..., None]

    def _filling(self, row, channels):
        """What the masks show, in 0..255: `[B, p, p, C]`."""
        side = self.patch_size
        if self.noise == "rgb":
            return random_pixels(row["key"], side, channels, _FILLING)
        if self.noise == "perlin":
            scales = row["key"], row["scale_y"], row["scale_x"], side, self.highest_scale
            maps = ops.stack([perlin_noise(*scales, _FILLING + i) for i in range(channels)], axis=-1)
            low, high = ops.min(maps, axis=(1, 2), keepdims=True), ops.max(maps, axis=(1, 2), keepdims=True)
            return 255 * (maps - low) / ops.maximum(high - low, 1e-6)
        if self.noise == "gray":
            return self._grays(row, channels)
        if self.sources.shape[-1] != channels:
            raise ValueError(f"sources have {self.sources.shape[-1]} channels, the images {channels}")
        return self._turned(self.sources, row["source_angle"], "reflect", row["source"])

    def _grays(self, row, channels):
        """The masks' own maps as gray, 0..255, in tones drawn for each sample: `[B, p, p, C]`."""
        drawn = uniform(random_bits(row["key"], 5 + channels, _TONES))[:, None, None, :]
        bent, lit, inverted, factor, term, curve = (*(drawn[..., i : i + 1] for i in range(5)), drawn[..., 5:])
        gray = ops.clip(self._noise_map(row, _MAP), 0, 1)
        gray = gray ** ops.where(bent < _CHOSEN, 0.5 + 1.5 * curve, 1.0)
        brighter = ops.clip(gray * (0.8 + 0.4 * factor) + (60 * term - 30) / 255, 0, 1)
        gray = ops.where(lit < _CHOSEN, brighter, gray)
        return 255 * ops.where(inverted < _CHOSEN, 1 - gray, gray)

    def _turned(self, squares, angle, fill, which=None):
        """Whole images `[T, p, p, C]` rotated about their centres, all in order or those in `which`: `[B, p, p, C]`."""
        which = ops.arange(angle.shape[0], dtype="int32") if which is None else which
        nought = ops.zeros_like(angle)
        size = ops.stack([nought, nought], axis=1) + self.patch_size
        return take_rotated(squares, which, size, nought, nought, angle, self.patch_size, fill)


def random_bits(key, count, stream):
    """The first `count` 32-bit random numbers of a stream of each key: uint32 `[B, count]`, a pure function.

    Args:
        key: uint32 `[B]`.
        count: numbers.
        stream: integer, >= 0; the streams of a key are independent.
    """
    start = (stream * 0x9E3779B9 + 0x632BE59B) % 2**32  # not 0, which `_mixed` keeps
    keys = _mixed(ops.bitwise_xor(ops.convert_to_tensor(key, "uint32"), np.uint32(start)))
    # TensorFlow's graphs count in int32 only. Mixed once for all keys.
    counters = _mixed(ops.cast(ops.arange(1, count + 1, dtype="int32"), "uint32"))
    return _mixed(ops.bitwise_xor(counters[None], keys[:, None]))


def uniform(bits):
    """float32 in [0, 1) from the upper 24 of 32 random bits."""
    return ops.cast(ops.right_shift(bits, np.uint32(8)), "float32") * 2.0**-24


def random_pixels(key, size, channels, stream):
    """Independent values in {0, ..., 255} for each pixel and channel (at most 4): float32 `[B, size, size, C]`."""
    if channels > 4:
        raise ValueError(f"random pixels have at most 4 channels, not {channels}")
    four = ops.reshape(ops.view(random_bits(key, size * size, stream), "uint8"), (-1, size, size, 4))
    return ops.cast(four[..., :channels], "float32")


def perlin_noise(key, scale_y, scale_x, size, highest_scale, stream):
    """Gradient noise (Perlin), times sqrt(2): about -1 to 1.

    With lattice points i, j of unit gradients g, w the fade 6t^5 - 15t^4 + 10t^3 of the distance,

        n(y, x) = sum_ij w_i(y) w_j(x) (g^y_ij (y - i) + g^x_ij (x - j))

    which is a product of matrices along each axis, as w and the distances are of one axis each.

    Args:
        key: uint32 `[B]`.
        scale_y, scale_x: int32 `[B]`; 2 to them is the number of cells along the axis.
        size: side of the maps, pixels.
        highest_scale: largest of the scales.
        stream: of `random_bits`.

    Returns:
        float32 `[B, size, size]`.
    """
    points = 2**highest_scale + 1
    angles = 2 * math.pi * uniform(ops.reshape(random_bits(key, points * points, stream), (-1, points, points)))
    weights, distances = (ops.convert_to_tensor(table) for table in _axis_tables(size, highest_scale))
    rows, rows_apart = ops.take(weights, scale_y, axis=0), ops.take(distances, scale_y, axis=0)  # [B, p, points]
    columns, columns_apart = ops.take(weights, scale_x, axis=0), ops.take(distances, scale_x, axis=0)
    left = ops.concatenate([rows_apart @ ops.sin(angles), rows @ ops.cos(angles)], axis=-1)  # [B, p, 2 points]
    right = ops.concatenate([columns, columns_apart], axis=-1)
    return math.sqrt(2) * (left @ ops.transpose(right, (0, 2, 1)))


def _axis_tables(size, highest_scale):
    """Of each scale, pixel and lattice point of an axis: weight, weight times distance; `[scales, size, points]`."""
    cells = 2.0 ** np.arange(highest_scale + 1)
    place = np.arange(size)[:, None] * cells[:, None, None] / size
    apart = place - np.arange(2**highest_scale + 1)  # in cells, positive beyond the lattice point
    near = np.maximum(1 - np.abs(apart), 0)
    weight = near**3 * (near * (6 * near - 15) + 10)
    return weight.astype("float32"), (weight * apart).astype("float32")


def _mixed(bits):
    """Permutes the 32-bit integers so that each bit depends on all (C. Wellons' "lowbias32")."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = ops.bitwise_xor(bits, ops.right_shift(bits, np.uint32(shift))) * np.uint32(factor)
    return ops.bitwise_xor(bits, ops.right_shift(bits, np.uint32(16)))
