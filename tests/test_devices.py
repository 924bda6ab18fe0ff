"""Training on several devices: the result of one; on virtual processors, in processes of their own."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_methods import TINY

from ganspect.data.patches import stack_images
from ganspect.data.synthetic import make
from ganspect.reproduce.cli import main
from ganspect.training.devices import ONE, Devices, NoDevices
from ganspect.training.fit import fit

HERE = Path(__file__).parent


def found_by(backend, folder, *methods):
    """What two_devices.py prints."""
    jax = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_ENABLE_X64": "1"}
    environment = {**os.environ, "KERAS_BACKEND": backend, **jax}
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

    Methods with a U-Net are in float64 (`two_devices.py`): each network to 1e-6 of what its weights move. The others in
    float32: to 1e-5, or to 3e-3 where a network normalises a batch of two, which enlarges rounding.
    """
    if backend == "jax":
        pytest.importorskip("jax")
    found = found_by(backend, tmp_path, name)[name]
    moved, apart = found["moved"], found["apart"]
    near = 1e-5 if TINY[name].regions or name in ("fcbigan", "cbigan") else 3e-3
    assert all(0 < moved[network] < np.inf for network in moved), moved
    if TINY[name].regions:
        assert all(apart[network] <= 1e-6 * moved[network] for network in moved), (moved, apart)
    else:
        learned = max(far for network, far in moved.items() if network != "statistics")
        assert max(apart.values()) <= near * max(1.0, learned) and learned > 1e-3
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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grdnet", "draem"])
def test_a_u_net_trains_by_command_on_two_devices(method, tmp_path):
    """Its rate is a variable of both devices there, and its statistics are measured anew outside any step."""
    folder = make(tmp_path / "data", ("object",), size=64, train=16, good=2, per_defect=1) / "object"
    settings = ["width=1", "epochs=2", "batch_size=4", "statistics_batches=2"]
    command = ["-m", "ganspect.reproduce.cli", "train", "--method", method, "--data", folder, "--devices", "cpu:2"]
    command += ["--output", tmp_path / "detector", "--set", *settings]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / "detector" / "history.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["rate"]) for row in rows] == pytest.approx([1e-4, 1e-4])
