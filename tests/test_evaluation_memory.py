"""Metrics of more pixels than memory: sorted in chunks on disk, the same to the bit, nothing left behind."""

import tempfile
import tracemalloc

import numpy as np
import pytest

from ganspect.evaluation import metrics, ranks, sorting, statistics

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
    elif kind == "narrow":  # one value of the keys' top 16 bits, and a tie larger than a block
        maps = [np.where(values < 1, 1, 1 + 1e-4 * values) for values in maps]
    return masks, [values.astype(np.float64 if kind == "wide" else np.float32) for values in maps]


@pytest.mark.parametrize("kind", ["plain", "ties", "constant", "outlier", "narrow", "wide"])
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
        else:
            np.testing.assert_array_equal(parts, whole)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["plain", "ties", "constant", "wide"])
@pytest.mark.parametrize("tagged", [False, True])
def test_blocks_hold_every_key_once_in_falling_order(kind, tagged):
    masks, maps = scene(kind)
    found = ranks.survey(masks, maps)
    every = [
        ranks.order_keys(np.concatenate([v[m == side] for m, v in zip(masks, maps, strict=True)]), found.wide)
        for side in (False, True)
    ]
    labels = np.arange(found.anomalous, dtype=np.uint32)
    with sorting.SortedKeys((found.normal, found.anomalous), found.dtype, 4000, tagged) as store:
        store.add(0, every[0])
        store.add(1, every[1], labels if tagged else None)
        blocks = list(store.blocks())
    assert len(blocks) > 1 or blocks[0].repeats == (found.normal, found.anomalous)
    seen, last = ([], []), None
    for block in blocks:
        assert sum(keys.nbytes for keys in block.classes) <= max(2000, 256 * found.dtype.itemsize)
        keys = np.concatenate(block.classes)
        assert last is None or keys.max() < last or (tagged and keys.min() == keys.max() == last)
        last = keys.min()
        at, above = block.at_and_above(0, block.classes[1])
        np.testing.assert_array_equal(at, [np.sum(every[0] >= key) for key in block.classes[1]])
        np.testing.assert_array_equal(above, [np.sum(every[0] > key) for key in block.classes[1]])
        for keys, repeats, parts in zip(block.classes, block.repeats, seen, strict=True):
            parts.append(np.repeat(keys, repeats))
    np.testing.assert_array_equal(np.sort(np.concatenate(seen[1])), np.sort(every[1]))
    if tagged:
        tags = np.concatenate([block.tags for block in blocks])
        np.testing.assert_array_equal(np.sort(tags), labels)
        np.testing.assert_array_equal(every[1][tags], np.concatenate(seen[1]))
    else:
        np.testing.assert_array_equal(np.sort(np.concatenate(seen[0])), np.sort(every[0]))


def test_nothing_is_left_behind_when_a_metric_is_interrupted(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    masks, maps = scene("plain")
    blocks = ranks.sorted_classes(masks, maps, ranks.survey(masks, maps), 4000)
    next(blocks)
    blocks.close()
    store = sorting.SortedKeys((10**6, 1), np.uint32, 4000)
    with pytest.raises(KeyboardInterrupt), store:
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="closed file"):
        store.add(0, np.zeros(10**6, np.uint32))
    assert not list(tmp_path.iterdir())
    with sorting.SortedKeys((3, 0), np.uint32) as counted, pytest.raises(ValueError, match="more keys"):
        counted.add(0, np.zeros(4, np.uint32))


@pytest.mark.parametrize("name", EVERY)
def test_the_limit_is_kept_on_memory_mapped_maps(name, tmp_path):
    """4 million pixels, 16 MB of keys: 3 MB may be held, besides what does not grow with the pixels."""
    rng, shape, mapped = np.random.default_rng(0), (64, 250, 250), []
    maps = rng.random(shape, np.float32)
    for values in ((maps > 0.8) & (rng.random(shape, np.float32) < 0.1), maps):
        stored = np.lib.format.open_memmap(tmp_path / f"{len(mapped)}.npy", "w+", values.dtype, shape)
        stored[:] = values
        mapped.append(stored)
    peaks, found = [], []
    for memory in (3e6, 1e9):
        tracemalloc.start()
        found.append(EVERY[name](*mapped, memory=memory))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    besides = 4e6 + (64 * 200e3 + 5e6 if name == "bootstrap" else 0)  # the images' histograms, and draws of them
    assert str(found[0]) == str(found[1])
    assert peaks[0] < 3e6 + besides and peaks[1] > 16e6
