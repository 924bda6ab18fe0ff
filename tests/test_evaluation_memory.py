"""Metrics of more pixels than memory: sorted in chunks on disk, the same to the bit, nothing left behind."""

import tempfile
import tracemalloc

import numpy as np
import pytest

from ganspect.evaluation import metrics, ranks, statistics

EVERY = {
    "areas": metrics.pixel_auroc_aupr,
    "f1": metrics.pixel_f1_max,
    "accuracy": metrics.accuracy_oracle,
    "balanced": metrics.balanced_accuracy_oracle,
    "aupro": lambda masks, maps, memory: metrics.pixel_aupro(masks, maps, memory=memory),
    "roc": lambda masks, maps, memory: metrics.roc_curve(masks, maps, 64, memory),
    "pr": lambda masks, maps, memory: metrics.precision_recall_curve(masks, maps, 64, memory),
    "bootstrap": lambda masks, maps, memory: statistics.bootstrap_pixel_metrics(masks, maps, 20, memory=memory),
}


def scene(kind):
    rng = np.random.default_rng(0)
    masks = [rng.random((40 + i, 30)) < 0.1 * (i % 2) for i in range(6)]
    maps = [rng.normal(size=mask.shape) + mask for mask in masks]
    if kind == "ties":
        maps = [np.round(values) for values in maps]
    elif kind == "constant":
        maps = [np.full(mask.shape, 0.7) for mask in masks]
    elif kind == "outlier":
        maps[1][0, 0] = 1e30
    return masks, [values.astype(np.float64 if kind == "wide" else np.float32) for values in maps]


@pytest.mark.parametrize("kind", ["plain", "ties", "constant", "outlier", "wide"])
@pytest.mark.parametrize("name", EVERY)
def test_the_same_to_the_bit_whatever_the_memory(kind, name, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    masks, maps = scene(kind)
    assert ranks.survey(masks, maps).wide == (kind == "wide")
    whole = EVERY[name](masks, maps, memory=float("inf"))
    for memory in (1, 3000, 20_000):
        parts = EVERY[name](masks, maps, memory=memory)
        if name == "bootstrap":
            assert parts == whole
        else:  # sums of other parts in the areas, else equal
            np.testing.assert_allclose(parts, whole, rtol=1e-13 if name in ("areas", "aupro") else 0)
    assert not list(tmp_path.iterdir())


def test_blocks_fall_and_hold_equal_keys_together(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    masks, maps = scene("ties")
    found = ranks.survey(masks, maps)
    blocks = [[keys.copy() for keys in pair] for pair in ranks.sorted_classes(masks, maps, found, 4000)]
    assert len(blocks) > 2
    extremes = [(min(k.min() for k in pair if len(k)), max(k.max() for k in pair if len(k))) for pair in blocks]
    assert all(low > high for (low, _), (_, high) in zip(extremes, extremes[1:], strict=False))
    for which, count in enumerate((found.normal, found.anomalous)):
        assert sum(len(pair[which]) for pair in blocks) == count
    generator = ranks.sorted_classes(masks, maps, found, 4000)
    next(generator)
    assert list(tmp_path.iterdir())
    generator.close()  # an interrupted one leaves nothing either
    assert not list(tmp_path.iterdir())


def test_the_limit_is_kept_on_memory_mapped_maps(tmp_path):
    """4 million pixels, 16 MB of keys, of which 2 MB may be held: NumPy allocates no more than that and two images."""
    rng, opened = np.random.default_rng(0), []
    for name, dtype in (("masks", np.uint8), ("maps", np.float32)):
        stored = np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", dtype, (64, 250, 250))
        for i in range(64):
            stored[i] = rng.random((250, 250)) if name == "maps" else rng.random((250, 250)) < 0.01
        stored.flush()
        opened.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    peaks, values = {}, []
    for limit in (2e6, 1e9):
        tracemalloc.start()
        values.append(metrics.pixel_auroc_aupr(*opened, limit))
        peaks[limit] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert values[0] == pytest.approx(values[1], rel=1e-13)
    assert peaks[2e6] < 2e6 + 64 * 250 * 250 and peaks[1e9] > 16e6
