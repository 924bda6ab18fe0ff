"""Banks of anomaly sources for DRAEM's corruption: procedural textures, or a folder of pictures such as DTD's.

Each picture is changed by three of DRAEM's ten operations, chosen without replacement. Departures: DRAEM reads and
changes a picture anew for each use, here a bank is made once; a rotated picture is mirrored beyond its edges, not
black. Ranges that DRAEM leaves to its augmentation library (sharpness, posterize, autocontrast) are that library's.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from skimage.transform import rotate

from ganspect.data.drawing import cloudy_noise, grid, smooth_noise
from ganspect.data.images import EXTENSIONS, DataError, read_image, to_array
from ganspect.data.textures import CLOUD_DEFECTS, FIBRE_DEFECTS, WEAVE_DEFECTS, clear_ground, fibres, weave

OPERATIONS_EACH = 3


def procedural_textures(count, size, channels, seed=0):
    """Textures that need no files: clouds, waves, checks, stripes, cells and the synthetic scenes, in random colours.

    Args:
        count: textures, the kinds in turn.
        size: side of the square textures, pixels.
        channels: 1 or 3.
        seed: of every random number; texture i depends on (seed, i) alone.

    Returns:
        uint8 `[count, size, size, channels]`.
    """
    kinds = (_clouds, _scene, _checks, _waves, _cells, _stripes)

    def texture(i, rng):
        image = kinds[i % len(kinds)](rng, size)
        return Image.fromarray(_bytes(255 * image))

    return _bank(texture, count, channels, seed)


def folder_textures(folder, count, size, channels, seed=0):
    """Textures from a folder of pictures, searched with its sub-folders, resized to squares.

    Args:
        folder: e.g. DTD's `images`; not the test images of a data set.
        count: textures; of more pictures some are chosen at random, fewer are repeated with other operations.
        size, channels, seed: as of `procedural_textures`.

    Returns:
        uint8 `[count, size, size, channels]`.

    Raises:
        DataError: there is no picture, or a chosen one cannot be read.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise DataError(folder, f"no pictures ({', '.join(EXTENSIONS)})")
    order = np.random.default_rng(seed).permutation(len(files))

    def texture(i, rng):
        return Image.fromarray(read_image(files[order[i % len(files)]], 3, size))

    return _bank(texture, count, channels, seed)


def change(image, rng):
    """An RGB Pillow image after three of the ten operations, chosen without replacement."""
    for i in rng.choice(len(OPERATIONS), OPERATIONS_EACH, replace=False):
        image = OPERATIONS[i](image, rng)
    return image


def _bank(texture, count, channels, seed):
    """uint8 `[count, size, size, channels]` of changed textures, each with random numbers of its own."""
    if count < 1:
        raise ValueError(f"a bank has at least one texture, not {count}")
    bank = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        bank.append(to_array(change(texture(i, rng), rng), channels))
    return np.stack(bank)


def _bytes(pixels):
    """uint8 of pixels in 0..255."""
    return np.clip(np.rint(pixels), 0, 255).astype("uint8")


def _two_colours(rng, share):
    """The share `[size, size]` of one random colour in another, as an image `[size, size, 3]` in [0, 1]."""
    one, other = rng.random((2, 3))
    share = np.clip(share, 0, 1)[..., None]
    return one * share + other * (1 - share)


def _clouds(rng, size):
    return _two_colours(rng, 0.5 + 0.4 * cloudy_noise(rng, size, rng.uniform(1, 2), size / 2))


def _waves(rng, size):
    """Smooth noise, another in each channel."""
    scale = size * 2.0 ** rng.uniform(-6, -3)
    return np.stack([np.clip(0.5 + 0.3 * smooth_noise(rng, size, scale), 0, 1) for _ in range(3)], -1)


def _slanted(rng, size):
    """Rotated and shifted coordinates, in periods of 1/32 to 1/4 of the size."""
    period, turn = size * 2.0 ** rng.uniform(-5, -2), rng.uniform(0, np.pi)
    y, x = (axis + 0.01 * size * smooth_noise(rng, size, size / 16) * rng.random() for axis in grid(size))
    shift = rng.random(2)
    down, right = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
    return down / period + shift[0], right / period + shift[1]


def _grain(rng, size):
    return 0.15 * rng.random() * rng.standard_normal((size, size))


def _checks(rng, size):
    y, x = _slanted(rng, size)
    return _two_colours(rng, (np.floor(y) + np.floor(x)) % 2 + _grain(rng, size))


def _stripes(rng, size):
    y, _ = _slanted(rng, size)
    sharpness = 2.0 ** rng.uniform(-1, 3)
    return _two_colours(rng, 0.5 + 0.5 * sharpness * np.sin(2 * np.pi * y) + _grain(rng, size))


def _cells(rng, size):
    """Cells of Voronoi with a colour each and dark borders."""
    centres = rng.uniform(-0.5, 0.5, (int(rng.integers(12, 80)), 2)) * size
    y, x = grid(size)
    distances = np.hypot(y[..., None] - centres[:, 0], x[..., None] - centres[:, 1])  # [size, size, cells]
    nearest = np.argmin(distances, axis=-1)
    first, second = np.moveaxis(np.partition(distances, 1, axis=-1)[..., :2], -1, 0)
    colours = np.clip(rng.random(3) + 0.25 * rng.standard_normal((len(centres), 3)), 0, 1)
    return colours[nearest] * np.clip((second - first) / (0.015 * size), 0.2, 1)[..., None]


def _scene(rng, size):
    """A synthetic scene, with or without a defect, its colours in random order and strength."""
    draw, defects = _SCENES[rng.integers(len(_SCENES))]
    image, _, _ = draw(rng, size, ("good", *defects)[rng.integers(len(defects) + 1)])
    image = image if image.ndim == 3 else image[..., None]
    return np.clip(image * np.ones(3), 0, 1)[..., rng.permutation(3)] ** rng.uniform(0.5, 2, 3)


_SCENES = ((fibres, tuple(FIBRE_DEFECTS)), (weave, WEAVE_DEFECTS), (clear_ground, tuple(CLOUD_DEFECTS)))


def _gamma(image, rng):
    return Image.fromarray(_bytes(255 * (np.asarray(image) / 255) ** rng.uniform(0.5, 2, 3)))


def _brightness(image, rng):
    return Image.fromarray(_bytes(np.asarray(image) * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30)))


def _sharpness(image, rng):
    return ImageEnhance.Sharpness(image).enhance(rng.uniform(0, 3))


def _hue_and_saturation(image, rng):
    hue, saturation, value = np.moveaxis(np.asarray(image.convert("HSV")).astype("int32"), -1, 0)
    hue = (hue + rng.integers(-50, 51)) % 256  # a circle
    saturation = np.clip(saturation + rng.integers(-50, 51), 0, 255)
    bands = [Image.fromarray(band.astype("uint8")) for band in (hue, saturation, value)]
    return Image.merge("HSV", bands).convert("RGB")


def _solarize(image, rng):
    apply, threshold = rng.random() < 0.5, int(rng.integers(32, 129))
    return ImageOps.solarize(image, threshold) if apply else image


def _posterize(image, rng):
    return ImageOps.posterize(image, int(rng.integers(1, 9)))


def _invert(image, rng):
    return ImageOps.invert(image)


def _autocontrast(image, rng):
    return ImageOps.autocontrast(image, cutoff=int(rng.integers(0, 21)))


def _equalize(image, rng):
    return ImageOps.equalize(image)


def _rotate(image, rng):
    degrees = rng.uniform(-45, 45)
    return Image.fromarray(_bytes(rotate(np.asarray(image), degrees, mode="reflect", preserve_range=True)))


OPERATIONS = (
    _gamma,
    _brightness,
    _sharpness,
    _hue_and_saturation,
    _solarize,
    _posterize,
    _invert,
    _autocontrast,
    _equalize,
    _rotate,
)
