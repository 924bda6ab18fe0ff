"""Images that do not fit in memory: read, stacked and drawn from disk as they would be from memory."""

import math
import os
import subprocess
import sys
from pathlib import Path

import fit_on_disk
import numpy as np
import pytest

from ganspect.data import on_disk
from ganspect.data.arrays import load_category
from ganspect.data.corruption import CorruptedSampler
from ganspect.data.patches import PatchSampler, at_hand, sampled_dataset, stack_images
from ganspect.data.regions import with_regions
from ganspect.data.rotation import RotatedSampler
from ganspect.data.synthetic import make


def test_a_shelf_keeps_in_memory_what_has_room():
    shelf, arrays = on_disk.Shelf(300), [np.arange(120, dtype="uint8").reshape(2, 60) + i for i in range(4)]
    kept = [shelf.put(array) for array in arrays]
    assert [on_disk.is_on_disk(array) for array in kept] == [False, False, True, True]
    assert kept[0] is arrays[0]
    for array, copy in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(copy, array)


def test_the_limit_is_a_share_of_the_machine_or_what_the_environment_says(monkeypatch):
    monkeypatch.delenv(on_disk.VARIABLE, raising=False)
    assert 2**26 < on_disk.memory_limit() < 2**45
    monkeypatch.setenv(on_disk.VARIABLE, "1.5")
    assert on_disk.memory_limit() == 1_500_000
    assert not on_disk.is_on_disk(on_disk.zeros((3, 500_000))) and on_disk.is_on_disk(on_disk.zeros((3, 500_001)))


def test_a_category_is_read_to_disk(tmp_path, monkeypatch):
    folder = make(tmp_path, ("fibres",), size=64, train=6, good=2, per_defect=1) / "fibres"
    usual = load_category(folder)
    monkeypatch.setenv(on_disk.VARIABLE, "0.01")
    found = load_category(folder)
    assert any(on_disk.is_on_disk(image) for image in (*found.train, *found.test))
    assert found.fingerprint == usual.fingerprint
    for a, b in zip((*usual.train, *usual.test), (*found.train, *found.test), strict=True):
        np.testing.assert_array_equal(a, b)


def samplers(sizes):
    """One of each kind, with fewer and with more images in a batch than there are."""
    yield PatchSampler(sizes, 16, 24, 4)
    yield RotatedSampler(sizes, 16, 24, 2, rotation=math.pi, fill="crop")
    yield CorruptedSampler(sizes, 16, 16, 8, highest_scale=2)


@pytest.mark.parametrize("which", range(3))
def test_batches_are_the_same_from_disk(textures, which, monkeypatch):
    images = with_regions(textures, None) if which == 2 else textures
    stack, sizes = stack_images(images)
    monkeypatch.setenv(on_disk.VARIABLE, "0.01")
    stored, _ = stack_images(images)
    assert on_disk.is_on_disk(stored) and not on_disk.is_on_disk(stack)
    sampler = list(samplers(sizes))[which]
    both = [sampled_dataset(some, sampler, lambda x: x, epochs=2, first_step=1) for some in (stack, stored)]
    count = 0
    for ours, theirs in zip(*both, strict=True):
        count += 1
        for a, b in zip(*([x] if not isinstance(x, dict) else x.values() for x in (ours, theirs)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert count == 2 * sampler.steps - 1


def test_of_a_stack_on_disk_only_the_images_of_a_batch_are_read(textures):
    stack, sizes = stack_images(textures)
    stored = on_disk.zeros(stack.shape, limit=0)
    stored[:] = stack
    row = {"image": np.array([2, 0, 2, 2]), "top": np.zeros(4)}
    images, drawn = at_hand(stored, row)
    assert images.shape[0] == 4 and not on_disk.is_on_disk(images)
    np.testing.assert_array_equal(images[drawn["place"]], stack[row["image"]])
    assert at_hand(stack, row) == (stack, row)


def test_training_from_disk_equals_training_from_memory():
    fit_on_disk.main()


def test_many_images_on_disk_share_a_few_files():
    """Each mapping takes a file descriptor, of which a process has about a thousand."""
    before, shelf = len(os.listdir("/proc/self/fd")), on_disk.Shelf(limit=0)
    arrays = [np.full((5, 7 + i % 3), i, dtype) for i in range(200) for dtype in ("uint8", "float32")]
    kept = [shelf.put(array) for array in arrays]
    assert all(map(on_disk.is_on_disk, kept)) and len(os.listdir("/proc/self/fd")) <= before + 2
    for array, copy in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.slow
def test_training_from_disk_equals_training_from_memory_on_jax():
    pytest.importorskip("jax")
    script = Path(__file__).with_name("fit_on_disk.py")
    done = subprocess.run([sys.executable, script], env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
