"""What the synthetic scenes are drawn with: noise, irregular blobs, soft edges, layers.

A scene is one function `scene(rng, size, defect) -> (image, mask, roi)`: image float `[H, W]` or `[H, W, 3]` in [0, 1],
mask bool `[H, W]` (the pixels that the defect changes visibly), roi bool `[H, W]` or None. The defect "good" is none. A
defect is drawn on a normal picture of the same distribution, so that nothing else tells the classes apart.
"""

from collections.abc import Callable

import numpy as np

Scene = Callable[[np.random.Generator, int, str], tuple[np.ndarray, np.ndarray, np.ndarray | None]]

VISIBLE = 0.35  # share of a defect's opacity from which a pixel belongs to its mask


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column coordinates in pixels, centred: two float `[size, size]`."""
    axis = np.arange(size) - (size - 1) / 2
    return np.meshgrid(axis, axis, indexing="ij")


def smooth_noise(rng, size: int, scale: float) -> np.ndarray:
    """Gaussian noise blurred to `scale` pixels (periodic), mean 0 and standard deviation 1: float `[size, size]`."""
    frequency = np.fft.fftfreq(size)
    falloff = np.exp(-2 * (np.pi * scale * frequency) ** 2)
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * falloff[:, None] * falloff[None]).real
    return (noise - noise.mean()) / noise.std()


def cloudy_noise(rng, size: int, slope: float, longest: float) -> np.ndarray:
    """Noise with a power-law spectrum, amplitude ~ frequency^-slope above 1/longest; mean 0, standard deviation 1."""
    frequency = np.fft.fftfreq(2 * size)  # twice the size, cropped: not periodic within the picture
    radius = np.maximum(np.hypot(frequency[:, None], frequency[None]), 1 / longest)
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((2 * size, 2 * size))) * radius**-slope).real[:size, :size]
    return (noise - noise.mean()) / noise.std()


def blob(rng, size: int, centre, radius: float, roughness: float = 0.25, stretch: float = 1.0) -> np.ndarray:
    """Distance-like field of an irregular ellipse: below 1 inside, above 1 outside, float `[size, size]`."""
    y, x = grid(size)
    y, x = y - centre[0], x - centre[1]
    turn = rng.uniform(0, np.pi)
    u = (np.cos(turn) * x + np.sin(turn) * y) / stretch
    v = np.cos(turn) * y - np.sin(turn) * x
    angle = np.arctan2(v, u)
    edge = sum(rng.normal(0, roughness / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    return np.hypot(u, v) / (radius * np.clip(1 + edge, 0.4, 1.8))


def step(distance: np.ndarray, softness: float) -> np.ndarray:
    """1 where distance is below 0, 0 above, with a smooth edge of about `softness`."""
    return 1 / (1 + np.exp(np.clip(distance / softness, -30, 30) * 4))


def place(rng, size: int, margin: float = 0.2) -> np.ndarray:
    """A random (row, column) in centred pixels, away from the border by `margin` of the size."""
    return rng.uniform(-0.5 + margin, 0.5 - margin, 2) * size


def mix(image: np.ndarray, colour, opacity: np.ndarray) -> np.ndarray:
    """`colour` (number, `[3]`, or an image) laid over an image with the given opacity `[H, W]`."""
    opacity = opacity[..., None] if image.ndim == 3 else opacity
    return image * (1 - opacity) + np.asarray(colour) * opacity
