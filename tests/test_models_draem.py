"""DRAEM: its networks, its loss by the formula, its rates; the SavedModel of both methods, regions included."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY, Tiny

from ganspect.models import losses
from ganspect.models.draem import DRAEMConfig, build_reconstructive


def test_parameter_counts_are_those_of_the_code():
    """97.4 million with the U-Net's 28.4: that of the PyTorch layers, moving statistics included here."""
    network = build_reconstructive(3, 128)
    assert network.count_params() == 69_070_083
    assert network.output_shape == (None, None, None, 3)
    widths = [layer.filters for layer in network.layers if hasattr(layer, "filters")]
    encoder = [128, 128, 256, 256, 512, 512, 1024, 1024, 1024, 1024]
    assert widths == encoder + [1024, 1024, 512, 512, 512, 256, 256, 256, 128, 128, 128, 128, 3]


def test_no_two_layers_start_with_the_same_values():
    network = build_reconstructive(3, 2)
    kernels = [w for w in network.get_weights() if w.ndim == 4]
    assert all(abs(kernel.std() / 0.02 - 1) < 0.5 for kernel in kernels)
    for i, one in enumerate(kernels):
        assert not any(one.shape == other.shape and np.array_equal(one, other) for other in kernels[:i])


def test_loss_of_a_batch_by_the_formula():
    detector, batch = TINY["draem"].build(), TINY["draem"].batch()
    found = {name: float(value) for name, value in detector.losses(batch, training=False).items()}
    rebuilt = np.asarray(detector.reconstruct(batch["corrupted"]))
    marked = np.asarray(detector.probabilities(rebuilt, batch["corrupted"]))
    assert found["squared"] == pytest.approx(((batch["images"] - rebuilt) ** 2).mean(), rel=1e-4)
    ssim = float(losses.structural_similarity(batch["images"], rebuilt))
    assert found["dissimilarity"] == pytest.approx(1 - ssim, rel=1e-4)
    assert found["focal"] == pytest.approx(float(losses.focal_loss(marked, batch["mask"])), rel=1e-4)
    assert found["loss"] == pytest.approx(found["squared"] + found["dissimilarity"] + found["focal"], rel=1e-5)


def test_the_segmentation_loss_reaches_the_reconstructive_network():
    """One optimiser, one sum: in DRAEM the marked map teaches the reconstruction, in GRD-Net it does not."""
    detector, batch = TINY["draem"].build(), TINY["draem"].batch()
    variables = [v.value for v in detector.reconstructive.trainable_variables]
    with tf.GradientTape() as tape:
        focal = detector.losses(batch, training=True)["focal"]
    gradients = tape.gradient(focal, variables)
    assert sum(float(tf.reduce_sum(tf.abs(g))) for g in gradients) > 0


def test_rates_drop_after_80_and_90_percent():
    detector = TINY["draem"].build(schedule_epochs=10)
    rates = [detector.rates([{}] * done)["networks"] for done in range(11)]
    assert rates == pytest.approx([3e-4] * 8 + [6e-5] + [1.2e-5] * 2)


@pytest.mark.parametrize("name", ["draem", "grdnet"])
def test_moving_statistics_keep_the_share_that_is_asked_for(name):
    """The same batch moves them from their initial values by 1 - momentum, in each network."""
    images, moved = TINY[name].batch()["corrupted"], {}
    for momentum in (0.9, 0.99):
        detector = TINY[name].build(norm_momentum=momentum)
        networks = {detector.segmentation: np.concatenate([images, images], -1)}
        networks |= {detector.reconstructive: images} if name == "draem" else {}
        norms = [layer for network in networks for layer in network.layers if hasattr(layer, "moving_mean")]
        before = [layer.moving_variance.numpy() for layer in norms]
        for network, seen in networks.items():
            network(seen, training=True)
        changes = [one.moving_variance.numpy() - value for one, value in zip(norms, before, strict=True)]
        moved[momentum] = np.concatenate([change.ravel() for change in changes])
    assert all(np.any(changes) for changes in moved.values())
    np.testing.assert_allclose(moved[0.99], moved[0.9] / 10, rtol=2e-3, atol=1e-6)
    with pytest.raises(ValueError, match="norm_momentum"):
        TINY[name].build(norm_momentum=1.0)


def test_the_region_changes_nothing():
    batch, detector = TINY["draem"].batch(), TINY["draem"].build()
    rewind, logs = Tiny.rewinding(detector), []
    for roi in (batch["roi"], 1 - batch["roi"]):
        rewind()
        logs.append(detector.step(batch | {"roi": roi})["loss"])
    assert float(logs[0]) == float(logs[1])


@pytest.mark.parametrize("settings", [{"patch_size": 40}, {"image_size": 64}, {"batch_size": 0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError):
        DRAEMConfig(**settings)
