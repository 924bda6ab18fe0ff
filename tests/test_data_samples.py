"""The scanner recognises each layout and matches masks and regions by stem."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ganspect.data.check import check
from ganspect.data.samples import (
    OFFICIAL_COUNTS,
    DataError,
    find_categories,
    held_out,
    held_out_count,
    layout_of,
    scan,
    scan_kinds,
)

MODULES = ("arrays", "check", "commands", "images", "known", "pipeline", "regions", "samples", "synthetic")


def write(path, value=0, size=(4, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


def mvtec(root):
    write(root / "train/good/b.png", 1)
    write(root / "train/good/a.JPG", 2)
    write(root / "test/good/a.png", 3)
    write(root / "test/scratch/a.TIF", 4)
    write(root / "test/scratch/b.png", 5)
    write(root / "ground_truth/scratch/a_mask.bmp", 255)
    write(root / "ground_truth/scratch/b.png", 255)
    return root


def test_mvtec_layout(tmp_path):
    write(tmp_path / "parts/bolt/roi/train/good/a.png", 255)
    write(tmp_path / "parts/bolt/roi/train/good/b_roi.png", 255)
    root = mvtec(tmp_path / "parts/bolt")
    (root / "train/good/.hidden.png").write_bytes(b"")
    (root / "train/good/notes.txt").write_text("x")
    category = scan(root)
    assert (category.dataset, category.name, category.channels) == ("parts", "bolt", 1)
    assert [s.name for s in category.train] == ["train/good/a.JPG", "train/good/b.png"]
    assert [(s.name, s.defect, s.label) for s in category.test] == [
        ("test/good/a.png", "good", 0),
        ("test/scratch/a.TIF", "scratch", 1),
        ("test/scratch/b.png", "scratch", 1),
    ]
    assert [s.mask_path and s.mask_path.name for s in category.test] == [None, "a_mask.bmp", "b.png"]
    assert [s.roi_path.name for s in category.train] == ["a.png", "b_roi.png"]
    assert all(s.roi_path is None for s in category.test) and category.problems == ()
    assert [path.name for path, _ in category.ignored] == ["notes.txt"]


def test_other_names_of_normal_folders(tmp_path):
    """BTAD's folders, and a category of another set beside it."""
    root = tmp_path / "btad/01"
    for name in ("train/ok/0.bmp", "test/ok/0.bmp", "test/KO/1.bmp", "train/other/0.bmp", "test/Normal/2.bmp"):
        write(root / name, 9)
    write(root / "ground_truth/KO/1.png", 255)
    write(root / "roi/train/ok/0.png", 255)
    write(root / "roi/test/ok/0.png", 255)
    write(root / "roi/test/KO/1.png", 255)
    write(root / "roi/test/Normal/2.png", 255)
    write(tmp_path / "btad/02/train/NORMAL/a.png")
    assert list(find_categories(tmp_path / "btad")) == [("btad", "01"), ("btad", "02")]
    category = scan(root)
    assert category.problems == () and [path.name for path, _ in category.ignored] == ["other"]
    assert [(s.name, s.split, s.defect, s.label) for s in category.samples] == [
        ("test/KO/1.bmp", "test", "KO", 1),
        ("test/Normal/2.bmp", "test", "good", 0),
        ("test/ok/0.bmp", "test", "good", 0),
        ("train/ok/0.bmp", "train", "good", 0),
    ]
    assert category.test[0].mask_path == root / "ground_truth/KO/1.png"
    assert [s.roi_path.name for s in category.samples] == ["1.png", "2.png", "0.png", "0.png"]
    assert len(scan(tmp_path / "btad/02").train) == 1
    write(root / "train/good/0.bmp")  # goes before
    assert [s.name for s in scan(root).train] == ["train/good/0.bmp"]


def test_problems_of_masks_are_noted(tmp_path):
    root = mvtec(tmp_path / "bolt")
    write(root / "test/scratch/c.png")
    write(root / "test/dent/a.png")
    write(root / "test/scratch/b.jpg")
    write(root / "ground_truth/scratch/a_mask.png")
    write(root / "ground_truth/scratch/z_mask.png")
    category = scan(root)
    problems = {(path.relative_to(root).as_posix(), text.split(":")[0]) for path, text in category.problems}
    assert problems == {
        ("test/scratch/c.png", "no mask of this stem, while other images have one"),
        ("test/dent/a.png", "no mask of this stem, while other images have one"),
        ("test/scratch/a.TIF", "more than one mask or region of interest"),
        ("test/scratch/b.png", "same stem as b.jpg"),
    }
    assert [(path.name, text) for path, text in category.ignored] == [("z_mask.png", "mask without an image")]


def test_label_is_the_folder_and_masks_are_optional(tmp_path):
    root = mvtec(tmp_path / "bolt")
    write(root / "ground_truth/good/a_mask.png", 255)
    assert [s.label for s in scan(root).test] == [0, 1, 1]
    write(tmp_path / "free/train/good/a.png")
    write(tmp_path / "free/test/bad/a.png")
    category = scan(tmp_path / "free")
    assert not category.has_masks and category.problems == ()
    assert category.notes == ("no normal test images: image metrics are undefined",)


def test_nanotwice_layout_with_tif_originals(tmp_path):
    write(tmp_path / "Normal/n.tif")
    write(tmp_path / "Anomalous/images/ITIA1101.tif")
    write(tmp_path / "Anomalous/gt/ITIA1101_gt.png", 255)
    category = scan(tmp_path)
    assert (category.dataset, category.name, category.channels) == ("nanotwice", "nanofibres", 1)
    (sample,) = category.test
    assert (sample.name, sample.defect, sample.label) == ("Anomalous/images/ITIA1101.tif", "anomalous", 1)
    assert sample.mask_path.name == "ITIA1101_gt.png"


def test_casting_layout_below_its_archive_folders(tmp_path):
    root = tmp_path / "casting/casting_data"
    for folder in ("train/ok_front", "train/def_front", "test/ok_front", "test/def_front"):
        write(root / folder / "x.jpeg")
    category = scan(tmp_path / "casting")
    assert [(s.defect, s.label) for s in category.test] == [("def_front", 1), ("good", 0)]
    assert len(category.train) == 1 and category.root == root
    assert "def_front" in str(category.ignored[0][0])
    assert find_categories(tmp_path) == {("casting", "casting"): root}


def cloud(root, train="noncloud", normal="noncloud", clouds="cloud"):
    """Thirty images without clouds and two with, as some arrangement of the cloud set."""
    for i in range(30):
        write(root / (train if i < 28 else normal) / f"{i:02d}.jpg")
    for i in range(2):
        write(root / clouds / f"c{i}.jpg")
    return root


@pytest.mark.parametrize(
    "places",
    [
        ("noncloud", "noncloud", "cloud"),
        ("noncloud/noncloud", "noncloud/noncloud", "cloud/cloud"),
        ("Non-Cloud/non cloud", "Non-Cloud/non cloud", "CLOUD"),
        ("noncloud_train", "noncloud_test", "cloud"),
        ("train/non_cloud", "test/Non-Cloud", "test/cloud"),
    ],
)
def test_cloud_layouts(tmp_path, places):
    root = cloud(tmp_path / "sky", *places)
    category = scan(root)
    assert (category.dataset, category.name, category.root, category.problems) == ("cloud", "cloud", root, ())
    assert category.channels == 1 and category.ignored == ()  # the files here are gray
    assert [s.name for s in category.train] == [f"{places[0]}/{i:02d}.jpg" for i in range(28)]
    expected = [(f"{places[2]}/c{i}.jpg", "cloud", 1) for i in range(2)]
    expected += [(f"{places[1]}/{i}.jpg", "good", 0) for i in (28, 29)]
    assert [(s.name, s.defect, s.label) for s in category.test] == sorted(expected)
    unsplit = places[0] == places[1]
    assert [note.split("(")[0] for note in category.notes] == [
        "normal test images: the last 2 of 30 by name "
    ] * unsplit
    assert find_categories(tmp_path) == find_categories(root) == {("cloud", "cloud"): root}


def test_cloud_below_archive_folders_and_among_other_sets(tmp_path):
    root = cloud(tmp_path / "data/cloud/archive")
    assert scan(tmp_path / "data/cloud").root == scan(tmp_path / "data").root == root
    mvtec(tmp_path / "data/copy/pill")
    assert find_categories(tmp_path / "data") == {
        ("cloud", "cloud"): root,
        ("mvtec_ad", "pill"): tmp_path / "data/copy/pill",
    }
    loose = cloud(mvtec(tmp_path / "loose/own/bolt").parents[1])
    assert find_categories(loose) == {("cloud", "cloud"): loose, ("own", "bolt"): loose / "own/bolt"}
    assert {path.name: text for path, text in scan(loose).ignored} == {"own": "not read: not a folder of the cloud set"}


def test_other_folders_are_not_taken_for_the_cloud_set(tmp_path):
    """Misnamed ones are explained; categories of other layouts that are called cloud stay what they are."""
    for i, places in enumerate(
        (
            ("clear", "clear", "cloud"),
            ("train/noncloud", "test/noncloud", "test/clouds"),
            ("training/noncloud", "test/noncloud", "test/cloud"),
            ("noncloud", "noncloud", "cloud/a/b"),
        )
    ):
        root = cloud(tmp_path / f"wrong{i}", *places)
        with pytest.raises(DataError, match="found: .*Expected .*noncloud and cloud with images"):
            scan(root)
        assert find_categories(root) == {}
    own = tmp_path / "own"
    mvtec(own / "cloud")
    mvtec(own / "noncloud")
    assert set(find_categories(own)) == {("own", "cloud"), ("own", "noncloud")}
    sky = mvtec(tmp_path / "sky")
    write(sky / "test/cloud/x.png")
    write(sky / "test/noncloud/x.png")
    assert find_categories(sky) == {(tmp_path.name, "sky"): sky}
    plain = write(tmp_path / "plain/x.png").parent
    write(plain / "cloud/x.png")
    assert find_categories(plain) == {("folder", "plain"): plain}


def test_plain_folder_is_all_normal(tmp_path):
    write(tmp_path / "x.webp")
    write(tmp_path / "y.png")
    category = scan(tmp_path, name="mine")
    assert (category.dataset, category.name, len(category.train), category.test) == ("folder", "mine", 2, ())
    assert find_categories(tmp_path) == {("folder", tmp_path.name): tmp_path}


@pytest.mark.parametrize("layout", ["mvtec", "nanotwice", "casting", "cloud", "folder"])
def test_one_region_for_every_image(tmp_path, layout):
    root = tmp_path / "set"
    if layout == "mvtec":
        mvtec(root)
    elif layout == "cloud":
        cloud(root)
    else:
        for name in {
            "nanotwice": ("Normal/n", "Anomalous/images/a"),
            "casting": ("train/ok_front/x", "test/ok_front/x", "test/def_front/x"),
            "folder": ("x", "y"),
        }[layout]:
            write(root / f"{name}.png")
    before = scan(root)
    region = write(root / "ROI.Tif", 255)
    category = scan(root)
    assert [s.name for s in category.samples] == [s.name for s in before.samples]
    assert {s.roi_path for s in category.samples} == {region}
    assert (category.problems, category.notes, category.ignored) == (before.problems, before.notes, before.ignored)
    assert find_categories(root) == {(category.dataset, category.name): root}


def test_regions_of_their_own_win_over_the_one_for_all(tmp_path):
    root = mvtec(tmp_path / "bolt")
    whole = write(root / "roi.png", 255)
    own = write(root / "roi/test/scratch/b_roi.png", 255)
    category = scan(root)
    assert {s.name: s.roi_path for s in category.samples} == {
        s.name: own if s.name == "test/scratch/b.png" else whole for s in category.samples
    }
    assert category.notes == ("regions of interest: 1 images have their own, roi.png is that of the other 4",)
    assert category.problems == ()
    for sample in category.samples:
        write(root / "roi" / sample.split / sample.defect / f"{sample.path.stem}.png", 255)
    own.unlink()
    category = scan(root)
    assert whole not in {s.roi_path for s in category.samples} and category.notes == ()
    assert category.ignored == ((whole, "not read: every image has a region of interest of its own"),)


def test_two_regions_for_all_are_a_problem_and_one_alone_is_no_image(tmp_path):
    root = mvtec(tmp_path / "bolt")
    write(root / "roi.bmp"), write(root / "roi.png")
    assert scan(root).problems == (
        (root / "roi.bmp", "more than one region of interest for all images: roi.bmp, roi.png"),
    )
    write(tmp_path / "alone/roi.png")
    with pytest.raises(DataError, match="no known layout"):
        scan(tmp_path / "alone")


def test_regions_of_the_cloud_archive_in_either_split(tmp_path):
    """Which of its images are test images is decided here: both folders are looked into."""
    root = cloud(tmp_path)
    write(root / "roi/train/good/00.png"), write(root / "roi/test/good/29.png"), write(root / "roi/train/good/28.png")
    found = {s.path.stem: s.roi_path.relative_to(root).as_posix() for s in scan(root).samples if s.roi_path}
    assert found == {"00": "roi/train/good/00.png", "28": "roi/train/good/28.png", "29": "roi/test/good/29.png"}
    write(root / "roi/train/good/29.png")
    assert [text.split(":")[0] for path, text in scan(root).problems if path.stem == "29"] == [
        "more than one mask or region of interest"
    ]


def test_unknown_folders_are_explained(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="found: pictures.*train/good"):
        scan(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        scan(tmp_path / "none")
    assert find_categories(tmp_path) == {}


def test_find_categories_at_each_level(tmp_path):
    root = tmp_path / "data"
    pill = mvtec(root / "copy/pill")
    bolt = mvtec(root / "own/bolt")
    (root / "own/nut.npz").write_bytes(b"")
    write(root / "nanotwice/Normal/n.png")
    assert find_categories(root) == {
        ("mvtec_ad", "pill"): pill,
        ("nanotwice", "nanofibres"): root / "nanotwice",
        ("own", "bolt"): bolt,
        ("own", "nut"): root / "own/nut.npz",
    }
    assert find_categories(root / "copy") == {("mvtec_ad", "pill"): pill}
    assert find_categories(pill) == {("mvtec_ad", "pill"): pill}
    assert scan(pill).dataset == "mvtec_ad" and scan(bolt).dataset == "own"


def test_held_out_rule(tmp_path):
    counts = {1: 0, 2: 1, 5: 1, 24: 2, 60: 6, 99: 10, 100: 20, 209: 21, 267: 27, 2875: 288}
    assert {n: held_out_count(n) for n in counts} == counts
    for i in (3, 1, 0, 4, 2):
        write(tmp_path / f"{i}.png")
    kept, out = held_out(scan(tmp_path).train)
    assert [s.name for s in kept] == ["0.png", "1.png", "2.png", "3.png"] and [s.name for s in out] == ["4.png"]


def test_imports_without_tensorflow():
    names = ", ".join(f"ganspect.data.{module}" for module in MODULES)
    code = f"import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None; import {names}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.real
def test_official_counts_of_the_real_data(real_data):
    found = find_categories(real_data)
    assert {("nanotwice", "nanofibres"), ("casting", "casting"), ("mvtec_ad", "pill")} <= set(found)
    for key, path in found.items():
        category = scan(path, *key)
        defective = sum(s.label for s in category.test)
        counts = len(category.train), len(category.test) - defective, defective
        if any(note.startswith("substitute normals") for note in category.notes):
            counts = (counts[0] + counts[1], *counts[1:])  # the stand-ins were taken from the training images
        assert counts == OFFICIAL_COUNTS[key], key
        assert category.problems == ()


def test_normal_beside_other_folders_is_not_nanotwice(tmp_path):
    for kind in ("Normal", "Anomaly"):  # VisA's Data/Images
        write(tmp_path / "images" / kind / "000.JPG", 9)
    assert layout_of(tmp_path / "images") is None
    assert [s.label for s in scan_kinds(tmp_path / "images").test] == [1, 0]
    (tmp_path / "images" / "Anomalous").mkdir()
    assert layout_of(tmp_path / "images") == "nanotwice"


def test_what_is_not_read_is_noted(tmp_path):
    root = mvtec(tmp_path / "bolt")
    write(root / "train/good/batch/c.png")
    write(root / "ground_truth/scratch/000/d.png")  # as in MVTec LOCO
    (root / "train/good/gone.png").symlink_to(tmp_path / "nowhere.png")
    category = scan(root)
    noted = {path.relative_to(root).as_posix() for path, _ in category.ignored}
    assert {"train/good/batch", "ground_truth/scratch/000"} <= noted
    assert [(p.name, text) for p, text in category.problems] == [("gone.png", "a link to a file that is not there")]
    plain = tmp_path / "plain"
    write(plain / "a.png")
    write(plain / "more/b.png")
    write(plain / "deep/deeper/b.png")
    write(plain / "c.gif")
    (plain / "README.txt").write_text("x")
    assert sorted(path.name for path, _ in scan(plain).ignored) == ["c.gif", "deep", "more"]


def test_one_colour_image_among_many_gray_ones_makes_colour(tmp_path):
    for i in range(12):
        write(tmp_path / f"{i:02d}.png", i)
    assert scan(tmp_path).channels == 1
    Image.new("RGB", (4, 3)).save(tmp_path / "99.png")
    assert scan(tmp_path).channels == 3


def test_masks_of_kinds_are_required_where_some_have_one(tmp_path):
    for name in ("good/a", "bad/a", "bad/b", "ground_truth/bad/a"):
        write(tmp_path / f"{name}.png", 255)
    category = scan_kinds(tmp_path)
    assert [path.name for path, _ in category.problems] == ["b.png"]
    write(tmp_path / "masks/a.png", 255)
    category = scan_kinds(tmp_path)
    assert {s.defect for s in category.test} == {"good", "bad"} and category.ignored[0][0].name == "masks"


def test_images_of_which_nobody_says_what_they_show_are_no_anomalies(tmp_path):
    """Images directly in train/ and test/ have no label, nor have those in test/ beside train/good."""
    for name in ("train/a", "test/b", "test/c"):
        write(tmp_path / "flat" / f"{name}.png", 0)
    assert scan_kinds(tmp_path / "flat") is None
    for name in ("train/good/a", "test/b", "test/good/c"):
        write(tmp_path / "mixed" / f"{name}.png", 0)
    for category in (scan(tmp_path / "mixed"), scan_kinds(tmp_path / "mixed")):
        assert [s.name for s in category.test] == ["test/good/c.png"]
        assert [path.name for path, _ in category.ignored] == ["b.png"]


def test_names_that_are_no_utf8_are_read(tmp_path):
    path = tmp_path / os.fsdecode(b"pr\xfcf.png")
    try:
        write(path, 0)
    except OSError:
        pytest.skip("the file system takes UTF-8 names alone")
    report = check(scan(tmp_path))
    assert report.ok and len(report.fingerprint) == 64
