"""`ganspect predict` on a folder of over 200 files made to break it."""

import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import served_models
from PIL import Image
from test_predict import predict, rows_of, snapshot

SIZE = (24, 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that takes images of any size."""
    return served_models.make(tmp_path_factory.mktemp("hostile_model"), resized=True, channels=3)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The folder, and the relative names of its good files, of its bad ones and of those that may be either."""
    folder = tmp_path_factory.mktemp("hostile")
    return folder, *fill(folder)


def photograph(seed=0, size=SIZE, channels=3):
    pixels = np.random.default_rng(seed).integers(60, 200, (*size, channels)).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def fill(folder):
    """Writes everything; returns the names of good and of bad files, and of files that may be either."""
    good, bad, either = [], [], []
    for kind in ("png", "jpg", "bmp", "tif", "webp"):
        photograph().save(folder / f"good.{kind}")
        good.append(f"good.{kind}")
        whole = (folder / f"good.{kind}").read_bytes()
        for i, length in enumerate(np.linspace(0, len(whole) - 1, 30 if kind in ("png", "jpg") else 6).astype(int)):
            name = f"cut_{i:02d}.{kind}"
            (folder / name).write_bytes(whole[:length])
            (bad if length < 20 or (kind == "png" and length < len(whole) - 12) else either).append(name)
        for i in range(36 if kind in ("png", "jpg") else 8):
            broken = bytearray(whole)
            for place in np.random.default_rng(i).integers(0, len(whole), 1 + 3 * i):
                broken[place] ^= 1 << i % 8
            name = f"flipped_{i:02d}.{kind}"
            (folder / name).write_bytes(bytes(broken))
            either.append(name)
    texts = {"text.png": b"plain text", "page.jpg": b"<html></html>", "zeros.png": bytes(5000), "none.tif": b""}
    for name, content in texts.items():
        (folder / name).write_bytes(content)
        bad.append(name)
    return [*good, *unusual(folder)], [*bad, *worse(folder)], either


def unusual(folder):
    """Files that are unusual and good."""
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 65535, SIZE).astype(np.uint16)).save(folder / "sixteen.png")
    Image.fromarray(rng.integers(0, 65535, SIZE).astype(np.uint16)).save(folder / "sixteen.tif")
    photograph().convert("CMYK").save(folder / "cmyk.jpg")
    photograph().convert("CMYK").save(folder / "cmyk.tif")
    photograph().convert("P").save(folder / "palette.png")
    photograph().convert("1").save(folder / "one_bit.png")
    photograph().convert("RGBA").save(folder / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph().save(folder / "turned.jpg", exif=exif)
    photograph().save(folder / "is_a_png.jpg", format="PNG")
    photograph().save(folder / "is_a_jpeg.png", format="JPEG")
    photograph().save(folder / "UPPER.PNG")
    for name, size in {"dot": (1, 1), "row": (1, 3000), "column": (3000, 1), "wide": (2, 2000)}.items():
        photograph(2, size).save(folder / f"{name}.png")
    (folder / "folder.png" / "inner.jpg").mkdir(parents=True)
    photograph(3).save(folder / "folder.png" / "inner.jpg" / "deep.png")
    (folder / "folder.png" / "loop").symlink_to(folder)
    (folder / "round.png").symlink_to(folder, target_is_directory=True)
    Image.new("RGB", (300, 300)).save(folder / 'new\nline,"quoted".png')
    Image.new("RGB", (300, 300)).save(folder / f"{'long' * 60}.png")
    names = ["sixteen.png", "sixteen.tif", "cmyk.jpg", "cmyk.tif", "palette.png", "one_bit.png", "clear.png"]
    names += ["turned.jpg", "is_a_png.jpg", "is_a_jpeg.png", "UPPER.PNG", "dot.png", "row.png", "column.png"]
    names += ["wide.png", "folder.png/inner.jpg/deep.png", 'new\nline,"quoted".png', f"{'long' * 60}.png"]
    raw = os.fsencode(folder) + b"/caf\xe9_\xff.png"
    with open(raw, "wb") as file:
        photograph(4).save(file, "PNG")
    return [*names, "caf\\xe9_\\xff.png"]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width, height):
    """A small PNG of many black pixels."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    row = bytes(1 + width)
    block = packer.compress(row) + packer.flush(zlib.Z_FULL_FLUSH)  # stands alone, so that it can be repeated
    total = 1
    for _ in range(height):
        total = zlib.adler32(row, total)
    body = b"\x78\xda" + block * height + b"\x03\x00" + struct.pack(">I", total)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def worse(folder):
    """Files that are dangerous, or none."""
    (folder / "bomb.png").write_bytes(png_of_zeros(20_000, 20_000))
    (folder / "claims.png").write_bytes(png_of_zeros(4, 4).replace(struct.pack(">II", 4, 4), b"\x7f\xff\xff\xff" * 2))
    text = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(100_000_000), 9))
    whole = png_of_zeros(8, 8)
    (folder / "note.png").write_bytes(whole[:33] + text + whole[33:])
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "nowhere.png").symlink_to(folder / "absent.png")
    os.mkfifo(folder / "pipe.png")
    with open(folder / "huge.tif", "wb") as file:
        file.truncate(20 << 30)  # takes no room on the disk
    return ["bomb.png", "claims.png", "note.png", "self.png", "nowhere.png", "pipe.png", "huge.tif"]


def check(rows, folder, good, bad, either):
    """Every file has one row, and the right kind of one."""
    found = {row["path"][len(str(folder)) + 1 :]: row for row in rows}
    assert len(found) == len(rows) and set(found) == {*good, *bad, *either} and len(rows) > 200
    for name in good:
        assert found[name]["error"] == "" and np.isfinite(float(found[name]["score"])), found[name]
    for name in bad:
        assert found[name]["error"] and not found[name]["score"], found[name]
    for name in either:
        assert bool(found[name]["error"]) != bool(found[name]["score"]), found[name]
    return found


def test_nothing_crashes_and_everything_is_named(model, hostile, tmp_path):
    folder, good, bad, either = hostile
    before = snapshot(folder / "folder.png")
    done = predict(model, folder, "--output", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    found = check(rows, folder, good, bad, either)
    failed = sum(bool(row["error"]) for row in rows)
    assert done.returncode == 2 and f"{failed} of {len(rows)} files failed" in done.stderr
    assert done.stderr.count("failed: ") == 20 and f"and {failed - 20} more" in done.stderr
    assert "too large" in found["bomb.png"]["error"] and "too large" in found["huge.tif"]["error"]
    assert found["pipe.png"]["error"] == "not a regular file" and "leads nowhere" in found["nowhere.png"]["error"]
    written = [path for path in (tmp_path / "out" / "overlays").rglob("*.png") if path.is_file()]
    assert len(written) == len(rows) - failed and snapshot(folder / "folder.png") == before


PEAK = """
import argparse, json, sys
from pathlib import Path
from ganspect.reproduce.predict import add_predict

def run(*arguments):
    parser = argparse.ArgumentParser()
    add_predict(parser.add_subparsers())
    options = parser.parse_args(["predict", *arguments])
    return options.run(options)

def kilobytes(name):
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))

model, warm, folder, out, *more = sys.argv[1:]
assert run(model, warm, "--output", out) == 0
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, without TensorFlow's own of its start
code = run(model, folder, "--output", out, *more)
print(json.dumps([code, 1024 * (kilobytes("VmHWM") - before), "ganspect.models" in sys.modules]))
"""


def peak_of(*arguments):
    """Exit code of a command in a process of its own, and by how many bytes its peak is above a first one's end."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("only Linux tells the peak of a part of a process")
    line = [sys.executable, "-c", PEAK, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    code, rise, models = json.loads(done.stdout.splitlines()[-1])
    assert not models
    return code, rise


@pytest.mark.slow
def test_memory_is_bounded(model, hostile, tmp_path):
    folder, good, *_ = hostile
    for i in range(40):  # 120 MB, decoded far ahead if nothing held the threads back
        photograph(i, (1000, 1000)).save(tmp_path / f"many_{i}.bmp")
    code, rise = peak_of(model, folder / good[0], tmp_path, tmp_path / "out")
    print(f"40 images of 1 megapixel: {rise / 1e6:.0f} MB")
    assert code == 0 and rise < 0.6e9
    code, rise = peak_of(model, folder / good[0], folder, tmp_path / "out")
    print(f"hostile folder: {rise / 1e6:.0f} MB")
    assert code == 2 and rise < 1.5e9


@pytest.mark.slow
def test_a_large_image_is_never_held_as_floats(tmp_path, tmp_path_factory):
    local = served_models.make(tmp_path_factory.mktemp("large_model"))
    pixels = np.tile(np.arange(6000, dtype=np.uint8), (6000, 1))
    Image.fromarray(pixels).save(tmp_path / "large.png")
    Image.fromarray(pixels[:64, :64]).save(tmp_path / "small.png")
    arguments = (local, tmp_path / "small.png", tmp_path / "large.png", tmp_path / "out")
    code, rise = peak_of(*arguments, "--tile", "512")
    print(f"36 megapixels in tiles: {rise / 1e6:.0f} MB")
    assert code == 0 and rise < 36e6 * 16  # image 1, map 4, a picture 3, strips and encoders


def test_what_is_odd_about_a_scored_file_is_said(model, tmp_path):
    """12-bit data in 16-bit files reads almost black: it is scored as in training, and named."""
    (tmp_path / "in").mkdir()
    dark = np.random.default_rng(0).integers(0, 4096, SIZE).astype(np.uint16)
    for name in ("a", "b"):
        Image.fromarray(dark).save(tmp_path / "in" / f"{name}.png")
    done = predict(model, tmp_path / "in", "--output", tmp_path / "out")
    assert done.returncode == 0
    assert "12-bit data reads almost black, rescale it first: 2 files, the first " in done.stderr
    assert done.stderr.count("warning:") == 1
