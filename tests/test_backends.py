"""TensorFlow and JAX train with the same losses; the methods need no TensorFlow on JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from tiny_methods import TINY

from ganspect.training.checkpoint import Position, load_state

HERE = Path(__file__).parent


HEAVY = ("fcbigan", "cbigan", "fanogan", "anogan", "grdnet", "draem")  # to compile: before a release
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in TINY]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """`name -> {backend: {method: findings of parity_steps.py}}`, made when first asked for."""
    pytest.importorskip("jax")
    made = {}

    def find(name):
        group = (name,) if name in HEAVY else tuple(other for other in TINY if other not in HEAVY)
        if group not in made:
            made[group] = findings_of(group, tmp_path_factory.mktemp(f"parity_{group[0]}") / "start.npz")
        return made[group]

    return find


def findings_of(names, path):
    """What both backends find from the same weights, written to `path`; both processes run at once."""
    from parity_steps import starting_weights

    weights = {}
    for name in names:
        tiny = TINY[name]
        # the outputs of networks so narrow all but vanish
        larger = {"fcbigan": 6.0, "cbigan": 1.3, "fanogan": 1.3, "anogan": 2.0, "ganomaly": 4.0}.get(name, 1.0)
        for i, v in enumerate(starting_weights(tiny.build(**tiny.certain))):
            weights[f"{name}/{i}"] = keras.ops.convert_to_numpy(v) * (larger if "kernel" in v.path else 1.0)
    np.savez(path, **weights)
    running = {}
    for backend in ("tensorflow", "jax"):
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiles in half the time
        command = [sys.executable, HERE / "parity_steps.py", str(path), backend, *names]
        running[backend] = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    findings = {}
    try:
        for backend, process in running.items():
            output, errors = process.communicate(timeout=600)
            assert process.returncode == 0, f"{backend}: {errors[-3000:]}"
            findings[backend] = json.loads(output.splitlines()[-1]) | {"folder": path.parent}
    finally:
        for process in running.values():
            process.kill()
    return findings


@pytest.mark.parametrize("name", NAMES)
def test_losses_agree_between_backends(found, name):
    """Later steps agree less: what rounding did to the weights is in them.

    GANomaly, GRD-Net's U-Net and DRAEM normalise batches of two or four, whose variances the backends sum differently:
    their later steps are held to 1e-3. GANomaly's D ends in logits whose mean almost cancels: they are held to 1e-3 of
    a logit of size 1. f-AnoGAN's first
    step is held to what later steps are: it ends with weights that it has trained itself.
    """
    near = 1e-3 if name in ("ganomaly", "grdnet", "draem") else 1e-4
    cancelling = {"d_real", "d_fake"} if name == "ganomaly" else set()
    phases = [found(name)[backend][name]["losses"] for backend in ("tensorflow", "jax")]
    first = near if name == "fanogan" else 1e-5
    assert phases[1][0][0] == pytest.approx(phases[0][0][0], rel=first, abs=1e-6)
    for ours, theirs in zip(*phases, strict=True):
        for later, same in zip(theirs, ours, strict=True):
            assert set(later) == set(same)
            for key, value in same.items():
                assert later[key] == pytest.approx(value, rel=near, abs=1e-3 if key in cancelling else 1e-6), key
        assert len(ours) > 1 and all(abs(ours[0][key] - ours[-1][key]) > 1e-4 for key in ours[0])
    assert len(phases[0]) == len(TINY[name].every_phase)


@pytest.mark.parametrize("name", NAMES)
def test_samplers_cut_the_same_pixels_on_both_backends(found, name):
    ours, theirs = (found(name)[backend][name]["pixels"] for backend in ("tensorflow", "jax"))
    assert np.std(ours) > 1
    np.testing.assert_allclose(theirs, ours, atol=0.01)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_every_method_trains_and_scores_on_both_backends(found, backend, name):
    assert found(name)[backend][name]["drawn"] == (name not in ("ganomaly", "grdnet", "draem"))
    assert np.isfinite(found(name)[backend][name]["score"])
    iterations = {"fcbigan": [3, 3, 3], "cbigan": [2, 2], "fanogan": [2, 4, 4], "ganomaly": [3, 3], "anogan": [3, 3]}
    iterations |= {"grdnet": [3, 3, 3], "draem": [3]}
    assert found(name)[backend][name]["iterations"] == iterations[name]


@pytest.mark.parametrize("name", [p for p in NAMES if p.values[0] != "anogan"])  # whose scores draw random numbers
def test_what_the_other_backend_trained_scores_the_same_here(found, name):
    """Its checkpoint is loaded, with counters and seeds of another integer type."""
    other = "jax" if keras.backend.backend() == "tensorflow" else "tensorflow"
    theirs = found(name)[other]
    detector = TINY[name].build()
    position = load_state(theirs["folder"] / f"{name}.{other}.npz", detector.state)
    assert position == Position(len(TINY[name].every_phase))
    score = detector.anomaly_score(np.load(theirs["folder"] / f"{name}.npy"))
    assert score == pytest.approx(theirs[name]["score"], rel=1e-3)
    assert [int(optimizer.iterations) for optimizer in detector.optimizers.values()] == theirs[name]["iterations"]
