"""Shared fixtures: a tiny FCBiGAN, tiny images, the real data."""

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes run side by side and are too small to share out
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import numpy as np
import pytest

from ganspect import models  # noqa: F401 - before TensorFlow is imported

# Graphs and networks are many objects that live on: looking through all of them again and again takes a twentieth of
# the time of these tests.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

FIRST = ("test_reproduce_cli.py", "test_contract.py", "test_backends.py", "test_training.py", "test_own.py")


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that two processes end together."""
    rank = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(FIRST)))


@pytest.fixture(autouse=True)
def graphs_as_traced(request):
    """Graphs of steps that run a few times are not rewritten first, which takes longer than the steps.

    Slow tests, and the processes that tests start, rewrite them as users' do.
    """
    if tensorflow := sys.modules.get("tensorflow"):
        usual = request.node.get_closest_marker("slow") is not None
        tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": not usual})


@pytest.fixture
def real_data():
    """The folder of real data sets (GANSPECT_DATA, or shared/data beside the project); skips where it is absent."""
    root = Path(os.environ.get("GANSPECT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data in {root}; set GANSPECT_DATA")
    return root


@pytest.fixture
def textures():
    """Three uint8 images `[H, W, 1]` of unequal size with structure at several scales."""
    rng = np.random.default_rng(0)
    images = []
    for height, width in ((72, 96), (80, 80), (64, 104)):
        y, x = np.mgrid[:height, :width]
        wave = 90 * np.sin(x / rng.uniform(2, 6)) * np.cos(y / rng.uniform(2, 6))
        images.append(np.clip(128 + wave + rng.normal(0, 20, (height, width)), 0, 255).astype("uint8")[..., None])
    return images


@pytest.fixture
def tiny_config():
    """FCBiGAN small enough for a step in milliseconds: 16-pixel patches, width 4."""
    from tiny_methods import TINY

    return TINY["fcbigan"].config


@pytest.fixture
def tiny():
    """A compiled tiny FCBiGAN."""
    from tiny_methods import TINY

    return TINY["fcbigan"].build()


@pytest.fixture
def without_tensorflow(tmp_path):
    """Environment of a machine that has JAX alone: in no process that starts in it can TensorFlow be imported."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = None\n")
    return {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(folder)}
