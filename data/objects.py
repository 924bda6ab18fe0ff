"""Synthetic objects: a tablet in a nearly fixed pose, and a turned casting lit from any side."""

import numpy as np

from ganspect.data.drawing import VISIBLE, blob, grid, mix, smooth_noise, step


def tablet(rng, size: int, defect: str):
    """A two-coloured tablet with a groove on a dark background, nearly always in the same pose."""
    turn, centre = rng.normal(0, 0.035), rng.normal(0, 0.008, 2) * size
    y, x = grid(size)
    y, x = y - centre[0], x - centre[1]
    u = (np.cos(turn) * x + np.sin(turn) * y) / size
    v = (np.cos(turn) * y - np.sin(turn) * x) / size
    straight, radius = 0.17, 0.2 * rng.normal(1, 0.008)
    outline = np.hypot(np.maximum(np.abs(u) - straight, 0), v) - radius  # distance to the capsule, in sizes
    body = step(outline * size, 1.2)
    image = _tablet_surface(rng, size, u, v, outline, radius)
    mask = np.zeros((size, size), bool)
    at_v, at_u = size * _inside_tablet(rng, straight, radius)
    where = np.cos(turn) * at_v + np.sin(turn) * at_u + centre[0], np.cos(turn) * at_u - np.sin(turn) * at_v + centre[1]
    if defect != "good":
        image, body, mask = TABLET_DEFECTS[defect](rng, size, image, body, where, (u, v, straight, radius, outline))
    shadow = step(outline * size - 3 + 0.25 * (x - y), 9) * 0.45
    background = np.array([0.20, 0.23, 0.27]) * (1 + 0.05 * smooth_noise(rng, size, 2))[..., None]
    background = background * (1 - shadow)[..., None]
    picture = background * (1 - body[..., None]) + image * body[..., None]
    exposure = rng.normal(1, 0.025)
    return picture * exposure + 0.01 * rng.standard_normal(picture.shape), mask, outline < 0.5 / size


def _tablet_surface(rng, size, u, v, outline, radius) -> np.ndarray:
    """RGB of the tablet's face: domed shading, a seam between two colours, an imprinted ring, speckles."""
    left = np.array([0.86, 0.84, 0.78])
    right = np.array([0.80, 0.45, 0.30])
    seam = step(u * size, 1.5)[..., None]
    face = left * seam + right * (1 - seam)
    depth = np.clip(-outline / radius, 0, 1)
    light = 0.62 + 0.42 * np.sqrt(depth) - 0.25 * v / radius * (1 - depth)
    groove = np.exp(-((u * size / 1.6) ** 2))
    ring = np.exp(-(((np.hypot(u + 0.17, v) - 0.09) * size / 1.4) ** 2))
    speckle = 1 - 0.10 * np.clip(smooth_noise(rng, size, 0.9) - 1.6, 0, 1)
    return face * (light * speckle * (1 - 0.3 * groove) * (1 - 0.28 * ring))[..., None]


def _inside_tablet(rng, straight, radius) -> np.ndarray:
    """(v, u) of a point well inside the tablet."""
    angle, reach = rng.uniform(0, 2 * np.pi), radius * 0.6 * np.sqrt(rng.uniform())
    return np.array([reach * np.sin(angle), rng.uniform(-straight, straight) + reach * np.cos(angle)])


def _tablet_chip(rng, size, image, body, where, shape):
    u, v, straight, radius, outline = shape
    side, at = rng.choice((-1, 1)), rng.uniform(-straight, straight)
    field = np.hypot((u - at) / rng.uniform(0.07, 0.1), (v - side * radius) / rng.uniform(0.055, 0.075))
    field = field + 0.12 * smooth_noise(rng, size, 3)
    bite = step(field - 1, 0.15)
    mask = (bite > VISIBLE) & (outline < 0)
    return image, body * (1 - bite), mask


def _tablet_scratch(rng, size, image, body, where, shape):
    y, x = grid(size)
    turn, length = rng.uniform(0, np.pi), rng.uniform(0.09, 0.15) * size
    along = np.cos(turn) * (x - where[1]) + np.sin(turn) * (y - where[0])
    across = np.cos(turn) * (y - where[0]) - np.sin(turn) * (x - where[1]) + 1.5 * np.sin(along / 6)
    opacity = step(np.abs(across) - 1.3, 0.8) * step(np.abs(along) - length, 3) * body
    return mix(image, image * 0.35, opacity), body, opacity > VISIBLE


def _tablet_dirt(rng, size, image, body, where, shape):
    opacity = step(blob(rng, size, where, rng.uniform(0.03, 0.055) * size, 0.35) - 1, 0.25) * body * 0.9
    tint = np.array([[0.12, 0.10, 0.08], [0.15, 0.25, 0.12], [0.10, 0.14, 0.30]])[rng.integers(3)]
    return mix(image, tint, opacity), body, opacity > VISIBLE


def _tablet_colour(rng, size, image, body, where, shape):
    opacity = step(blob(rng, size, where, rng.uniform(0.07, 0.1) * size, 0.3) - 1, 0.35) * body * 0.75
    tint = np.array([[0.95, 0.85, 0.35], [0.75, 0.30, 0.45], [0.45, 0.62, 0.70]])[rng.integers(3)]
    return mix(image, image.mean(axis=2, keepdims=True) * tint * 1.2, opacity), body, opacity > VISIBLE


TABLET_DEFECTS = {"chip": _tablet_chip, "colour": _tablet_colour, "dirt": _tablet_dirt, "scratch": _tablet_scratch}


def disc(rng, size: int, defect: str):
    """A turned casting seen from above: rings, a hub, brushed metal, light from a varying side."""
    centre, light, scale = rng.normal(0, 0.012, 2) * size, rng.uniform(0, 2 * np.pi), rng.normal(1, 0.012)
    y, x = grid(size)
    y, x = y - centre[0], x - centre[1]
    radius, angle = np.hypot(y, x) / (size * scale), np.arctan2(y, x)  # the disc's rim is at 0.42
    rim = np.full((size, size), 0.42)
    mask = np.zeros((size, size), bool)
    if defect == "burr":
        rim = rim + _lump(rng, angle)
        mask = (radius < rim) & (radius > 0.42 - 0.015) & (rim > 0.42 + 0.008)
    image = _turned_metal(rng, size, radius, angle, rim, light)
    if defect in DISC_DEFECTS:
        reach, at = rng.uniform(0.27, 0.38) * size * scale, rng.uniform(0, 2 * np.pi)
        where = centre + reach * np.array([np.sin(at), np.cos(at)])
        image, mask = DISC_DEFECTS[defect](rng, size, image, where, at)
    background = 0.56 + 0.03 * smooth_noise(rng, size, 8) + 0.05 * (np.cos(light) * x + np.sin(light) * y) / size
    shadow = step((np.hypot(y + 0.025 * size * np.sin(light), x + 0.025 * size * np.cos(light)) / size - rim) * size, 8)
    outside = background * (1 - 0.4 * shadow)
    body = step((radius - rim) * size, 1.0)
    picture = outside * (1 - body) + image * body
    return picture + 0.012 * rng.standard_normal((size, size)), mask & (body > 0.5), radius < 0.475


def _turned_metal(rng, size, radius, angle, rim, light) -> np.ndarray:
    """Gray of the disc's face: bright ring, dark well, hub with a bore; conical highlights turn with the light."""
    pixel = 1 / size
    flare = 0.10 * np.cos(2 * (angle - light)) + 0.05 * np.cos(angle - light)
    lathe = 0.018 * np.sin(radius * size * 1.9 + rng.uniform(0, 6)) + 0.02 * np.sin(radius * 90 + rng.uniform(0, 6))
    face = 0.80 + flare + lathe + 0.015 * smooth_noise(rng, size, 1.2)
    image = face - 0.3 * np.exp(-(((radius - rim) / 0.012) ** 2))
    well = 0.14 + 0.06 * np.cos(angle - light) + 0.03 * np.sin(radius * 120)
    image = mix(image, well, step((radius - 0.235) / pixel, 1.5))
    hub = 0.74 + 0.14 * np.cos(angle - light + np.pi)
    image = mix(image, hub, step((radius - 0.115) / pixel, 1.5))
    bore = 0.42 + 0.25 * np.cos(angle - light) * radius / 0.08
    image = mix(image, bore, step((radius - 0.08) / pixel, 1.5))
    groove = np.exp(-(((radius - 0.262) / 0.008) ** 2))
    return image * (1 - 0.5 * groove)


def _lump(rng, angle) -> np.ndarray:
    """Extra radius of the rim (in sizes) around a random angle."""
    gap = np.angle(np.exp(1j * (angle - rng.uniform(0, 2 * np.pi))))
    width, height = rng.uniform(0.14, 0.24), rng.uniform(0.03, 0.045)
    return height * np.exp(-((gap / width) ** 4)) * (1 + 0.2 * np.sin(gap / 0.05))


def _pits(rng, size, image, where, at):
    """One to three blow holes, dark with a bright lip."""
    mask = np.zeros((size, size), bool)
    for _ in range(int(rng.integers(1, 4))):
        field = blob(rng, size, where + rng.normal(0, 0.02, 2) * size, rng.uniform(0.022, 0.038) * size, 0.25)
        opacity = step(field - 1, 0.35)
        image = mix(mix(image, 0.98, np.exp(-(((field - 1.35) / 0.22) ** 2)) * 0.6), 0.12, opacity)
        mask |= opacity > VISIBLE
    return image, mask


def _crack(rng, size, image, where, at):
    """A jagged dark line running roughly outwards."""
    y, x = grid(size)
    turn, length = at + rng.normal(0, 0.35), rng.uniform(0.055, 0.075) * size
    along = np.cos(turn) * (x - where[1]) + np.sin(turn) * (y - where[0])
    across = np.cos(turn) * (y - where[0]) - np.sin(turn) * (x - where[1])
    jagged = sum(rng.normal(0, 1.2) * np.sin(along / w + rng.uniform(0, 6)) for w in (2.5, 4, 7))
    opacity = step(np.abs(across - jagged) - 1.0, 0.8) * step(np.abs(along) - length, 2.5)
    return mix(image, 0.15, opacity), opacity > VISIBLE


def _sand(rng, size, image, where, at):
    """Rough, unmachined skin left on the face."""
    opacity = step(blob(rng, size, where, rng.uniform(0.05, 0.075) * size, 0.25, 1.3) - 1, 0.3) * 0.9
    return mix(image, 0.56 + 0.12 * smooth_noise(rng, size, 1.1), opacity), opacity > VISIBLE


DISC_DEFECTS = {"crack": _crack, "pit": _pits, "sand": _sand}
