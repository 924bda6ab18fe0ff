"""Anomaly sources: deterministic, varied, independent of their number; every operation does what it says."""

import numpy as np
import pytest
from PIL import Image

from ganspect.data.images import DataError
from ganspect.data.sources import OPERATIONS, folder_textures, procedural_textures


def distinct(bank):
    """Whether any two textures differ in every way that matters: by more than 10 of 255 on average."""
    flat = bank.reshape(len(bank), -1).astype("float64")
    apart = np.abs(flat[:, None] - flat[None]).mean(-1) + 255 * np.eye(len(bank))
    return apart.min() > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_procedural_textures_are_deterministic_and_varied(channels):
    bank = procedural_textures(18, 48, channels, seed=1)
    assert bank.shape == (18, 48, 48, channels) and bank.dtype == "uint8"
    np.testing.assert_array_equal(bank[:7], procedural_textures(7, 48, channels, seed=1))
    assert not np.array_equal(bank[:7], procedural_textures(7, 48, channels, seed=2))
    assert distinct(bank)
    assert (bank.std((1, 2)).max(-1) > 8).mean() > 0.85
    with pytest.raises(ValueError, match="at least one"):
        procedural_textures(0, 48, channels)


def test_folder_textures_are_deterministic_and_varied(tmp_path):
    (tmp_path / "banded").mkdir()
    y, x = np.mgrid[:40, :60]
    for i, folder in enumerate((tmp_path, tmp_path / "banded", tmp_path / "banded")):
        pixels = 127.5 + 127 * np.sin(np.stack([y, x, y + x], -1) / (3 + 2 * i))
        Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.{'jpg' if i else 'png'}")
    (tmp_path / "notes.txt").write_text("no picture")
    bank = folder_textures(tmp_path, 6, 32, 3, seed=5)
    assert bank.shape == (6, 32, 32, 3) and bank.dtype == "uint8" and distinct(bank)
    np.testing.assert_array_equal(bank, folder_textures(tmp_path, 6, 32, 3, seed=5))
    assert not np.array_equal(bank, folder_textures(tmp_path, 6, 32, 3, seed=6))
    assert folder_textures(tmp_path, 2, 32, 1).shape == (2, 32, 32, 1)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="broken.png"):
        folder_textures(tmp_path, 4, 32, 3)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match="no pictures"):
        folder_textures(tmp_path, 2, 32, 3)


def test_operations_keep_the_size_and_do_what_they_say():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype("uint8")
    image = Image.fromarray(pixels)
    results = {}
    for operation in OPERATIONS:
        results[operation.__name__] = [np.array(operation(image, np.random.default_rng(i))) for i in range(8)]
        for i, result in enumerate(results[operation.__name__]):
            assert result.shape == pixels.shape and result.dtype == "uint8"
            np.testing.assert_array_equal(result, np.array(operation(image, np.random.default_rng(i))))
        assert any((result != pixels).any() for result in results[operation.__name__]), operation.__name__
    assert len(results) == 10
    np.testing.assert_array_equal(results["_invert"][0], 255 - pixels)
    solarized = [(result != pixels).any() for result in results["_solarize"]]
    assert any(solarized) and not all(solarized)
    gray = Image.fromarray(np.full((8, 8, 3), 128, "uint8"))
    for i in range(8):
        bright = np.array(OPERATIONS[1](gray, np.random.default_rng(i)))
        assert 128 * 0.8 - 31 <= bright.min() == bright.max() <= 128 * 1.2 + 31
