"""The PyTorch networks that benchmarks time beside ours are the same networks with the same losses."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from ganspect.models.draem import DRAEM, DRAEMConfig
from ganspect.models.ganomaly import GANomaly, GANomalyConfig
from ganspect.models.grdnet import GRDNet, GRDNetConfig

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
torch_networks = pytest.importorskip("torch_networks", reason="PyTorch is not installed", exc_type=ImportError)

pytestmark = pytest.mark.slow

EPSILON = (
    1e-3  # of Adam in its first step: without it a vanishing gradient moves by the whole rate, as rounding sends it
)
CASES = {
    "ganomaly": (GANomaly, GANomalyConfig(width=8, latent_size=5, batch_size=4), torch_networks.GANomalyStep),
    "draem": (DRAEM, DRAEMConfig(image_size=64, patch_size=64, width=4, batch_size=2), torch_networks.DRAEMStep),
    "grdnet": (
        GRDNet,
        GRDNetConfig(image_size=64, patch_size=64, width=4, stages=3, batch_size=2),
        torch_networks.GRDNetStep,
    ),
    "grdnet_dense": (
        GRDNet,
        GRDNetConfig(
            image_size=64,
            patch_size=64,
            width=4,
            stages=2,
            bottleneck="dense",
            residual=False,
            latent_size=9,
            batch_size=2,
        ),
        torch_networks.GRDNetStep,
    ),
}


def batch_of(name, config):
    """float32 images in the method's range, or a dict of them."""
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.patch_size, config.patch_size)
    images = rng.random((*shape, config.channels)).astype("float32")
    if name == "ganomaly":
        return 2 * images - 1
    mask, roi = (rng.random((2, *shape, 1)) < 0.3).astype("float32")
    return {"images": images, "corrupted": images * (1 - mask) + 0.5 * mask, "mask": mask, "roi": roi}


def pair(name, **settings):
    """A compiled detector and the PyTorch step with its weights, scaled so that outputs are not all alike."""
    method, config, kind = CASES[name]
    detector, step = method(config), kind(config, **settings)
    detector.compile()
    for network in step.names:
        for v in getattr(detector, network).trainable_variables:
            v.assign(v * 5 if name != "grdnet_dense" and "kernel" in v.path and len(v.shape) == 4 else v)
        torch_networks.copy_weights(getattr(step, network), getattr(detector, network))
    for optimizer in detector.optimizers.values():
        optimizer.epsilon = EPSILON * float(1 - optimizer.beta_2) ** 0.5  # Keras' stands behind its correction
    for value in vars(step).values():
        for optimizer in value.values() if isinstance(value, dict) else [value]:
            for group in getattr(optimizer, "param_groups", []):
                group["eps"] = EPSILON
    return detector, step


@pytest.mark.parametrize("name", CASES)
def test_equal_weights_give_equal_losses_before_and_after_a_step(name):
    """The second step's losses see the gradients of all networks.

    Not DRAEM's: so narrow a network's gradients differ by 5 % between float32 and float64 in PyTorch itself.
    """
    detector, step = pair(name)
    batch = batch_of(name, detector.config)
    for network in step.names:
        ours = getattr(detector, network).trainable_variables
        theirs = [p for p in getattr(step, network).parameters()]
        assert sum(int(np.prod(v.shape)) for v in ours) == sum(p.numel() for p in theirs)
    for _ in range(1 if name == "draem" else 2):
        found = {k: float(v) for k, v in detector.step(batch).items()}
        other = {k: float(v) for k, v in step.step(torch_networks.images_first(batch)).items()}
        for key, value in other.items():
            assert found[key] == pytest.approx(value, rel=1e-4), key


def test_the_official_order_of_work_gives_the_same_step():
    batch = torch_networks.images_first(batch_of("ganomaly", CASES["ganomaly"][1]))
    steps = [pair("ganomaly", order=order)[1] for order in ("once", "official")]
    for _ in range(2):
        once, official = ({k: float(v) for k, v in step.step(batch).items()} for step in steps)
        assert once == pytest.approx(official, rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_channels_last_gives_the_same(name):
    batch = batch_of(name, CASES[name][1])
    found = []
    for layout in (False, True):
        step = pair(name, channels_last=layout)[1]
        found.append({k: float(v) for k, v in step.step(torch_networks.images_first(batch, "cpu", layout)).items()})
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_outputs_of_every_network_are_equal():
    for name in ("ganomaly", "draem", "grdnet"):
        detector, step = pair(name)
        batch = batch_of(name, detector.config)
        images = batch if name == "ganomaly" else batch["corrupted"]
        x = torch_networks.images_first(images)
        first = {"ganomaly": "encoder", "draem": "reconstructive", "grdnet": "encoder"}[name]
        ours = keras.ops.convert_to_numpy(getattr(detector, first)(images, training=True))
        theirs = getattr(step, first)(x)
        theirs = (theirs[0] if isinstance(theirs, tuple) else theirs).detach().numpy()
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(ours).max()
