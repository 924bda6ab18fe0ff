"""Arrays hold what the files hold; packs give them back; held-out indices follow the rule of the samples."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ganspect.data.arrays import (
    fitted,
    load_arrays,
    load_category,
    load_pack,
    save_pack,
    smallest_image,
    split_held_out,
)
from ganspect.data.check import check
from ganspect.data.commands import check_text, pack
from ganspect.data.images import read_image, read_mask
from ganspect.data.samples import DataError, held_out, scan
from ganspect.data.synthetic import make


@pytest.fixture(scope="module")
def disc(tmp_path_factory):
    root = make(tmp_path_factory.mktemp("data"), ("disc",), 40, train=12, good=2, per_defect=1)
    return scan(root / "disc")


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def same(a, b):
    """Whether two lists of arrays and Nones are equal."""
    if a is None or b is None:
        return a is b
    pairs = list(zip(a, b, strict=True))
    return all((x is None and y is None) or (x.dtype == y.dtype and np.array_equal(x, y)) for x, y in pairs)


def equal(a, b):
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        arrays = field.name in ("train", "test", "masks", "rois", "train_rois")
        assert same(x, y) if arrays else np.array_equal(x, y), field.name


def test_arrays_hold_the_files(disc):
    arrays = load_arrays(disc, 3, 24)
    assert arrays.test_names == [s.name for s in disc.test] and arrays.defects == [s.defect for s in disc.test]
    np.testing.assert_array_equal(arrays.labels, [s.label for s in disc.test])
    for sample, image, mask, roi in zip(disc.test, arrays.test, arrays.masks, arrays.rois, strict=True):
        np.testing.assert_array_equal(image, read_image(sample.path, 3, 24))
        expected = read_mask(sample.mask_path, 24) if sample.mask_path else np.zeros((24, 24), bool)
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_array_equal(roi, read_mask(sample.roi_path, 24))
    assert len(arrays.train_rois) == 12 and arrays.duplicates == []
    assert arrays.fingerprint == check(disc).fingerprint


def test_pack_round_trip(disc, tmp_path):
    arrays = load_arrays(disc, 1)
    equal(load_pack(save_pack(arrays, tmp_path / "new/disc.npz")), arrays)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["disc.npz"]
    equal(load_category(tmp_path / "new/disc.npz"), arrays)


def test_pack_of_ragged_images_without_masks(tmp_path):
    rng = np.random.default_rng(0)
    for i, shape in enumerate(((9, 16), (16, 9), (8, 8))):
        write(tmp_path / f"a/train/good/{i}.png", rng.integers(0, 255, (*shape, 3), np.uint8))
        write(tmp_path / f"a/test/bad/{i}.png", rng.integers(0, 255, (*shape, 3), np.uint8))
    arrays = load_arrays(scan(tmp_path / "a"), 3)
    assert arrays.masks == [None] * 3 and arrays.rois is None and arrays.notes
    equal(load_pack(save_pack(arrays, tmp_path / "a.npz")), arrays)
    write(tmp_path / "b/0.png", rng.integers(0, 255, (4, 4), np.uint8))
    plain = load_arrays(scan(tmp_path / "b"), 1)  # no test images at all
    equal(load_pack(save_pack(plain, tmp_path / "b.npz")), plain)


def test_damaged_or_foreign_packs_are_refused(disc, tmp_path):
    path = save_pack(load_arrays(disc, 1, 16), tmp_path / "disc.npz")
    data = path.read_bytes()
    for broken in (b"", b"text", data[:-400], data[:900]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="disc.npz"):
            load_pack(path)
    np.savez(path, format=np.array(99))
    with pytest.raises(DataError, match="format 99"):
        load_pack(path)


def test_pack_command_checks_and_never_overwrites(disc, tmp_path):
    path = pack(disc.root, tmp_path, 24)
    assert path == tmp_path / "synthetic/disc.npz" and load_pack(path).train[0].shape == (24, 24, 1)
    stamp = path.stat().st_mtime_ns
    assert pack(disc.root, tmp_path, 24) == path and path.stat().st_mtime_ns == stamp
    text, code = check_text(tmp_path)
    assert code == 0 and "a pack (12 training, 2 normal and 4 anomalous test images)" in text
    with pytest.raises(DataError, match="exists with other contents"):
        pack(disc.root, tmp_path, 16)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.png: empty file"):
        pack(tmp_path / "bad", tmp_path, 16)


def test_fitted_resizes_a_pack(disc):
    arrays = load_arrays(disc, 1, 32)
    assert fitted(arrays, 1, 32).notes == arrays.notes
    small = fitted(arrays, 3, 16)
    assert small.test[0].shape == (16, 16, 3) and small.masks[0].shape == (16, 16) and small.channels == 3
    assert small.notes == ("resized from a pack of 32x32 pixels",)


def test_smallest_image_is_that_of_the_files_or_the_pack(disc, tmp_path):
    assert smallest_image(disc.root, "synthetic", "disc") == (40, 40)
    save_pack(load_arrays(disc, 3, 24), tmp_path / "p.npz")
    assert smallest_image(tmp_path / "p.npz") == (24, 24)
    write(tmp_path / "plain" / "a.png", np.zeros((9, 12), "uint8"))
    write(tmp_path / "plain" / "b.png", np.zeros((8, 11), "uint8"))
    assert smallest_image(tmp_path / "plain") == (8, 11)


def test_nanotwice_is_cropped_to_its_useful_area(tmp_path):
    rng = np.random.default_rng(0)
    normal, test = (rng.integers(0, 255, (rows, 8), np.uint8) for rows in (700, 696))
    write(tmp_path / "Normal/a.png", normal)
    write(tmp_path / "Anomalous/images/b.png", test)
    write(tmp_path / "Anomalous/gt/b_gt.png", test)
    arrays = load_arrays(scan(tmp_path), 1)
    np.testing.assert_array_equal(arrays.train[0][:, :, 0], normal[:696])
    np.testing.assert_array_equal(arrays.masks[0], test > 0)
    assert load_arrays(scan(tmp_path), 1, crop_rows=0).train[0].shape == (700, 8, 1)


def test_one_region_for_all_images(tmp_path):
    for name in ("train/good/a", "test/good/b", "test/bad/c"):
        write(tmp_path / f"{name}.png", np.full((8, 6), ord(name[-1]), np.uint8))
    region = np.arange(48).reshape(8, 6) % 5 > 2
    write(tmp_path / "roi.png", region)
    arrays = load_arrays(scan(tmp_path), 1)
    for roi in (*arrays.train_rois, *arrays.rois):
        np.testing.assert_array_equal(roi, region)
    write(tmp_path / "test/bad/d.png", np.zeros((9, 6), np.uint8))
    with pytest.raises(DataError, match=r"roi\.png: is 6x8, its image 6x9"):
        load_arrays(scan(tmp_path), 1)


def test_errors_name_the_file_and_duplicates_are_listed(tmp_path):
    for name, value in (("train/good/a", 1), ("test/good/a", 1), ("test/bad/a", 2)):
        write(tmp_path / f"{name}.png", np.full((8, 8), value, np.uint8))
    write(tmp_path / "ground_truth/bad/a_mask.png", np.full((4, 4), 255, np.uint8))
    with pytest.raises(DataError, match=r"a_mask\.png: is 4x4, its image 8x8"):
        load_arrays(scan(tmp_path), 1)
    write(tmp_path / "ground_truth/bad/a_mask.png", np.full((8, 8), 255, np.uint8))
    assert load_arrays(scan(tmp_path), 1).duplicates == ["test/good/a.png"]


def test_held_out_indices_follow_the_samples(disc):
    arrays = load_arrays(disc, 1, 8)
    kept, out = split_held_out(arrays)
    expected = held_out(disc.train)
    assert [arrays.train_names[i] for i in kept] == [s.name for s in expected[0]]
    assert [arrays.train_names[i] for i in out] == [s.name for s in expected[1]] == ["train/good/011.png"]
