"""Synthetic textures: a mat of nanofibres, woven cloth, and ground seen from above that clouds may hide."""

import numpy as np

from ganspect.data.drawing import VISIBLE, blob, cloudy_noise, grid, mix, place, smooth_noise, step


def fibres(rng, size: int, defect: str):
    """Nanofibres as a scanning electron microscope shows them: bright, shaded, crossing at several depths on black."""
    image = np.full((size, size), 0.05)
    for depth in (0.0, 0.35, 0.7, 1.0):
        image = _fibre_layer(rng, size, depth, image)
    mask = np.zeros((size, size), bool)
    if defect != "good":
        image, mask = FIBRE_DEFECTS[defect](rng, size, image)
    grain = 0.022 * smooth_noise(rng, size, 0.6) + 0.012 * rng.standard_normal((size, size))
    return image + grain * (0.4 + image), mask, None


def _fibre_layer(rng, size: int, depth: float, image: np.ndarray) -> np.ndarray:
    """The fibres of one depth (0 back, 1 front) laid over an image."""
    level = 0.17 + 0.72 * depth**1.3
    y, x = grid(size)
    for _ in range(round(size * (0.07 + 0.05 * (1 - depth))) + int(rng.integers(0, 2))):
        turn, bend = rng.uniform(0, np.pi), rng.normal(0, 0.0011)
        offset, phase = rng.uniform(-0.68, 0.68) * size, rng.uniform(0, 2 * np.pi)
        along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x - offset
        across = across - bend * along**2 - 0.7 * np.sin(along / 13 + phase)
        radius = rng.uniform(1.5, 2.9) * (0.8 + 0.2 * depth)
        distance = np.abs(across)
        inside = np.clip(0.5 + (radius - distance) / (1.0 + 0.8 * (1 - depth)), 0, 1)
        profile = 0.78 + 0.22 * np.minimum(distance / radius, 1) ** 2  # bright edges, as in SEM
        tone = level * rng.uniform(0.88, 1.1) * (1 + 0.05 * np.sin(along / 7 + 2 * phase))
        image = mix(image, tone * profile, inside)
    return image


def _film(rng, size, image):
    """A smooth membrane spanning the gaps between fibres."""
    field = blob(rng, size, place(rng, size), rng.uniform(9, 17), 0.3, rng.uniform(1, 1.8))
    opacity = step(field - 1, 0.25) * 0.86
    sheet = 0.6 + 0.06 * smooth_noise(rng, size, 6)
    return mix(image, np.maximum(sheet, image * 0.8), opacity), opacity > VISIBLE


def _bead(rng, size, image):
    """Round drops grown on the fibres, shaded like balls."""
    mask = np.zeros((size, size), bool)
    centre = place(rng, size)
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(5, 9)
        field = blob(rng, size, centre + rng.normal(0, 6, 2), radius, 0.06, rng.uniform(1, 1.3))
        ball = 0.62 + 0.33 * np.clip(field, 0, 1) ** 3 + 0.03 * smooth_noise(rng, size, 1.5)
        opacity = step(field - 1, 0.12)
        image, mask = mix(image, ball, opacity), mask | (opacity > VISIBLE)
    return image, mask


def _clump(rng, size, image):
    """Debris: a rough, bright crumb."""
    field = blob(rng, size, place(rng, size), rng.uniform(7, 11), 0.35, rng.uniform(1, 1.5))
    crumb = np.clip(0.66 + 0.24 * smooth_noise(rng, size, 1.3), 0.15, 1)
    opacity = step(field - 1, 0.2)
    return mix(image, crumb, opacity), opacity > VISIBLE


def _gap(rng, size, image):
    """A hole in the mat: the fibres end at its rim."""
    field = blob(rng, size, place(rng, size), rng.uniform(12, 18), 0.25, rng.uniform(1, 1.4))
    opacity = step(field - 1, 0.18)
    return mix(image, 0.05 + 0.01 * smooth_noise(rng, size, 5), opacity), opacity > VISIBLE


FIBRE_DEFECTS = {"bead": _bead, "clump": _clump, "film": _film, "gap": _gap}


WEAVE_DEFECTS = ("bent", "cut", "stain", "thread")


def weave(rng, size: int, defect: str):
    """Plain-woven cloth: two sets of threads passing over and under each other."""
    shift, turn = rng.uniform(0, 16, 2), rng.normal(0, 0.02)
    y, x = grid(size)
    y, x = y + np.sin(turn) * x + shift[0], x - np.sin(turn) * y + shift[1]
    ripple = 0.5 * smooth_noise(rng, size, 9), 0.5 * smooth_noise(rng, size, 9)
    mask, cut = np.zeros((size, size), bool), None
    if defect == "bent":
        y, mask = _bend(rng, size, y)
    if defect == "cut":
        cut = blob(rng, size, place(rng, size), rng.uniform(6, 9), 0.15, rng.uniform(1, 1.4))
    image = _cloth(rng, size, y + ripple[0], x + ripple[1], cut)
    if defect == "cut":
        mask = step(cut - 1, 0.2) > VISIBLE
    elif defect == "stain":
        image, mask = _stain(rng, size, image)
    elif defect == "thread":
        image, mask = _thread(rng, size, image)
    return image + 0.012 * rng.standard_normal(image.shape), mask, None


def _cloth(rng, size, y, x, cut) -> np.ndarray:
    """RGB of the weave at warped coordinates; weft threads are missing inside `cut` (below 1)."""
    pitch = 8.0
    row, column = np.floor(y / pitch), np.floor(x / pitch)
    u, v = y / pitch - row - 0.5, x / pitch - column - 0.5  # position within a crossing, -0.5..0.5
    over = (row + column) % 2 == 0  # weft on top
    weft = np.sqrt(np.clip(1 - (u / 0.48) ** 2, 0, 1)) * (0.55 + 0.45 * np.cos(np.pi * v))
    warp = np.sqrt(np.clip(1 - (v / 0.48) ** 2, 0, 1)) * (0.55 + 0.45 * np.cos(np.pi * u))
    weft = weft * (1 + 0.07 * np.sin(2 * np.pi * (3 * u + v)))  # strands
    warp = warp * (1 + 0.07 * np.sin(2 * np.pi * (3 * v + u)))
    weft, warp = weft[..., None] * np.array([0.74, 0.62, 0.42]), warp[..., None] * np.array([0.44, 0.40, 0.36])
    tone = 1 + 0.04 * smooth_noise(rng, size, 12)
    image = 0.07 + 0.93 * np.where(over[..., None], weft, warp)
    if cut is not None:
        bare = 0.06 + 0.55 * warp
        image = mix(image, bare, step(cut - 1, 0.2))
    return image * tone[..., None]


def _bend(rng, size, y):
    """Threads pushed aside: coordinates displaced within a spot."""
    centre, radius = place(rng, size), rng.uniform(9, 13)
    rows, columns = grid(size)
    bump = np.exp(-(((rows - centre[0]) / radius) ** 2) - ((columns - centre[1]) / radius) ** 2)
    return y + rng.choice((-1, 1)) * rng.uniform(6, 8) * bump, bump > 0.3


def _stain(rng, size, image):
    field = blob(rng, size, place(rng, size), rng.uniform(8, 14), 0.3, rng.uniform(1, 1.6))
    opacity = step(field - 1, 0.3) * rng.uniform(0.6, 0.75)
    tint = np.array([[0.25, 0.16, 0.10], [0.16, 0.24, 0.36], [0.45, 0.12, 0.10]])[rng.integers(3)]
    return mix(image, tint * (0.6 + image), opacity), opacity > VISIBLE


def _thread(rng, size, image):
    """A loose foreign thread lying on the cloth."""
    y, x = grid(size)
    centre, turn, length = place(rng, size, 0.3), rng.uniform(0, np.pi), rng.uniform(0.2, 0.32) * size
    along = np.cos(turn) * (x - centre[1]) + np.sin(turn) * (y - centre[0])
    across = np.cos(turn) * (y - centre[0]) - np.sin(turn) * (x - centre[1])
    across = across - 4 * np.sin(along / 9 + rng.uniform(0, 6)) - rng.normal(0, 0.008) * along**2
    opacity = step(np.abs(across) - 1.7, 0.8) * step(np.abs(along) - length, 2)
    shade = np.array([0.88, 0.88, 0.90]) * (1 - 0.1 * (across[..., None] / 1.7) ** 2)
    return mix(image, np.clip(shade, 0.3, 1), opacity), opacity > VISIBLE


def clear_ground(rng, size: int, defect: str):
    """Ground seen from above through a clear sky; the anomalies are clouds, haze and smoke."""
    relief, moisture = cloudy_noise(rng, size, 1.5, 96), cloudy_noise(rng, size, 1.6, 128)
    dry, green, bare = np.array([0.50, 0.44, 0.30]), np.array([0.24, 0.36, 0.19]), np.array([0.60, 0.53, 0.42])
    share = step(-moisture, 1.6)[..., None]
    image = green * share + dry * (1 - share)
    image = mix(image, bare, step(1.2 - relief, 1.0) * 0.6)
    shading = np.gradient(relief, axis=1) - np.gradient(relief, axis=0)
    image = image * np.clip(1 + 0.22 * shading / (shading.std() + 1e-9) * 0.5, 0.5, 1.5)[..., None]
    mask = np.zeros((size, size), bool)
    if defect != "good":
        image, mask = CLOUD_DEFECTS[defect](rng, size, image)
    return image + 0.012 * rng.standard_normal(image.shape), mask, None


def _cumulus(rng, size, image):
    """Thick white cloud with a shadow on the ground."""
    heap = 1 - blob(rng, size, place(rng, size), 0.26 * size, 0.2, 1.3)
    opacity = step(0.1 - 1.3 * heap - 0.55 * cloudy_noise(rng, size, 1.9, 128), 0.5) * 0.97
    down, right = round(0.05 * size), round(0.06 * size)
    shadow = np.pad(opacity, ((down, 0), (right, 0)), mode="edge")[:size, :size] * (1 - opacity)
    white = 0.88 + 0.07 * cloudy_noise(rng, size, 1.5, 64)[..., None] * np.ones(3)
    return mix(image * (1 - 0.35 * shadow[..., None]), np.clip(white, 0.6, 1), opacity), opacity > VISIBLE


def _haze(rng, size, image):
    """A thin veil in streaks: the ground stays visible."""
    y, x = grid(size)
    turn = rng.uniform(0, np.pi)
    across = (np.cos(turn) * y - np.sin(turn) * x) / size - rng.uniform(-0.2, 0.2) + 0.05 * smooth_noise(rng, size, 16)
    band = np.exp(-((across / rng.uniform(0.14, 0.2)) ** 2))
    opacity = np.clip(band * (0.62 + 0.12 * cloudy_noise(rng, size, 1.7, 96)), 0, 0.8)
    return mix(image, np.array([0.80, 0.83, 0.88]), opacity), opacity > 0.3


def _smoke(rng, size, image):
    """A gray plume spreading from a point."""
    y, x = grid(size)
    source = place(rng, size, 0.2)
    turn = np.arctan2(-source[0], -source[1]) + rng.normal(0, 0.5)  # towards the middle
    along = np.cos(turn) * (x - source[1]) + np.sin(turn) * (y - source[0])
    across = np.cos(turn) * (y - source[0]) - np.sin(turn) * (x - source[1])
    width = 2.5 + 0.22 * np.maximum(along, 0)
    wobble = 0.08 * size * np.sin(along / (0.2 * size) + rng.uniform(0, 6)) * np.clip(along / (0.4 * size), 0, 1)
    plume = np.exp(-(((across - wobble) / width) ** 2)) * step(-along, 3) * np.exp(-np.maximum(along, 0) / (0.9 * size))
    opacity = np.clip(plume * (0.9 + 0.22 * cloudy_noise(rng, size, 1.5, 48)), 0, 0.92)
    return mix(image, np.array([0.46, 0.46, 0.50]) + 0.1, opacity), opacity > VISIBLE


CLOUD_DEFECTS = {"cumulus": _cumulus, "haze": _haze, "smoke": _smoke}
