"""One message names every bad file; the fingerprint follows the bytes; duplicates are found."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ganspect.data.arrays import load_arrays, load_pack
from ganspect.data.check import check, near_duplicates
from ganspect.data.commands import check_text, list_text, pack
from ganspect.data.samples import find_categories, scan


def write(path, seed, size=(24, 32), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def mask(path, size=(24, 32), value=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "bolt"
    for i in range(6):
        write(root / f"train/good/{i}.png", i)
    for i in range(3):
        write(root / f"test/good/{i}.png", 10 + i)
        write(root / f"test/dent/{i}.png", 20 + i)
        mask(root / f"ground_truth/dent/{i}_mask.png")
    return root


def spoil(root):
    """A truncated PNG, an empty file, a text file, a mask of another size, a test image repeated in train."""
    cut = root / "train/good/1.png"
    cut.write_bytes(cut.read_bytes()[:300])
    (root / "train/good/2.png").write_bytes(b"")
    (root / "test/good/1.png").write_text("hello")
    mask(root / "ground_truth/dent/0_mask.png", (12, 32))
    shutil.copy(root / "train/good/4.png", root / "test/good/2.png")


def test_five_bad_files_in_one_message(folder):
    spoil(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text, code = check_text(folder)
    assert code == 1
    for line in (
        "5 errors",
        "train/good/1.png: truncated",
        "train/good/2.png: empty file (0 bytes)",
        "test/good/1.png: not an image",
        "ground_truth/dent/0_mask.png: mask is 32x12, its image is 32x24",
        "test/good/2.png: test image byte-identical to training image train/good/4.png",
    ):
        assert line in text
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_sound_folder(folder):
    report = check(scan(folder))
    assert report.ok and not report.warnings and not report.conversions and not report.duplicates
    assert "6 training, 3 normal and 3 anomalous test images, 3 masks" in report.message()
    text, code = check_text(folder)
    assert code == 0 and report.fingerprint in text


def test_several_categories_and_no_category(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "nut")
    spoil(folder)
    text, code = check_text(tmp_path)
    assert code == 1 and "bolt: cannot be used" in text and "nut: ok" in text
    assert check_text(tmp_path / "nut/test")[1] == 1
    assert check_text(tmp_path / "none") == (f"{tmp_path / 'none'}: no such folder", 1)
    (tmp_path / "bad.npz").write_bytes(b"no pack")
    assert check_text(tmp_path / "bad.npz")[1] == 1


def test_missing_masks_and_no_training_image(folder):
    (folder / "ground_truth/dent/1_mask.png").unlink()
    for path in (folder / "train/good").iterdir():
        path.unlink()
    report = check(scan(folder))
    assert sorted(text for _, text in report.errors) == [
        "no mask of this stem, while other images have one",
        "no training image",
    ]


def test_region_of_interest_of_another_size(folder):
    for i in range(6):
        mask(folder / f"roi/train/good/{i}.png", (24, 32) if i else (8, 8))
    assert [text for _, text in check(scan(folder)).errors] == ["region of interest is 8x8, its image is 32x24"]


def test_one_region_for_all_is_named_once(folder):
    path = mask(folder / "roi.png", (8, 8))
    assert check(scan(folder)).errors == [(path, "region of interest is 8x8, its image is 32x24")]
    path.write_bytes(b"")
    assert check(scan(folder)).errors == [(path, "empty file (0 bytes)")]
    mask(path, value=0)
    report = check(scan(folder))
    assert report.ok and report.warnings == [(path, "region of interest is empty")]
    write(folder / "train/good/6.png", 6, (20, 20))
    assert [text for _, text in check(scan(folder)).errors] == ["region of interest is 32x24, its image is 20x20"]


def test_fingerprint_follows_the_one_region_for_all(folder):
    bare = check(scan(folder)).fingerprint
    path = mask(folder / "roi.png")
    report = check(scan(folder))
    assert report.ok and "3 masks, 12 regions of interest" in report.message()
    assert load_arrays(scan(folder), 3).fingerprint == report.fingerprint != bare
    mask(path, value=200)
    assert check(scan(folder)).fingerprint not in (bare, report.fingerprint)


def test_warnings_and_conversions(folder):
    write(folder / "train/good/6.png", 6, (20, 20))
    Image.new("RGBA", (32, 24), (9, 9, 9, 9)).save(folder / "train/good/7.png")
    Image.new("L", (32, 24), 7).save(folder / "train/good/8.png")
    shutil.copy(folder / "train/good/0.png", folder / "train/good/9.png")
    write(folder / "train/good/a.png", 30).rename(folder / "train/good/a.jpg")
    mask(folder / "ground_truth/dent/2_mask.png", value=0)
    message = check(scan(folder, "mvtec_ad", "pill")).message()
    for text in (
        "train, test normal, test defective are 11 3 3; officially 267 26 141",
        "2 image sizes: 32x24 (16), 20x20 (1)",
        "1 training images repeat another one",
        "mask of an anomalous image is empty: 1 file (ground_truth/dent/2_mask.png)",
        "the contents are PNG, the name says JPEG: 1 file (train/good/a.jpg)",
        "transparency: composited over black: 1 file (train/good/7.png)",
        "gray (1) and colour (16) images together",
    ):
        assert text in message
    assert "mvtec_ad/pill: ok" in message


def test_duplicates_of_casting_are_a_warning(tmp_path):
    for i in range(3):
        write(tmp_path / f"train/ok_front/{i}.jpeg", i)
        write(tmp_path / f"test/def_front/{i}.jpeg", 10 + i)
    (tmp_path / "test/ok_front").mkdir()
    shutil.copy(tmp_path / "train/ok_front/1.jpeg", tmp_path / "test/ok_front/7.jpeg")
    report = check(scan(tmp_path))
    assert report.ok and report.duplicates == [("train/ok_front/1.jpeg", "test/ok_front/7.jpeg")]
    assert "1 test images are byte-identical to training images" in report.message()


def test_cloud_is_checked_counted_and_packed(tmp_path):
    for i in range(31):
        write(tmp_path / f"cloud/{'noncloud/noncloud' if i else 'cloud/cloud'}/{i:02d}.jpg", i)
    write(tmp_path / "cloud/extra/x.jpg", 99)
    text, code = check_text(tmp_path)
    assert code == 0
    for part in (
        "cloud/cloud: ok (28 training, 2 normal and 1 anomalous test images, 0 masks)",
        "train, test normal, test defective are 28 2 1; officially 1400 100 100",
        "not a folder of the cloud set: 1 file (extra)",
    ):
        assert part in text
    assert "1400 training, 100 normal and 100 defective" in list_text() and "found    cloud" in list_text(tmp_path)
    packed = load_pack(pack(tmp_path / "cloud", tmp_path / "packs", 16))
    assert (packed.dataset, packed.name, len(packed.train), packed.train[0].shape) == (
        "cloud",
        "cloud",
        28,
        (16, 16, 3),
    )
    assert "the last 2 of 30 by name" in packed.notes[0]


def test_fingerprint_follows_names_bytes_and_masks(folder):
    first = check(scan(folder)).fingerprint
    assert first == check(scan(folder)).fingerprint and len(first) == 64
    mask(folder / "ground_truth/dent/0_mask.png", value=200)
    second = check(scan(folder)).fingerprint
    (folder / "train/good/5.png").rename(folder / "train/good/6.png")
    assert len({first, second, check(scan(folder)).fingerprint}) == 3


def test_near_duplicates(folder):
    source = folder / "train/good/3.png"
    image = Image.fromarray(np.kron(np.asarray(Image.open(source))[:6, :8], np.ones((16, 16, 1), np.uint8)))
    image.save(source)
    image.rotate(90, expand=True).save(folder / "test/good/0.jpg", quality=90)
    report = check(scan(folder))
    assert [pair[:2] for pair in report.near_duplicates] == [("train/good/3.png", "test/good/0.jpg")]
    assert report.ok and "1 test image almost identical to a training image" in report.message()
    rng = np.random.default_rng(0)
    same_pose = rng.normal(128, 40, (1, 32, 32)) + rng.normal(0, 3, (40, 32, 32))  # one object, natural variation
    flat = 128 + rng.normal(0, 0.4, (40, 32, 32))  # a fine texture that thumbnails blur away
    for thumbnails in (same_pose, flat):
        assert near_duplicates(thumbnails[:20].astype(np.float32), thumbnails[20:].astype(np.float32)) == []


def test_list_names_pages_licences_and_what_is_there(folder):
    text = list_text(folder.parent)
    for part in ("mvtec.com", "CC BY-NC-SA 4.0", "3629 training, 467 normal and 1258 defective", "bolt", "NanoTWICE"):
        assert part in text
    assert "found" not in list_text()


@pytest.mark.real
def test_real_data_is_sound_and_the_duplicates_of_casting_are_found(real_data):
    for key, path in find_categories(real_data).items():
        report = check(scan(path, *key))
        assert report.ok, report.message()
        assert len(report.near_duplicates) == (1 if key[0] == "casting" else 0)
        if key[0] == "casting":
            listed = json.loads((real_data / "casting/train_test_exact_duplicates.json").read_text())
            assert sorted(report.duplicates) == sorted((train, test) for test, train in listed)
            assert len(report.duplicates) == 64
