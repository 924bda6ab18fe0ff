"""Training on several devices: the result of one; on virtual processors, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_methods import TINY

from ganspect.data.patches import stack_images
from ganspect.reproduce.cli import main
from ganspect.training.devices import ONE, Devices, NoDevices
from ganspect.training.fit import fit

HERE = Path(__file__).parent


def found_by(backend, folder, *methods, **settings):
    """What two_devices.py prints."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **settings}
    command = [sys.executable, HERE / "two_devices.py", folder, *methods]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_devices_take_the_step_of_one(tmp_path):
    """Losses divided by their number, noise of all rows, statistics of all rows; BatchNorm of its own rows does not."""
    found = found_by("tensorflow", tmp_path)
    one, two, apart = (np.array(values) for values in found["weights"])
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
    assert np.abs(apart - one).max() > 0.1
    first, second = np.array(found["masks"])
    assert (first != second).sum() > 10 and (first > 0).any() and (second > 0).any()  # no unit dropped on both alike


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize("name", TINY)
def test_every_method_trains_on_two_devices_as_on_one(name, backend, tmp_path):
    """By gradient descent, which hides no factor; and with a checkpoint between, to the bit as without.

    Where a network normalises a batch of two or four, rounding is enlarged: 3e-3 of what the weights move, else 1e-5.
    On JAX, where two devices round otherwise than one, it grows from step to step: GRD-Net learns there at a rate at
    which it does not. DRAEM's gradient is too uneven for that at any rate: one rounding more or less in the first
    weights on one device changes what it learns by as much, which bounds what two devices may.
    """
    if backend == "jax":
        pytest.importorskip("jax")
    slowly = {"grdnet": {"RATE": "1e-5"}, "draem": {"RATE": "1e-5", "NUDGE": "2e-7"}}
    settings = slowly.get(name, {}) if backend == "jax" else {}
    found = found_by(backend, tmp_path, name, **settings)[name]
    moved, apart = np.array(found["moved"]), np.array(found["apart"])
    near = 1e-5 if name in ("fcbigan", "cbigan") else 3e-3
    assert moved.max() > 1e-3 and np.isfinite(moved).all()
    if settings:
        learned, rounding = np.array(found["learned"], bool), np.array(found["rounding"])
        bounds = 2 * rounding if "NUDGE" in settings else 1e-2 * moved
        assert 0 < moved[learned].max() and apart[learned].max() <= bounds[learned].max()
    else:
        assert (apart <= near * max(1.0, moved.max())).all()
    one, two = found["losses"]
    assert set(one) == set(two)
    for key in one:
        assert two[key] == pytest.approx(one[key], rel=near, abs=near), key
    assert found["resumed"]


def test_a_batch_must_divide_and_devices_must_be_there(textures):
    tiny = TINY["ganomaly"]
    detector = tiny.build()
    stack, sizes = stack_images(tiny.photographs(textures))
    with pytest.raises(ValueError, match="a batch of 4 does not divide between 3 devices"):
        fit(detector, stack, tiny.sampler(sizes, detector.config), 1, devices=Devices(3))
    with pytest.raises(NoDevices, match="--devices 1000: 1000 GPUs asked for"):
        Devices(1000).scope()


def test_devices_are_parsed():
    assert Devices.parse("1") == ONE and not ONE.several and str(ONE) == "1"
    assert Devices.parse("cpu:2") == Devices(2, "cpu") and str(Devices.parse("gpu:3")) == "3"
    for text in ("0", "-1", "two", "tpu:2", "cpu:", ""):
        with pytest.raises(ValueError, match="devices are N"):
            Devices.parse(text)


def test_the_command_refuses_other_devices(capsys):
    assert main(["reproduce", "fcbigan", "--devices", "many"]) == 1
    assert "--devices: devices are N (GPUs) or cpu:N" in capsys.readouterr().err
