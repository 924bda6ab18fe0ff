"""TensorFlow Datasets' builders give the scanner's samples, in its order, with the pixels of `load_category`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ganspect.data.arrays import load_arrays
from ganspect.data.images import DataError
from ganspect.data.known import MVTEC_CATEGORIES
from ganspect.data.samples import find_categories, scan
from ganspect.data.synthetic import make
from ganspect.data.tfds import CategoryConfig

tfds.disable_progress_bar()


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # TFDS leaves an empty folder there for each builder

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.fixture
def load(tmp_path):
    """Prepares `tmp_path/out` from `tmp_path/data`; gives the examples of each split, read without TensorFlow."""

    def load(name, data=tmp_path / "data", config=None, **options):
        kwargs = {"config": config} if config else {}
        builder = tfds.builder(name, data_dir=tmp_path / "out", file_format="array_record", **kwargs)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=data, **options))
        return {split: list(examples) for split, examples in builder.as_data_source().items()}, builder.info

    return load


def picture(path, seed, size=(12, 10), channels=3, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels), np.uint8)
    image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    (image.convert(mode) if mode else image).save(path, **options)


def mark(path, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[2:5, 3:] = 255
    Image.fromarray(mask).save(path)


def assert_same(given, path, *key):
    """Examples equal the scanner's samples and the arrays of `load_category`, in order."""
    category = scan(path, *key)
    arrays = load_arrays(category, category.channels)
    for split in ("train", "test"):
        samples = getattr(category, split)
        names = [sample.name for sample in samples]
        examples = given.get(split, [])
        assert [example["name"].decode() for example in examples] == names == getattr(arrays, f"{split}_names")
        assert [example["defect"].decode() for example in examples] == [sample.defect for sample in samples]
        assert [example["label"] for example in examples] == [sample.label for sample in samples]
        rois = (arrays.rois if split == "test" else arrays.train_rois) or [None] * len(names)
        masks = arrays.masks if split == "test" else [None] * len(names)
        for example, image, mask, roi in zip(examples, getattr(arrays, split), masks, rois, strict=True):
            np.testing.assert_array_equal(example["image"], image, strict=True)
            for name, expected, default in (("mask", mask, np.zeros), ("roi", roi, np.ones)):
                expected = default(image.shape[:2], bool) if expected is None else expected
                np.testing.assert_array_equal(example[name], expected[..., None], strict=True)
            assert example["has_mask"] == category.has_masks and example["has_roi"] == (roi is not None)
    assert len(given) == bool(category.train) + bool(category.test)
    return arrays


def test_synthetic_categories_by_name(tmp_path, load):
    make(tmp_path / "data", ("disc", "weave"), size=32, train=20, good=2, per_defect=2)
    for name, channels in (("disc", 1), ("weave", 3)):
        given, info = load(f"ganspect_mvtec/{name}", num_shards=3)
        arrays = assert_same(given, tmp_path / "data/synthetic" / name, "synthetic", name)
        assert info.splits["train"].num_shards == 3 and info.features["image"].shape == (None, None, channels)
        assert any(example["mask"].any() for example in given["test"])
        assert info.metadata["fingerprint"] == arrays.fingerprint and "ok (20 training" in info.metadata["check"]
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again, _ = load("ganspect_mvtec/weave", data=tmp_path / "moved")
    assert len(again["test"]) == len(given["test"])
    assert first == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_unusual_files_of_an_own_category(tmp_path, load):
    root = tmp_path / "data/own/bolt"
    picture(root / "train/good/cmyk.jpg", 1, mode="CMYK")
    picture(root / "train/good/palette.png", 2, (9, 8), mode="P")
    picture(root / "test/good/gray.bmp", 3, channels=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "test/dent/turned.jpg", 4, exif=exif)
    mark(root / "ground_truth/dent/turned_mask.png", (10, 12))
    Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10) * 500).save(root / "test/good/sixteen.png")
    mark(tmp_path / "data/other/bolt/train/good/a.png")
    with pytest.raises(DataError, match="more than one such category: other/bolt, own/bolt; say which"):
        load("ganspect_mvtec/bolt")
    given, info = load("ganspect_mvtec", config=CategoryConfig("own_bolt", dataset="own", category="bolt"))
    assert_same(given, root, "own", "bolt")
    assert info.full_name == "ganspect_mvtec/own_bolt/1.0.0" and "MVTec" not in info.description + info.citation
    given, info = load("ganspect_mvtec/bolt", data=tmp_path / "data/other")
    assert list(given) == ["train"] and info.features["image"].shape == (None, None, 1)


def test_nanotwice_and_casting(tmp_path, load):
    picture(tmp_path / "data/nanotwice/Normal/n.tif", 1, (700, 4), 1)
    picture(tmp_path / "data/nanotwice/Anomalous/images/a.tif", 2, (696, 4), 1)
    mark(tmp_path / "data/nanotwice/Anomalous/gt/a_gt.png", (696, 4))
    casting = tmp_path / "data/casting/casting_data"
    for i, folder in enumerate(("train/ok_front", "test/ok_front", "test/def_front")):
        picture(casting / folder / "x.jpeg", i)
    (casting / "test/ok_front/again.jpeg").write_bytes((casting / "train/ok_front/x.jpeg").read_bytes())
    given, info = load("ganspect_nanotwice")
    assert_same(given, tmp_path / "data/nanotwice", "nanotwice", "nanofibres")
    assert {example["image"].shape for part in given.values() for example in part} == {(696, 4, 1)}
    assert "Carrera" in info.citation
    assert info.metadata["notes"] == ["no normal test images: image metrics are undefined"]
    given, info = load("ganspect_casting", data=casting)
    assert_same(given, casting, "casting", "casting")
    assert not any(example["has_mask"] for part in given.values() for example in part)
    assert info.metadata["duplicates"] == ["test/ok_front/again.jpeg"]
    assert "CC BY-NC-ND" in info.redistribution_info.license and info.homepage.startswith("https://www.kaggle.com/")


def test_cloud_archive(tmp_path, load):
    for i in range(3):
        picture(tmp_path / f"data/cloud/noncloud/{i}.jpg", i)
    picture(tmp_path / "data/cloud/cloud/c.jpg", 3)
    given, info = load("ganspect_cloud")
    assert_same(given, tmp_path / "data/cloud", "cloud", "cloud")
    assert "normal test images: the last 1 of 3 by name" in info.metadata["notes"][0]


def test_bad_files_are_named_and_nothing_is_written_or_replaced(tmp_path, load):
    make(tmp_path / "data", ("weave",), size=32, train=4, good=1, per_defect=1)
    root = tmp_path / "data/synthetic/weave"
    bad = {path: path.read_bytes() for path in (root / "train/good/001.png", root / "test/good/000.png")}
    for path, data in bad.items():
        path.write_bytes(data[:-200])
    with pytest.raises(DataError, match=r"2 errors\n.*test/good/000.png: truncated.*\n.*train/good/001.png: trunc"):
        load("ganspect_mvtec/weave")
    assert not (tmp_path / "out").exists()
    for path, data in bad.items():
        path.write_bytes(data)
    load("ganspect_mvtec/weave")
    path = min(bad, key=lambda path: path.name)  # of the test images
    path.write_bytes(b"")
    config, anew = CategoryConfig("weave"), tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
    with pytest.raises(DataError, match="test/good/000.png: empty file"):
        load("ganspect_mvtec", config=config, download_mode=anew)
    before = load("ganspect_mvtec", config=config)[0]["test"]
    path.unlink()
    given, info = load("ganspect_mvtec", config=config, download_mode=anew)
    arrays = assert_same(given, root, "synthetic", "weave")
    assert len(given["test"]) == len(before) - 1 and info.metadata["fingerprint"] == arrays.fingerprint


def test_where_to_get_what_is_not_there(tmp_path, load):
    (tmp_path / "data").mkdir()
    for name in ("mvtec/pill", "nanotwice", "casting", "cloud"):
        with pytest.raises(DataError, match=r"not there \(found: no category.*\nNothing is downloaded(.|\n)*licence"):
            load(f"ganspect_{name}")
    with pytest.raises(
        DataError, match=r"downloads/manual: mvtec_ad/pill is not there \(found: no such folder\)(.|\n)*www.mvtec.com"
    ):
        load("ganspect_mvtec/pill", data=None)
    assert set(tfds.builder_cls("ganspect_mvtec").builder_configs) == set(MVTEC_CATEGORIES)
    info = tfds.builder("ganspect_mvtec/pill", data_dir=tmp_path / "out").info
    assert "Bergmann" in info.citation and "NC-SA" in info.redistribution_info.license and "mvtec.com" in info.homepage


def test_load_in_a_process_that_imports_this_alone(tmp_path):
    """Offline, without Beam, which TFDS's command line needs; no other module of `ganspect.data` imports TFDS."""
    make(tmp_path, ("fibres",), size=32, train=20, good=1, per_defect=1)
    code = f"""
import socket, sys
sys.modules["apache_beam"] = socket.socket.connect = socket.getaddrinfo = None
import ganspect.data.commands, ganspect.data.regions
assert "tensorflow_datasets" not in sys.modules
import ganspect.data.tfds
import tensorflow_datasets as tfds
download = tfds.download.DownloadConfig(manual_dir={str(tmp_path)!r}, num_shards=2)
sets, info = tfds.load("ganspect_mvtec/fibres", data_dir={str(tmp_path / "out")!r}, with_info=True,
                       download_and_prepare_kwargs=dict(download_config=download))
assert sets["train"].element_spec["image"].shape == (None, None, 1)
sys.path.append({str(Path(__file__).parent)!r})
from test_data_tfds import assert_same
assert_same({{split: list(tfds.as_numpy(part)) for split, part in sets.items()}},
            {str(tmp_path / "synthetic/fibres")!r}, "synthetic", "fibres")
print(info.splits["train"].num_shards, info.splits["test"].num_examples)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 5"


@pytest.mark.real
@pytest.mark.parametrize(
    "name, key", [("mvtec/pill", ("mvtec_ad", "pill")), ("nanotwice", ("nanotwice", "nanofibres"))]
)
def test_real_sets(real_data, tmp_path, name, key):
    download = tfds.download.DownloadConfig(manual_dir=real_data)
    sets = tfds.load(f"ganspect_{name}", data_dir=tmp_path, download_and_prepare_kwargs={"download_config": download})
    given = {split: list(tfds.as_numpy(part)) for split, part in sets.items()}
    assert_same(given, find_categories(real_data)[key], *key)
