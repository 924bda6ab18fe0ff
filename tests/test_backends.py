"""TensorFlow and JAX run the same step to the same losses; the methods need no TensorFlow on JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from ganspect.models.fcbigan import FCBiGAN

HERE = Path(__file__).parent


def run(backend, path):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, HERE / "parity_steps.py", str(path), backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_three_steps_agree_between_backends(tmp_path):
    pytest.importorskip("jax")
    from parity_steps import CONFIG

    rng = np.random.default_rng(0)
    detector = FCBiGAN(CONFIG)
    weights = {f"w{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(detector.trainable_variables)}
    patches = rng.uniform(-1, 1, (3, 4, 16, 16, 1)).astype("float32")
    latents = rng.standard_normal((6, 4, 1, 1, 6)).astype("float32")
    np.savez(tmp_path / "start.npz", patches=patches, latents=latents, **weights)
    found = {backend: run(backend, tmp_path / "start.npz") for backend in ("tensorflow", "jax")}
    for ours, theirs in zip(found["tensorflow"]["losses"], found["jax"]["losses"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-6)
    assert found["tensorflow"]["losses"][0] != found["tensorflow"]["losses"][2]
    assert all(np.isfinite(f["score"]) and f["iterations"] == 2 for f in found.values())
