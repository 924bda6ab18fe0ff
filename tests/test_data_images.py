"""Every kind of file is decoded as the table in `ganspect.data.images` says."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ganspect.data.images import DataError, decode_image, image_size, read_image, read_mask

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def saved(path, pixels, mode=None, **options):
    image = Image.fromarray(np.asarray(pixels)) if mode is None else Image.new(mode, (4, 3), pixels)
    image.save(path, **options)
    return path


def test_gray_and_colour_as_they_are(tmp_path):
    gray = saved(tmp_path / "a.PNG", RAMP)
    colour = saved(tmp_path / "b.bmp", np.stack([RAMP, RAMP // 2, RAMP // 4], axis=2))
    np.testing.assert_array_equal(read_image(gray, 1)[:, :, 0], RAMP)
    np.testing.assert_array_equal(read_image(gray, 3), np.repeat(RAMP[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(read_image(colour, 3)[:, :, 1], RAMP // 2)
    assert decode_image(gray).conversions == ()
    with pytest.raises(ValueError, match="channels must be 1 or 3"):
        read_image(gray, 4)


def test_luma_of_colour(tmp_path):
    path = saved(tmp_path / "a.png", (200, 100, 50), "RGB")
    assert read_image(path, 1)[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)  # 124


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bit_gray_is_divided_by_257(tmp_path, name):
    values = np.array([[0, 128, 129, 257], [514, 32896, 65406, 65407], [65535, 5, 1000, 2570]], np.uint16)
    path = saved(tmp_path / name, values)
    expected = [[0, 0, 1, 1], [2, 128, 254, 255], [255, 0, 4, 10]]  # value / 257, rounded
    np.testing.assert_array_equal(read_image(path, 1)[:, :, 0], expected)
    assert "16-bit: divided by 257" in decode_image(path).conversions


def test_twelve_bit_data_is_warned_about(tmp_path):
    decoded = decode_image(saved(tmp_path / "a.png", np.full((3, 4), 4095, np.uint16)))
    assert decoded.image.getpixel((0, 0)) == 16
    assert "4096" in decoded.warnings[0]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_keeps_the_high_byte(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 0x12FF, 0x8000, 0xFFFF)))
    np.testing.assert_array_equal(read_image(path, 3)[0, 0], [0x12, 0x80, 0xFF])
    assert decode_image(path).conversions == ("16-bit colour: high byte kept",)


def test_transparency_is_composited_over_black(tmp_path):
    path = saved(tmp_path / "a.png", (200, 100, 50, 51), "RGBA")  # opacity 51 / 255 = 0.2
    np.testing.assert_array_equal(read_image(path, 3)[0, 0], [40, 20, 10])
    gray = saved(tmp_path / "b.png", (100, 255), "LA")
    assert decode_image(gray).image.mode == "L" and read_image(gray, 1)[0, 0, 0] == 100
    assert "black" in decode_image(path).conversions[0]


def test_palette_and_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 3)[0, 0], [10, 200, 30])
    image.save(tmp_path / "b.png", transparency=b"\xff\x00")  # index 1 is invisible
    np.testing.assert_array_equal(read_image(tmp_path / "b.png", 3)[0, 0], [0, 0, 0])
    assert "palette" in decode_image(tmp_path / "a.png").conversions[0]


def test_cmyk(tmp_path):
    path = saved(tmp_path / "a.tif", (255, 0, 0, 0), "CMYK")
    np.testing.assert_array_equal(read_image(path, 3)[0, 0], [0, 255, 255])
    assert decode_image(path).conversions == ("TIFF", "CMYK: converted to RGB")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_exif_orientation_is_applied(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter clockwise
    path = saved(tmp_path / name, RAMP, exif=exif, **({"lossless": True} if name.endswith("webp") else {}))
    np.testing.assert_array_equal(read_image(path, 1)[:, :, 0], np.rot90(RAMP, -1))
    assert "EXIF orientation applied" in decode_image(path).conversions
    np.testing.assert_array_equal(read_mask(path), np.rot90(RAMP, -1) > 0)


def test_size_from_the_header_is_that_of_the_decoded_image(tmp_path):
    exif = Image.Exif()
    for orientation in (1, 3, 6):
        exif[0x0112] = orientation
        path = saved(tmp_path / f"{orientation}.png", RAMP, exif=exif)
        assert image_size(path) == read_image(path, 1).shape[:2]
    assert image_size(tmp_path / "6.png") == (4, 3)
    for data in (b"", b"not an image"):
        (tmp_path / "bad.png").write_bytes(data)
        with pytest.raises(DataError, match="bad.png"):
            image_size(tmp_path / "bad.png")


def test_first_page_of_a_tiff_and_float_tiff(tmp_path):
    pages = [Image.fromarray(RAMP), Image.fromarray(RAMP + 1)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 1)[:, :, 0], RAMP)
    assert decode_image(tmp_path / "a.tif").conversions == ("TIFF", "2 pages or frames: the first one is read")
    path = saved(tmp_path / "f.tif", np.array([[0, 0.5, 1]], np.float32))
    np.testing.assert_array_equal(read_image(path, 1)[0, :, 0], [0, 128, 255])
    for bad in (1.5, np.nan):
        with pytest.raises(DataError, match=r"g\.tif: float pixels outside \[0, 1\]"):
            read_image(saved(tmp_path / "g.tif", np.full((3, 4), bad, np.float32)), 1)


def test_resizing_and_cropping(tmp_path):
    path = saved(tmp_path / "a.png", np.repeat([[0], [0], [100], [100], [255]], 4, axis=1).astype(np.uint8))
    np.testing.assert_array_equal(read_image(path, 1, (2, 1), crop_rows=4)[:, :, 0].ravel(), [14, 86])  # antialiased
    np.testing.assert_array_equal(read_mask(path, (2, 1), crop_rows=4).ravel(), [False, True])
    assert read_image(path, 3, 8).shape == (8, 8, 3)


def test_masks(tmp_path):
    marked = np.array([[0, 1], [255, 0]], np.uint8)
    for name, pixels in (("a.png", marked), ("b.png", marked.astype(bool)), ("c.png", marked.astype(np.uint16))):
        np.testing.assert_array_equal(read_mask(saved(tmp_path / name, pixels)), marked > 0)
    noisy = np.full((16, 16), 9, np.uint8)
    noisy[:8] = 250
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "d.jpg", noisy)), noisy > 127)


@pytest.mark.parametrize("size", [(9000, 9000), (10000, 10000), (40000, 40000)])
def test_pixel_bomb_is_refused_from_its_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size, 8, 0, b"\0" * 10))
    with pytest.raises(DataError, match="bomb.png: too large"):
        read_image(path, 1)


def test_bad_files_are_named_with_their_reason(tmp_path):
    good = saved(tmp_path / "good.png", np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 255
    cases = {
        "empty": (b"", r"empty file \(0 bytes\)"),
        "text": (b"not an image", "not an image"),
        "cut": (good[: len(good) // 2], "truncated"),
        "end": (good[:-6], "truncated|corrupt"),
        "bits": (bytes(damaged), "corrupt"),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / f"{name}.png").write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}\.png: .*({reason})"):
            read_image(tmp_path / f"{name}.png", 1)
    with pytest.raises(DataError, match="gone.png: no such file"):
        read_image(tmp_path / "gone.png", 1)


def test_planar_16_bit_colour_is_refused(tmp_path):
    """Pillow would read each byte as a pixel."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 6, 5), np.uint16), photometric="rgb", planarconfig="separate")
    with pytest.raises(DataError, match="separate planes"):
        read_image(tmp_path / "a.tif", 3)
    tifffile.imwrite(tmp_path / "b.tif", np.full((3, 6, 5), 7, np.uint8), photometric="rgb", planarconfig="separate")
    assert (read_image(tmp_path / "b.tif", 3) == 7).all()
