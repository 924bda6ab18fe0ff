"""The synthetic set is deterministic, laid out as MVTec, without leaks, and shows its defects to a simple baseline."""

import json

import numpy as np
import pytest

from ganspect.data.check import check
from ganspect.data.samples import DataError, find_categories, scan
from ganspect.data.synthetic import CATEGORIES, defects_of, make, render

SIZE = 64


def auroc(normal, anomalous):
    """Share of (anomalous, normal) pairs in the right order, ties counted half."""
    normal, anomalous = np.asarray(normal)[None], np.asarray(anomalous)[:, None]
    return (anomalous > normal).mean() + 0.5 * (anomalous == normal).mean()


def patch_statistics(image, patch=8, stride=4):
    """Mean and deviation of each channel and of the gradient in every patch: `[patches, features]`."""
    image = np.atleast_3d(image) / 255
    gradient = np.hypot(*np.gradient(image.mean(axis=2)))
    planes = np.concatenate([np.moveaxis(image, 2, 0), gradient[None]])
    views = np.lib.stride_tricks.sliding_window_view(planes, (patch, patch), (1, 2))[:, ::stride, ::stride]
    return np.concatenate([views.mean(axis=(3, 4)), views.std(axis=(3, 4))]).reshape(2 * len(planes), -1).T


class Baseline:
    """Distance of the strangest patch to its nearest training patch."""

    def __init__(self, images):
        features = np.concatenate([patch_statistics(image) for image in images])
        self.mean, self.scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        self.bank = ((features - self.mean) / self.scale)[::2]

    def score(self, image):
        features = (patch_statistics(image) - self.mean) / self.scale
        squared = (features**2).sum(1)[:, None] + (self.bank**2).sum(1) - 2 * features @ self.bank.T
        return np.sqrt(np.maximum(squared.min(axis=1), 0)).max()


def images(category, split, defect, count):
    return [render(category, split, defect, i, SIZE)[0] for i in range(count)]


def test_same_seed_same_bytes_and_a_subset_is_a_part(tmp_path):
    make(tmp_path / "a", ("fibres", "object"), SIZE, train=3, good=2, per_defect=1)
    make(tmp_path / "b", ("fibres",), SIZE, train=2, good=1, per_defect=1)
    make(tmp_path / "c", ("fibres",), SIZE, train=2, good=1, per_defect=1, seed=1)
    for path in (tmp_path / "b").rglob("*.png"):
        name = path.relative_to(tmp_path / "b")
        assert path.read_bytes() == (tmp_path / "a" / name).read_bytes()
        if "ground_truth" not in name.parts:
            assert path.read_bytes() != (tmp_path / "c" / name).read_bytes()
    names = {key: check(scan(path, *key)) for key, path in find_categories(tmp_path / "a").items()}
    assert set(names) == {("synthetic", "fibres"), ("synthetic", "object")}
    assert all(report.ok and not report.warnings for report in names.values())


def test_layout_masks_and_regions(tmp_path):
    make(tmp_path, ("disc",), SIZE, train=2, good=1, per_defect=1)
    category = scan(tmp_path / "synthetic/disc")
    assert category.channels == 1 and len(category.train) == 2
    assert sorted({s.defect for s in category.test}) == ["burr", "crack", "good", "pit", "sand"]
    assert all((s.mask_path is not None) == bool(s.label) for s in category.test)
    assert all(s.roi_path for s in category.samples)


def test_made_again_only_when_needed_and_never_over_changes(tmp_path):
    settings = dict(categories=("weave",), size=32, train=1, good=1, per_defect=1)
    root = make(tmp_path, **settings)
    manifest = root / "weave/manifest.json"
    stamp = manifest.stat().st_mtime_ns
    make(tmp_path, **settings)
    assert manifest.stat().st_mtime_ns == stamp
    make(tmp_path, **{**settings, "size": 40})
    assert json.loads(manifest.read_text())["settings"]["size"] == 40
    (root / "weave/train/good/mine.png").write_bytes(b"x")
    with pytest.raises(DataError, match="was changed"):
        make(tmp_path, **settings)
    assert (root / "weave/train/good/mine.png").read_bytes() == b"x"
    (root / "disc").mkdir()
    with pytest.raises(DataError, match="was not written by"):
        make(tmp_path, ("disc",), 32)
    assert sorted(p.name for p in root.iterdir()) == ["disc", "weave"]
    for bad in ({"size": 60}, {"categories": ("moon",)}):
        with pytest.raises(ValueError, match="multiple of 8|unknown"):
            make(tmp_path, **bad)


@pytest.mark.parametrize("category", CATEGORIES)
def test_defects_change_what_their_masks_mark(category):
    for defect in defects_of(category):
        for index in range(3):
            image, mask, roi = render(category, "test", defect, index, SIZE)
            assert image.dtype == np.uint8 and image.shape[:2] == mask.shape == (SIZE, SIZE)
            assert 0.001 < mask.mean() < 0.5, (defect, index)
            assert roi is None or (mask & roi).any()
    assert not render(category, "test", "good", 0, SIZE)[1].any()
    assert (render(category, "test", "good", 0, SIZE)[2] is not None) == (category in ("object", "disc"))


@pytest.mark.parametrize("category", CATEGORIES)
def test_normals_do_not_tell_train_from_test(category):
    train, test = images(category, "train", "good", 30), images(category, "test", "good", 30)
    for statistic in (np.mean, np.std, lambda image: np.abs(np.diff(image.astype(float), axis=0)).mean()):
        value = auroc([statistic(image) for image in train], [statistic(image) for image in test])
        assert abs(value - 0.5) < 0.2  # 30 against 30: standard error 0.075


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_simple_baseline_sees_the_defects_and_a_constant_does_not(category):
    baseline = Baseline(images(category, "train", "good", 12))
    normal = [baseline.score(image) for image in images(category, "test", "good", 12)]
    kinds = defects_of(category)
    scores = [baseline.score(image) for kind in kinds for image in images(category, "test", kind, 4)]
    assert auroc(normal, scores) > 0.75
    assert auroc(np.zeros(len(normal)), np.zeros(len(scores))) == 0.5
