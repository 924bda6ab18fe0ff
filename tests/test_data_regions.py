"""Recipes find the region they say, files land where the scanner looks, and nothing of the user's is replaced."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ganspect.data.arrays import load_arrays, load_pack, save_pack
from ganspect.data.check import check
from ganspect.data.images import read_image, read_mask
from ganspect.data.regions import (
    RegionRecipe,
    add_regions,
    polygon_region,
    ring_region,
    threshold_region,
    with_regions,
    write_regions,
)
from ganspect.data.samples import DataError, scan

RING = RegionRecipe("ring", outer=0.4, inner=0.1)


def scene(height=40, width=50, channels=3):
    """A bright square of 20 x 20 with a dark hole on a dark ground, and a bright speck apart."""
    image = np.full((height, width, channels), 20, np.uint8)
    image[10:30, 15:35] = 200
    image[18:20, 20:22] = 30
    image[2, 2] = 250
    return image


def square(grown=0, height=40, width=50):
    region = np.zeros((height, width), bool)
    region[10 - grown : 30 + grown, 15 - grown : 35 + grown] = True
    return region


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def category(root):
    rng = np.random.default_rng(0)
    for name in ("train/good/a", "train/good/b", "test/good/a", "test/dent/a"):
        write(root / f"{name}.png", np.maximum(scene(), rng.integers(0, 20, (40, 50, 3), np.uint8)))
    write(root / "ground_truth/dent/a_mask.png", square().astype(np.uint8) * 255)
    return root


def tree(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("level", [None, 100])
def test_threshold_takes_the_largest_part_and_fills_it(level):
    image = scene()
    np.testing.assert_array_equal(threshold_region(image, level), square())
    np.testing.assert_array_equal(threshold_region(255 - image, level and 155, bright=False), square())
    everything = threshold_region(image, level, largest=False, fill=False)
    np.testing.assert_array_equal(everything, image[:, :, 0] > 100)
    np.testing.assert_array_equal(threshold_region(image, level, bright=False, largest=False, fill=False), ~everything)


def test_level_is_compared_with_the_mean_over_channels_and_is_not_inside():
    image = np.array([[[9, 10, 11], [10, 10, 11], [0, 0, 29]]], np.uint8)
    np.testing.assert_array_equal(threshold_region(image, 10), [[False, True, False]])


def test_margin_is_a_distance_in_pixels():
    grown = threshold_region(scene(), margin=3)
    rows, columns = np.mgrid[:40, :50]
    outside = np.hypot(np.maximum(abs(rows - 19.5) - 9.5, 0), np.maximum(abs(columns - 24.5) - 9.5, 0))
    np.testing.assert_array_equal(grown, outside <= 3)
    np.testing.assert_array_equal(threshold_region(scene(), margin=-3), square(-3))
    assert not threshold_region(scene(), margin=-10).any()
    np.testing.assert_array_equal(threshold_region(scene()[10:30, 15:], margin=-2)[:, 18:].any(1), np.zeros(20, bool))
    assert threshold_region(scene()[10:30, 15:], margin=-2)[0, 0]  # the image's border is no edge


def test_plain_images_are_wholly_inside_or_as_the_level_says():
    for value in (0, 7, 255):
        image = np.full((4, 5, 1), value, np.uint8)
        for bright in (True, False):
            assert threshold_region(image, bright=bright, margin=-1).all()
        assert threshold_region(image, 7, margin=2).all() == threshold_region(image, 7).any() == (value > 7)


def test_polygon_and_ring_at_any_size():
    assert polygon_region(7, 9, [(0, 0), (1, 0), (1, 1), (0, 1)]).all()
    half = polygon_region(10, 20, [(0, 0), (0.5, 0), (0.5, 1), (0, 1)])
    np.testing.assert_array_equal(half, np.arange(20)[None] < np.full((10, 1), 10))
    rows, columns = np.mgrid[:30, :60] + 0.5
    distance = np.hypot(columns - 15, rows - 15)
    np.testing.assert_array_equal(ring_region(30, 60, (0.25, 0.5), 0.4), distance <= 12)
    np.testing.assert_array_equal(ring_region(30, 60, (0.25, 0.5), 0.4, 0.2), (distance <= 12) & (distance >= 6))
    for shares in ([ring_region(n, n, (0.5, 0.5), 0.4).mean() for n in (64, 256)], [0.16 * np.pi] * 2):
        np.testing.assert_allclose(shares, 0.16 * np.pi, rtol=0.01)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("disc",), {}, "one of threshold, polygon, ring"),
        (("ring",), {"margin": 2}, "margin is a setting of a threshold region"),
        (("threshold",), {"outer": 0.3}, "outer is a setting of a ring region"),
        (("threshold",), {"level": 256}, "0..255"),
        (("threshold",), {"level": float("nan")}, "0..255"),
        (("polygon",), {"points": ((0, 0), (1, 1))}, "at least 3 points"),
        (("polygon",), {"points": ((0, 0), (1, 1), (30, 4))}, r"fractions .* in \[0, 1\]"),
        (("ring",), {"centre": (0.5, float("nan"))}, r"fractions .* in \[0, 1\]"),
        (("ring",), {"outer": 0.2, "inner": 0.3}, "0 <= inner < outer"),
    ],
)
def test_wrong_recipes_are_refused_when_declared(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        RegionRecipe(*arguments, **settings)


def test_recipes_say_what_they_do():
    recipe = RegionRecipe("threshold", level=45, margin=-1, largest=False)
    assert recipe.text == "pixels above gray level 45, holes filled, shrunk by 1 pixel"
    assert RegionRecipe("threshold", bright=False).text == "pixels at or below Otsu's level, largest part, holes filled"
    assert RING.text == "the ring around 0.5,0.5 (x,y in fractions of width and height), 0.1 to 0.4 of the smaller side"
    triangle = RegionRecipe("polygon", points=((0, 0), (1, 0), (0.5, 0.75)))
    assert triangle.text == "the polygon 0,0 1,0 0.5,0.75 (x,y in fractions of width and height)"
    np.testing.assert_array_equal(triangle(scene()), polygon_region(40, 50, triangle.points))


def test_own_regions_win_over_the_recipe(tmp_path):
    root = category(tmp_path / "bolt")
    plain = load_arrays(scan(root), 3)
    recipe = RegionRecipe("threshold")
    made = add_regions(plain, recipe)
    assert plain.rois is None and plain.train_rois is None
    for region in (*made.rois, *made.train_rois):
        np.testing.assert_array_equal(region, square())
    assert made.notes == (*plain.notes, f"regions of interest made: {recipe.text}")
    chosen = add_regions(plain, replace(recipe, remark="chosen by eye"))
    assert chosen.notes[-1] == f"regions of interest made (chosen by eye): {recipe.text}"
    own = np.eye(40, 50, dtype=bool)
    write(root / "roi/test/dent/a.png", own)
    write(root / "roi/test/good/a.png", own)
    mixed = add_regions(load_arrays(scan(root), 3), RegionRecipe("threshold", level=254))
    for region in mixed.rois:
        np.testing.assert_array_equal(region, own)
    assert not any(region.any() for region in mixed.train_rois)
    assert "made for 2 of 4 images, the others have their own: pixels above gray level 254" in mixed.notes[-2]
    assert mixed.notes[-1] == "regions of interest made empty: 2 images (train/good/a.png, train/good/b.png)"
    write(root / "roi.png", own)
    complete = load_arrays(scan(root), 3)
    assert add_regions(complete, recipe) is complete


def test_regions_travel_in_packs(tmp_path):
    made = add_regions(load_arrays(scan(category(tmp_path / "bolt")), 1), RING)
    back = load_pack(save_pack(made, tmp_path / "bolt.npz"))
    np.testing.assert_array_equal(back.rois, made.rois)
    np.testing.assert_array_equal(back.train_rois, made.train_rois)
    assert back.notes[-1] == f"regions of interest made: {RING.text}"


def test_regions_as_last_channel():
    images = [scene(), scene(8, 9, 1), scene(8, 9, 1)]
    regions = [square(), None, np.zeros((8, 9), bool)]
    stacked = with_regions(images, regions)
    for image, region, both in zip(images, regions, stacked, strict=True):
        assert both.dtype == np.uint8
        np.testing.assert_array_equal(both[:, :, :-1], image)
        np.testing.assert_array_equal(both[:, :, -1], 255 if region is None else region * 255)
    assert all((both[:, :, -1] == 255).all() for both in with_regions(images, None))
    with pytest.raises(ValueError, match="region"):
        with_regions(images[:1], [np.ones((40, 40), bool)])
    with pytest.raises(ValueError, match="shorter"):
        with_regions(images, regions[:2])


LAYOUTS = {
    "mvtec": ("train/good/a.png", "train/good/b.JPG", "test/good/a.png", "test/dent/a.png"),
    "nanotwice": ("Normal/a.tif", "Anomalous/images/b.tif"),
    "casting": ("train/ok_front/a.jpeg", "test/ok_front/b.jpeg", "test/def_front/c.jpeg"),
    "cloud": (*(f"noncloud/{i:02d}.jpg" for i in range(16)), "cloud/c.jpg"),
    "cloud_split": ("noncloud_train/a.jpg", "noncloud_test/a.jpg", "cloud/a.jpg"),
    "folder": ("a.png", "b.webp"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("single", [False, True])
def test_written_regions_are_found_again_in_every_layout(tmp_path, layout, single):
    for i, name in enumerate(LAYOUTS[layout]):
        write(tmp_path / name, scene() + np.uint8(i))
    before = scan(tmp_path)
    written = write_regions(tmp_path, RING if single else RegionRecipe("threshold"), single=single)
    assert len(written.files) == written.new == (1 if single else len(before.samples))
    after = scan(tmp_path)
    assert [s.name for s in after.samples] == [s.name for s in before.samples] and not after.problems
    assert {sample.roi_path for sample in after.samples} == set(written.files) and after.notes == before.notes
    report = check(after)
    assert not [text for path, text in (*report.errors, *report.warnings) if "region" in text or "roi" in str(path)]
    for sample in after.samples:
        expected = written.recipe(read_image(sample.path, 3))
        np.testing.assert_array_equal(read_mask(sample.roi_path), expected)
    np.testing.assert_allclose(written.shares, expected.mean(), rtol=0.1)


def test_nothing_is_replaced_and_nothing_half_written(tmp_path):
    root = category(tmp_path / "bolt")
    recipe = RegionRecipe("threshold")
    write_regions(root, recipe)
    before = tree(root)
    again = write_regions(root, recipe)
    assert again.new == 0 and len(again.files) == 4 and "(0 written, 4 there already)" in again.text
    with pytest.raises(DataError, match=r"roi/test/dent/a\.png: exists with other contents"):
        write_regions(root, RegionRecipe("threshold", margin=1))
    assert tree(root) == before
    (root / "roi/test/good/a.png").rename(root / "roi/test/good/a_roi.png")
    (root / "roi/test/dent/a.png").unlink()
    before = tree(root)
    with pytest.raises(DataError, match=r"a_roi\.png: a region of the same image is there"):
        write_regions(root, recipe)
    assert tree(root) == before
    write(root / "train/good/a.bmp", scene())
    with pytest.raises(DataError, match="the same stem"):
        write_regions(root, recipe, tmp_path / "elsewhere")
    (root / "train/good/a.bmp").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.bmp: empty file"):
        write_regions(root, recipe, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_another_folder_and_the_words_about_it(tmp_path):
    root = category(tmp_path / "bolt")
    before = tree(root)
    text = write_regions(root, RegionRecipe("threshold", level=254), tmp_path / "out").text
    assert tree(root) == before and len(tree(tmp_path / "out")) == 4
    assert "4 regions (4 written, 0 there already)" in text and "warning  empty: 4 images (roi/test/dent/a.png" in text
    text = write_regions(root, RegionRecipe("ring", outer=2.0), tmp_path / "all", single=True).text
    assert "1 region for all images" in text and "inside   100.0 % of the pixels" in text
    assert "warning  the whole image: 1 image (roi.png)" in text
    assert "inside   20.0 % to 20.0 %, median 20.0 %" in write_regions(root, RegionRecipe("threshold")).text


def test_one_region_for_all_needs_a_fixed_place_and_one_size(tmp_path):
    root = category(tmp_path / "bolt")
    with pytest.raises(ValueError, match="fixed place"):
        write_regions(root, RegionRecipe("threshold"), single=True)
    write(root / "train/good/c.png", scene(40, 40))
    with pytest.raises(DataError, match=r"one size: .* 50x40, train/good/c\.png is 40x40"):
        write_regions(root, RING, single=True)
    write(root / "roi.bmp", square())
    (root / "train/good/c.png").unlink()
    with pytest.raises(DataError, match=r"roi\.bmp: a region of the same image is there"):
        write_regions(root, RING, single=True)


def test_one_region_for_the_useful_area_of_nanotwice(tmp_path):
    write(tmp_path / "Normal/a.png", np.zeros((700, 8), np.uint8))
    write(tmp_path / "Anomalous/images/b.png", np.zeros((696, 8), np.uint8))
    (path,) = write_regions(tmp_path, RING, single=True).files
    assert read_mask(path).shape == (696, 8) and check(scan(tmp_path)).ok
    arrays = load_arrays(scan(tmp_path), 1)
    np.testing.assert_array_equal(arrays.train_rois[0], RING(arrays.train[0]))
    np.testing.assert_array_equal(arrays.rois[0], RING(arrays.test[0]))
