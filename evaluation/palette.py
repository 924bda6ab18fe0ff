"""Indexed PNG files with an adaptive palette: photographs in figures at a third of their usual size."""

import struct
import zlib

import numpy as np


def adaptive_palette(pixels: np.ndarray, colours: int) -> tuple[np.ndarray, np.ndarray]:
    """Few colours that stand for many, without dithering.

    Colours are grouped by the top five bits of each channel; then the box of largest squared error is cut at its mean,
    along its widest channel, until there are enough (Wu, Graphics Gems II, 1991).

    Args:
        pixels: uint8 `[H, W, 3]`.
        colours: 2 to 256.

    Returns:
        `(palette, indices)`: uint8 `[K, 3]` with K <= colours, and uint8 `[H, W]` into it.
    """
    wide = pixels.astype(np.int32) >> 3
    codes = (wide[..., 0] << 10 | wide[..., 1] << 5 | wide[..., 2]).ravel()
    counts = np.bincount(codes, minlength=1 << 15)
    used = np.flatnonzero(counts)
    weight = counts[used].astype(np.float64)
    flat = pixels.reshape(-1, 3)
    means = np.stack([np.bincount(codes, flat[:, channel], 1 << 15)[used] / weight for channel in range(3)], axis=1)
    boxes = [np.arange(len(used))]
    errors = [_channel_errors(means, weight)]
    while len(boxes) < colours:
        worst = int(np.argmax([error.max() for error in errors]))
        members, channel = boxes[worst], int(np.argmax(errors[worst]))
        values = means[members, channel]
        upper = values > np.average(values, weights=weight[members])
        if errors[worst].max() < 1e-9 or not upper.any():
            break
        boxes[worst : worst + 1] = [members[~upper], members[upper]]
        errors[worst : worst + 1] = [_channel_errors(means[box], weight[box]) for box in boxes[worst : worst + 2]]
    palette = np.stack([np.average(means[box], axis=0, weights=weight[box]) for box in boxes])
    table = np.zeros(1 << 15, np.uint8)
    for index, box in enumerate(boxes):
        table[used[box]] = index
    return np.round(palette).astype(np.uint8), table[codes].reshape(pixels.shape[:2])


def _channel_errors(colours: np.ndarray, weight: np.ndarray) -> np.ndarray:
    mean = np.average(colours, axis=0, weights=weight)
    return weight @ (colours - mean) ** 2


def encode_indexed(palette: np.ndarray, indices: np.ndarray) -> bytes:
    """An eight-bit indexed PNG (PNG specification, third edition, colour type 3).

    Args:
        palette: uint8 `[K, 3]`, K <= 256.
        indices: uint8 `[H, W]`.
    """
    height, width = indices.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), indices], axis=1)  # each row starts with its filter, none
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
